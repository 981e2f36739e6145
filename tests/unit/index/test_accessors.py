"""delete_accessor and locate: what a token opens, and what it does not tell."""

from __future__ import annotations

import pytest

from ostnode.errors import (
    BusyError,
    InvalidArgumentError,
    NotFoundError,
    OstError,
    TokenExpiredError,
    TokenInvalidError,
    UserUnknownError,
)
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import AccessToken, Scope, mint_access
from ostnode.ids import NULL_ACCESSOR, ClusterId
from ostnode.roles.index import Rules
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller
from tests.support.index_cluster import IndexCluster, an_index, blob


async def _heard(index: IndexCluster) -> list[e.FeedEvent]:
    events = await index.bucket.feed()
    return [event for event in events if isinstance(event, e.AccessorDeleted)]


async def test_the_app_deletes_a_chat_without_a_token_and_again() -> None:
    async with an_index() as index:
        general = index.general.principal
        for _ in range(2):
            assert await index.ask(index.app, m.DeleteAccessor(general)) == m.Ok()
        assert await _heard(index) == [e.AccessorDeleted(general)]


async def test_a_user_with_the_chats_word_deletes_it() -> None:
    async with an_index() as index:
        general = index.general.principal
        token = index.token(Scope.ACC_DEL, index.alice)
        assert await index.ask(index.alice, m.DeleteAccessor(general, token)) == m.Ok()
        assert await _heard(index) == [e.AccessorDeleted(general)]


async def test_b62_a_token_whose_reply_was_lost_finds_its_first_result(tmp_path) -> None:
    index = IndexCluster(Rules(accessor_deletions_per_day=1), tmp_path, 1)
    token = index.token(Scope.ACC_DEL, index.alice)
    request = m.DeleteAccessor(index.general.principal, token)
    async with index.open():
        await index.change(("register", index.alice, 0))
        assert await index.ask(index.alice, request) == m.Ok()
        assert await index.ask(index.alice, request) == m.Ok()
    async with index.open():
        assert await index.ask(index.alice, request) == m.Ok()
        other = m.DeleteAccessor(index.bob.proven, token)
        with pytest.raises(TokenInvalidError):
            await index.ask(index.alice, other)
        index.clock.time += 121
        with pytest.raises(TokenExpiredError):
            await index.ask(index.alice, request)


async def test_a_deletion_needs_the_right_word_from_the_right_mouth() -> None:
    async with an_index() as index:
        general = index.general.principal
        for token in (
            b"",
            b"nonsense",
            index.token(Scope.READ, index.alice),
            index.token(Scope.ACC_DEL, index.bob),
            index.token(Scope.ACC_DEL, index.alice, cluster=ClusterId(bytes(16))),
        ):
            with pytest.raises(TokenInvalidError):
                await index.ask(index.alice, m.DeleteAccessor(general, token))
        token = index.token(Scope.ACC_DEL, index.bob)
        with pytest.raises(UserUnknownError):
            await index.ask(index.bob, m.DeleteAccessor(general, token))
        assert await _heard(index) == []


async def test_the_null_accessor_cannot_be_deleted() -> None:
    async with an_index() as index:
        with pytest.raises(InvalidArgumentError):
            await index.ask(index.app, m.DeleteAccessor(NULL_ACCESSOR))


async def test_deletions_are_capped_per_user_and_day() -> None:
    async with an_index(Rules(accessor_deletions_per_day=2)) as index:

        async def delete(caller: Caller) -> None:
            chat = KeyPair.generate(index.rng)
            token = mint_access(chat, _acc_del(index, chat, caller))
            await index.ask(caller, m.DeleteAccessor(chat.principal, token))

        await index.change(("register", index.bob, 0))
        await delete(index.alice)
        await delete(index.alice)
        with pytest.raises(BusyError) as refused:
            await delete(index.alice)
        assert 0 < refused.value.details["retry_after_s"] <= 86_400
        await delete(index.bob)
        index.clock.time += refused.value.details["retry_after_s"]
        await delete(index.alice)


def _acc_del(index: IndexCluster, chat: KeyPair, caller: Caller) -> AccessToken:
    now = int(index.clock.now())
    return AccessToken(
        accessor=chat.principal,
        cluster=index.options.cluster_id,
        caller=caller.proven,
        scope=Scope.ACC_DEL,
        issued_at=now,
        expires_at=now + 60,
        cti=index.rng.token(16),
    )


async def test_a_reader_is_told_the_bucket_and_not_whether_the_blob_is_there() -> None:
    async with an_index(buckets=3) as index:
        held = await index.allocate(index.alice, blob(1), 10)
        general = index.general.principal
        token = index.token(Scope.READ, index.bob)
        assert await index.ask(index.bob, m.Locate(general, blob(1), token)) == held.bucket
        for number in range(2, 9):
            absent = blob(number << 240)
            answer = await index.ask(index.bob, m.Locate(general, absent, token))
            # As if it were there: the place an allocation would choose.
            assert answer == (await index.allocate(index.alice, absent, 10)).bucket


async def test_locate_denies_every_bad_token_alike() -> None:
    async with an_index() as index:
        await index.allocate(index.alice, blob(1), 10)
        general = index.general.principal
        old = index.token(Scope.READ, index.bob)
        index.clock.time += 300
        tokens = [
            b"",
            b"nonsense",
            old,
            index.token(Scope.ACC_DEL, index.bob),
            index.token(Scope.READ, index.alice),
            index.token(Scope.READ, index.bob, blob=blob(2)),
        ]
        answers = set()
        for token in tokens:
            with pytest.raises(OstError) as refused:
                await index.ask(index.bob, m.Locate(general, blob(1), token))
            answers.add((type(refused.value), refused.value.message))
        good = m.Locate(general, blob(1), index.token(Scope.READ, index.bob, blob=blob(1)))
        await index.ask(index.bob, good)
        await index.ask(index.app, m.DeleteAccessor(general))
        with pytest.raises(NotFoundError) as refused:
            await index.ask(index.bob, good)
        answers.add((NotFoundError, refused.value.message))
        assert answers == {(NotFoundError, "not found")}


async def test_a_blocked_reader_locates_nothing() -> None:
    async with an_index() as index:
        await index.ask(index.app, m.BlockPrincipal(index.bob.proven))
        token = index.token(Scope.READ, index.bob)
        with pytest.raises(NotFoundError):
            await index.ask(index.bob, m.Locate(index.general.principal, blob(1), token))


async def test_owners_locate_their_own_blobs_without_a_token() -> None:
    async with an_index() as index:
        alice = index.alice.proven
        with pytest.raises(NotFoundError):
            await index.ask(index.alice, m.Locate(alice, blob(1)))
        held = await index.allocate(index.alice, blob(1), 10)
        # The upload may be complete already: that the index hears of it takes a moment.
        assert await index.ask(index.alice, m.Locate(alice, blob(1))) == held.bucket
        await index.bucket.sync(index.bucket.completed(held))
        assert await index.ask(index.alice, m.Locate(alice, blob(1))) == held.bucket
        with pytest.raises(NotFoundError):
            await index.ask(index.bob, m.Locate(alice, blob(1)))
        with pytest.raises(NotFoundError):
            await index.ask(index.bob, m.Locate(index.bob.proven, blob(1)))
        await index.ask(index.app, m.BlockPrincipal(alice))
        with pytest.raises(NotFoundError):
            await index.ask(index.alice, m.Locate(alice, blob(1)))


async def test_without_any_bucket_nothing_is_found() -> None:
    index = IndexCluster(Rules(), None, 1)
    async with index.open():
        token = index.token(Scope.READ, index.bob)
        with pytest.raises(NotFoundError):
            await index.ask(index.bob, m.Locate(index.general.principal, blob(1), token))


async def test_b61_locate_tells_nothing_when_every_bucket_is_full() -> None:
    async with an_index() as index:
        placed = await index.allocate(index.alice, blob(1), 10)
        answers = set()
        await index.bucket.sync(index.bucket.completed(placed))
        for state, free in (("active", 9), ("full", 0)):
            await index.bucket.sync(space=m.Space(10, free, 1))
            assert [row.state for row in (await index.status()).buckets] == [state]
            for number in (1, 2):  # stored, and never heard of
                token = index.token(Scope.READ, index.bob)
                request = m.Locate(index.general.principal, blob(number), token)
                answers.add(await index.ask(index.bob, request))
        assert answers == {placed.bucket}
