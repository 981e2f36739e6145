"""Results of calls and events that the stories of the other tests do not come by."""

from __future__ import annotations

import pytest

from ostnode.errors import (
    AllowanceExceededError,
    BusyError,
    InvalidArgumentError,
    NoBucketError,
    NotAuthorizedError,
    NotFoundError,
    TokenInvalidError,
    UserUnknownError,
)
from ostnode.identity.tokens import Scope
from ostnode.ids import SIZE_MAX
from ostnode.roles.bucket.records import Reason
from ostnode.roles.index import Rules
from ostnode.wire import accounts as ac
from ostnode.wire import checking as ck
from ostnode.wire import events as e
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from tests.support.index_cluster import ROOMY, IndexCluster, an_index, blob

REASONS = sorted({*Reason, "of a later version"} - {Reason.COMPLETED, Reason.NOT_HELD})


async def charged(index: IndexCluster, number: int, size: int) -> m.Allocation:
    held = await index.allocate(index.alice, blob(number), size)
    await index.bucket.sync(index.bucket.completed(held))
    return held


async def test_the_blocked_forward_release_and_delete_nothing() -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 10)
        general, gone = index.general.principal, index.bob.proven
        await index.ask(index.app, m.DeleteAccessor(gone))
        await index.ask(index.app, m.BlockPrincipal(index.alice.proven))
        before = await index.bucket.feed()
        for request in (
            m.CanForward(blob(1), 10),
            m.ReleaseGrant(held.grant_id),
            m.DeleteAccessor(general, index.token(Scope.ACC_DEL, index.alice)),
            m.DeleteAccessor(gone),  # not even what is done already
        ):
            with pytest.raises(NotAuthorizedError, match="blocked"):
                await index.ask(index.alice, request)
        assert e.AccessorDeleted(gone) in before
        assert await index.bucket.feed() == []
        await index.ask(index.app, m.BlockPrincipal(index.alice.proven, blocked=False))
        assert (await index.allocate(index.alice, blob(1), 10)).grant_id == held.grant_id


async def test_b30_a_block_is_the_principals_and_does_not_move_with_the_user() -> None:
    async with an_index() as index:
        await index.ask(index.app, m.BlockPrincipal(index.alice.proven))
        change = m.ChangePrincipal(index.alice.proven, index.bob.proven)
        await index.ask(index.app, change)
        assert not (await index.user(index.bob.proven)).blocked
        assert index.service.is_blocked(index.alice.proven)
        await index.allocate(index.bob, blob(1), 10)
        await index.ask(index.app, m.ChangePrincipal(index.bob.proven, index.alice.proven))
        with pytest.raises(NotAuthorizedError):
            await index.allocate(index.alice, blob(2), 10)


async def test_b30_what_a_user_has_left_is_free_and_what_is_gone_does_not_change() -> None:
    async with an_index() as index:
        uid = await index.uid(index.alice)
        await charged(index, 1, 100)
        await index.change(("register", index.bob, 5), ("delete", index.bob, 0))
        with pytest.raises(UserUnknownError):
            await index.ask(index.app, m.ChangePrincipal(index.bob.proven, index.general.principal))
        # The principal of a deleted user is free, and so is one that a user has left.
        await index.ask(index.app, m.ChangePrincipal(index.alice.proven, index.bob.proven))
        assert await index.change(("register", index.alice, 50)) == [""]
        assert await index.uid(index.bob) == uid != await index.uid(index.alice)
        assert await index.account(index.alice) == (0, 0)
        assert await index.account(index.bob) == (100, 0)


async def test_an_operator_needs_the_chats_word_as_users_do() -> None:
    async with an_index() as index:
        general = index.general.principal
        with pytest.raises(TokenInvalidError):
            await index.ask(index.operator, m.DeleteAccessor(general))
        token = index.token(Scope.ACC_DEL, index.operator)
        with pytest.raises(UserUnknownError):
            await index.ask(index.operator, m.DeleteAccessor(general, token))
        await index.change(("register", index.operator, 0))
        assert await index.ask(index.operator, m.DeleteAccessor(general, token)) == m.Ok()


async def test_a_forward_that_no_allocation_would_follow_is_refused_alike() -> None:
    async with an_index(Rules(user_grants_max=1, user_blobs_max=2)) as index:
        held = await index.allocate(index.alice, blob(1), 10)
        for request in (m.CanForward(blob(2), 10), m.Allocate(blob(2), 10)):
            with pytest.raises(BusyError, match="1 grants"):
                await index.ask(index.alice, request)
        assert await index.ask(index.alice, m.CanForward(blob(1), 10)) == held.allowance
        await index.bucket.sync(index.bucket.completed(held))
        await charged(index, 2, 0)
        for request in (m.CanForward(blob(3), 10), m.Allocate(blob(3), 10)):
            with pytest.raises(AllowanceExceededError, match="most allowed") as refused:
                await index.ask(index.alice, request)
            account = {"limit": 1000, "used": 10, "reserved": 0, "needed": 10}
            assert refused.value.details == account


async def test_a_grant_that_was_used_is_released_in_vain() -> None:
    async with an_index() as index:
        held = await charged(index, 1, 10)
        await index.bucket.feed()
        for _ in range(2):
            assert await index.ask(index.alice, m.ReleaseGrant(held.grant_id)) == m.Ok()
        assert await index.account(index.alice) == (10, 0)
        assert not [x for x in await index.bucket.feed() if isinstance(x, e.GrantRevoked)]


@pytest.mark.parametrize("reason", REASONS)
async def test_b53_whatever_ends_a_grant_frees_it_and_leaves_the_charge(reason: str) -> None:
    async with an_index() as index:
        await charged(index, 1, 100)
        free = await index.allocate(index.alice, blob(1), 100)
        held = await index.allocate(index.alice, blob(2), 200)
        assert await index.account(index.alice) == (100, 200)
        ended = [index.bucket.closed(each, reason) for each in (free, held)]
        result = await index.bucket.sync(*ended)
        assert [end.grant_id for end in result.closed] == [free.grant_id, held.grant_id]
        assert result.rejected == ()
        assert await index.account(index.alice) == (100, 0)
        for number, before in ((1, free), (2, held)):
            again = await index.allocate(index.alice, blob(number), 100 * number)
            assert again.grant_id != before.grant_id
            assert again.already_yours is (number == 1)


async def test_what_is_released_gives_back_what_was_charged_once() -> None:
    async with an_index() as index:
        held = await charged(index, 1, 100)
        await charged(index, 2, 200)
        uid = index.bucket.open(held).uid
        lies = [e.Released(uid, blob(1), size) for size in (SIZE_MAX, 0, 100)]
        assert (await index.bucket.sync(*lies)).rejected == ()
        assert await index.account(index.alice) == (200, 0)


async def test_evicted_ends_a_charge_that_was_not_to_be_evicted_and_nothing_else() -> None:
    """As the index may have been set back to before it asked."""
    async with an_index() as index:
        held = await charged(index, 1, 100)
        uid = index.bucket.open(held).uid
        said = [e.Evicted(uid, blob(1)), e.Evicted(uid, blob(1)), e.Evicted(uid, blob(7))]
        assert (await index.bucket.sync(*said)).rejected == ()
        assert await index.account(index.alice) == (0, 0)
        assert not (await index.allocate(index.alice, blob(1), 100)).already_yours


async def test_a_blocked_blobs_accounts_go_on() -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 10)
        left = await index.allocate(index.alice, blob(2), 20)
        for number in (1, 2):
            await index.ask(index.operator, ac.BlockBlob(blob(number)))
        # The bucket had it whole before it heard.
        await index.bucket.sync(index.bucket.completed(held))
        assert await index.account(index.alice) == (10, 20)
        await index.ask(index.alice, m.ReleaseGrant(left.grant_id))
        await index.bucket.sync(index.bucket.closed(left, "revoked"), index.bucket.released(held))
        assert await index.account(index.alice) == (0, 0)


async def test_b31_a_floor_beyond_all_time_is_set_aside() -> None:
    """Else no grant of that bucket would ever fit a row again."""
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 10)
        result = await index.bucket.sync(e.FloorRaised(SIZE_MAX), e.FloorRaised(5))
        assert [item.seq for item in result.rejected] == [1]
        assert await index.account(index.alice) == (0, 10)
        assert (await index.allocate(index.alice, blob(1), 10)).grant_id == held.grant_id
        await index.allocate(index.alice, blob(2), 10)
        # One that a clock gone wrong has raised for ages does not end the bucket's use.
        await index.bucket.sync(e.FloorRaised(1 << 61))
        assert await index.account(index.alice) == (0, 0)
        assert (await index.allocate(index.alice, blob(1), 10)).expires_at > 1 << 61


async def test_the_events_of_a_bucket_that_is_new_count_from_1() -> None:
    index = IndexCluster(Rules(), None, 1)
    async with index.open():
        await index.change(("register", index.alice, 1000))
        own = index.bucket.incarnation
        poison = index.rng.token(5)
        for incarnation, first, known in ((own, 2, 0), (own, 0, None), (0, 1, 0)):
            request = m.SyncBucket(incarnation, first, (poison,), ROOMY, "")
            with pytest.raises(InvalidArgumentError) as refused:
                await index.ask(index.bucket.caller, request)
            assert refused.value.details.get("bucket") == known
        assert (await index.status()).rejected_events == 0
        with pytest.raises(NoBucketError):
            await index.allocate(index.alice, blob(1), 1)
        assert (await index.bucket.sync()).acked_seq == 0
        await index.allocate(index.alice, blob(1), 1)


async def test_b63_what_only_a_revoked_bucket_holds_is_in_no_bucket() -> None:
    async with an_index(buckets=2) as index:
        held = await index.allocate(index.alice, blob(1), 10)
        await index.allocate(index.alice, blob(2), 10)
        bucket = index.bucket_of(held)
        await bucket.sync(bucket.completed(held))
        await index.ask(index.operator, mb.RevokeBucket(held.bucket.principal))
        own = m.Locate(index.alice.proven, blob(1))
        with pytest.raises(NoBucketError, match="revoked"):
            await index.allocate(index.alice, blob(1), 10)
        with pytest.raises(NotFoundError):
            await index.ask(index.alice, own)
        assert await index.account(index.alice) == (10, 10)
        # Forgotten, twice, the blob is nobody's and goes where there is a bucket.
        forget = ck.ForgetBucket(held.bucket.principal)
        while not (told := await index.ask(index.operator, forget)).done:
            pass
        assert told.charges == 1
        assert (await index.ask(index.operator, forget)).charges == 0
        again = await index.allocate(index.alice, blob(1), 10)
        assert again.bucket.principal != held.bucket.principal
        assert not again.already_yours
        assert await index.ask(index.alice, own) == again.bucket
