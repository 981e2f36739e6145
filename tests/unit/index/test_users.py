"""Registrations, principal changes, blocking."""

from __future__ import annotations

import pytest
import trio

from ostnode.errors import (
    NotAuthorizedError,
    UnknownCallError,
    UserExistsError,
    UserUnknownError,
)
from ostnode.roles.index import Rules
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import NOBODY, Caller
from ostnode.wire.status import ClusterStatus
from tests.support.index_cluster import IndexCluster, an_index, blob


async def test_users_see_their_own_account_and_admins_everyones() -> None:
    async with an_index() as index:
        info = await index.ask(index.alice, m.GetUser())
        assert info == await index.ask(index.operator, m.GetUser(index.alice.principal))
        assert info.allowance == m.Allowance(1000, 0, 0)
        assert (info.on_full, info.blocked) == ("refuse", False)
        with pytest.raises(NotAuthorizedError):
            await index.ask(index.bob, m.GetUser(index.alice.principal))
        with pytest.raises(UserUnknownError):
            await index.ask(index.bob, m.GetUser())


async def test_each_change_of_a_batch_has_its_own_result() -> None:
    async with an_index() as index:
        changes = (
            m.UserChange("update", index.bob.proven, 5),
            m.UserChange("register", index.bob.proven, 7),
            m.UserChange("register", index.alice.proven, 1, "evict_newest"),
            m.UserChange("adopt", index.alice.proven, 1),
            m.UserChange("delete", index.general.principal),
        )
        result = await index.ask(index.app, m.ChangeUsers(changes))
        codes = [item.code for item in result.results]
        assert codes == ["user_unknown", "", "invalid_argument", "invalid_argument", ""]
        assert "refuse" in result.results[2].message
        assert (await index.user(index.bob.proven)).allowance.limit == 7
        assert (await index.user(index.alice.proven)).allowance.limit == 1000


async def test_registering_again_updates_and_keeps_the_uid() -> None:
    async with an_index() as index:
        uid = await index.uid(index.alice)
        assert await index.change(("register", index.alice, 2000)) == [""]
        info = await index.user(index.alice.proven)
        assert (info.uid, info.allowance.limit) == (uid, 2000)


async def test_a_uid_is_never_given_twice() -> None:
    async with an_index() as index:
        first, *later = (index.rng.token(8) for _ in range(3))
        offered = iter([first, first, *later])
        index.rng.token = lambda length: next(offered)
        changes = ("register", index.bob, 1), ("delete", index.bob, 0), ("register", index.bob, 1)
        assert await index.change(*changes) == ["", "", ""]
        assert await index.uid(index.bob) == later[0]


async def test_b28_removed_and_registered_again_in_one_batch_can_upload() -> None:
    async with an_index() as index:
        old = await index.uid(index.alice)
        full = await index.allocate(index.alice, blob(1), 1000)
        changes = ("delete", index.alice, 0), ("register", index.alice, 1000)
        assert await index.change(*changes) == ["", ""]
        assert await index.uid(index.alice) != old
        # The new registration's own grant, for the blob the old one still has a grant for.
        again = await index.allocate(index.alice, blob(1), 1000)
        assert again.grant_id != full.grant_id
        assert again.bucket == full.bucket


async def test_b28_removed_then_added_in_the_order_given() -> None:
    async with an_index() as index:
        changes = ("register", index.bob, 5), ("delete", index.bob, 0)
        assert await index.change(*changes) == ["", ""]
        with pytest.raises(UserUnknownError):
            await index.user(index.bob.proven)


@pytest.mark.slow
async def test_b29_a_deleted_user_with_many_blobs_leaves_nothing() -> None:
    async with an_index(Rules(user_grants_max=2000)) as index:
        await index.change(("register", index.alice, 1 << 40))
        held = [await index.allocate(index.alice, blob(n), n) for n in range(1, 1102)]
        events = [index.bucket.completed(each) for each in held]
        for start in range(0, len(events), 500):
            await index.bucket.sync(*events[start : start + 500])
        pending = [await index.allocate(index.alice, blob(n), 1) for n in range(2000, 2050)]
        await index.change(("delete", index.alice, 0))
        status = await index.status()
        assert (status.users, status.charges, status.open_grants) == (0, 0, 0)
        assert (status.bytes_used, status.bytes_reserved) == (0, 0)
        revoked = {
            event.grant_id
            for _ in range(3)
            for event in await index.bucket.feed()
            if isinstance(event, e.GrantRevoked)
        }
        assert revoked == {each.grant_id for each in pending}
        await index.bucket.sync(*(index.bucket.closed(each, "user_deleted") for each in pending))
        released = [index.bucket.released(each) for each in held]
        for start in range(0, len(released), 500):
            await index.bucket.sync(*released[start : start + 500])
        assert (await index.status()).rejected_events == 0
        # No placement holds the blob to its bucket any more.
        assert await _rows(index, "grants") == []
        assert await _rows(index, "charges") == []
        assert await _rows(index, "placements") == []


async def _rows(index, table: str) -> list[object]:
    return await index.service._transact(lambda tables: getattr(tables, table).where())


async def test_b68_the_new_registration_lives_while_the_old_one_goes() -> None:
    async with an_index() as index:
        old = await index.allocate(index.alice, blob(1), 100)
        await index.bucket.sync(index.bucket.completed(old))
        await index.change(("delete", index.alice, 0), ("register", index.alice, 1000))
        new = await index.allocate(index.alice, blob(1), 100)
        assert not new.already_yours
        # The old uid's release arrives before, then after, the new one's completion.
        await index.bucket.sync(index.bucket.completed(new), index.bucket.released(old))
        assert await index.account(index.alice) == (100, 0)
        assert (await index.allocate(index.alice, blob(1), 100)).already_yours


async def test_events_of_deleted_and_unknown_uids_change_no_account(autojump_clock) -> None:
    async with an_index() as index:
        gone = await index.allocate(index.alice, blob(1), 100)
        completed = index.bucket.completed(gone)
        await index.change(("delete", index.alice, 0), ("register", index.alice, 1000))
        await index.bucket.feed()
        stranger = e.Released(type(completed.uid)(b"stranger"), blob(9), 5)
        await index.bucket.sync(completed, stranger)
        assert await index.bucket.feed(wait_ms=2000) == []
        assert await index.account(index.alice) == (0, 0)
        await index.bucket.sync(index.bucket.released(gone))
        assert await _rows(index, "placements") == []
        assert (await index.status()).rejected_events == 0


async def test_a_changed_principal_keeps_uid_grants_and_charges() -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 100)
        await index.bucket.sync(index.bucket.completed(held))
        pending = await index.allocate(index.alice, blob(2), 50)
        before = await index.user(index.alice.proven)
        change = m.ChangePrincipal(index.alice.proven, index.bob.proven)
        await index.ask(index.app, change)
        after = await index.user(index.bob.proven)
        assert (after.uid, after.allowance) == (before.uid, before.allowance)
        renewed = await index.allocate(index.bob, blob(2), 50)
        assert renewed.grant_id == pending.grant_id
        assert index.bucket.open(renewed).user == index.bob.principal
        with pytest.raises(UserUnknownError):
            await index.ask(index.app, change)


async def test_a_changed_principal_must_be_free() -> None:
    async with an_index() as index:
        await index.change(("register", index.bob, 5))
        with pytest.raises(UserExistsError):
            await index.ask(index.app, m.ChangePrincipal(index.alice.proven, index.bob.proven))
        same = m.ChangePrincipal(index.alice.proven, index.alice.proven)
        assert await index.ask(index.app, same) == m.Ok()


async def test_blocking_is_told_and_taken_back() -> None:
    async with an_index() as index:
        await index.bucket.feed()
        stranger = index.bob.proven
        for blocked in (True, True, False, True):
            await index.ask(index.app, m.BlockPrincipal(stranger, blocked))
            assert index.service.is_blocked(stranger) is blocked
        events = await index.bucket.feed()
        assert e.PrincipalBlocked(stranger, blocked=True, version=3) in events
        assert not index.service.is_blocked(index.alice.proven)


async def test_the_blocked_have_no_account_and_no_office() -> None:
    """Over peer links too, where no session stands between."""
    async with an_index() as index:
        another = Caller(index.bob.proven, index.app.kinds | index.operator.kinds)
        for caller, request in (
            (index.alice, m.GetUser()),
            (index.operator, ClusterStatus()),
            (index.app, m.DeleteAccessor(index.bob.proven)),
            (index.app, m.BlockPrincipal(index.app.proven, blocked=False)),
        ):
            await index.ask(another, m.BlockPrincipal(caller.proven))
            with pytest.raises(NotAuthorizedError):
                await index.ask(caller, request)


async def test_a_block_is_remembered_over_a_restart(tmp_path) -> None:
    index = IndexCluster(Rules(), tmp_path, 1)
    async with index.open():
        await index.ask(index.app, m.BlockPrincipal(index.alice.proven))
        await index.ask(index.app, m.BlockPrincipal(index.bob.proven))
        await index.ask(index.app, m.BlockPrincipal(index.bob.proven, blocked=False))
    async with index.open() as service:
        assert service.is_blocked(index.alice.proven)
        assert not service.is_blocked(index.bob.proven)


async def test_blocks_and_unblocks_at_once_leave_what_is_durable() -> None:
    async with an_index() as index:
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for blocked in (True, False, False, True):
                    nursery.start_soon(
                        index.ask, index.app, m.BlockPrincipal(index.bob.proven, blocked)
                    )
            await index.change(("register", index.bob, 1))
            durable = (await index.user(index.bob.proven)).blocked
            assert index.service.is_blocked(index.bob.proven) is durable


async def test_a_bucket_call_and_a_nobody_are_turned_away() -> None:
    async with an_index() as index:
        with pytest.raises(NotAuthorizedError):
            await index.ask(index.alice, ClusterStatus())
        with pytest.raises(NotAuthorizedError):
            await index.ask(Caller(index.alice.principal), m.Feed(0, 0, 0))
        with pytest.raises(Exception, match="prove who you are"):
            await index.ask(NOBODY, m.GetUser())
        with pytest.raises(UnknownCallError):
            await index.ask(index.alice, m.CancelUpload(blob(1)))
