"""Decisions about thousands of grants are carried out in slices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from ostnode.errors import BusyError
from ostnode.roles.index import Rules
from ostnode.roles.index.core import chores
from ostnode.wire import events as e
from ostnode.wire import messages as m
from tests.support.index_cluster import IndexCluster, an_index, blob


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch) -> None:
    monkeypatch.setattr(chores, "SLICE_GRANTS", 4)


async def grants(index: IndexCluster, count: int) -> list[m.Allocation]:
    return [await index.allocate(index.alice, blob(number), 10) for number in range(count)]


async def revoked(index: IndexCluster) -> set[bytes]:
    heard = await index.bucket.feed()
    return {each.grant_id for each in heard if isinstance(each, e.GrantRevoked)}


async def open_grants(index: IndexCluster) -> int:
    transact = index.service._transact
    return len(await transact(lambda tables: tables.grants.where()))


async def test_a_deleted_user_s_grants_are_revoked_some_at_once_all_soon(autojump_clock) -> None:
    async with an_index() as index:
        held = await grants(index, 11)
        await index.bucket.feed()
        await index.change(("delete", index.alice, 0), ("register", index.alice, 50))
        first = await revoked(index)
        assert 0 < len(first) <= 4
        await trio.sleep(2)
        assert first | await revoked(index) == {each.grant_id for each in held}
        assert await index.account(index.alice) == (0, 0)


async def test_a_floor_frees_what_it_has_passed_some_at_once_all_soon(autojump_clock) -> None:
    async with an_index() as index:
        held = await grants(index, 11)
        index.clock.time += 1
        await index.allocate(index.alice, blob(99), 7)
        await index.bucket.sync(e.FloorRaised(held[0].expires_at))
        assert 7 <= await open_grants(index) <= 11
        # One whose turn has not come is the grant it was, and may be renewed: it ends above.
        renewed = await index.allocate(index.alice, blob(10), 10)
        await trio.sleep(2)
        assert await index.account(index.alice) == (0, 17)
        assert await open_grants(index) == 2
        assert renewed.expires_at > held[0].expires_at


async def test_a_restart_goes_on(tmp_path, autojump_clock) -> None:
    index = IndexCluster(Rules(), tmp_path, 1)
    async with index.open():
        await index.bucket.sync()
        await index.change(("register", index.alice, 1000))
        held = await grants(index, 11)
        await index.change(("delete", index.alice, 0))
    async with index.open():
        await trio.sleep(2)
        index.bucket.cursor = (0, 0)
        assert await revoked(index) == {each.grant_id for each in held}


async def test_a_huge_size_that_somebody_claims_interrupts_nobody() -> None:
    async with an_index() as index:
        await index.change(("register", index.bob, 10_000))
        alices = await index.allocate(index.alice, blob(1), 100)
        bobs = await index.allocate(index.bob, blob(1), 9_000)
        await index.bucket.feed()
        await index.bucket.sync(index.bucket.closed(bobs, "bucket_full"))
        assert (await index.allocate(index.alice, blob(1), 100)).grant_id == alices.grant_id
        await index.allocate(index.bob, blob(1), 100)
        heard = await index.bucket.feed()
        assert not [each for each in heard if isinstance(each, e.GrantRevoked | e.GrantRecalled)]


async def test_grants_for_as_many_bytes_are_recalled_in_slices(autojump_clock) -> None:
    async with an_index() as index:
        others = [index.bob, *(replace(index.bob, principal=each) for each in people(index, 9))]
        await index.change(*(("register", each, 1000) for each in others))
        alices = await index.allocate(index.alice, blob(1), 100)
        held = [await index.allocate(each, blob(1), 100) for each in others]
        await index.bucket.feed()
        await index.bucket.sync(index.bucket.closed(alices, "bucket_full"))
        recalled = set()
        for _ in range(2):
            heard = await index.bucket.feed()
            recalled |= {each.grant_id for each in heard if isinstance(each, e.GrantRecalled)}
            await trio.sleep(2)
        assert recalled == {each.grant_id for each in held}
        with pytest.raises(BusyError, match="placed"):
            await index.allocate(index.alice, blob(1), 100)


async def test_a_bucket_that_knows_no_recall_is_told_to_revoke() -> None:
    async with an_index() as index:
        index.bucket.caller = replace(index.bucket.caller, features=frozenset())
        await index.change(("register", index.bob, 1000))
        alices = await index.allocate(index.alice, blob(1), 100)
        bobs = await index.allocate(index.bob, blob(1), 100)
        await index.bucket.sync(index.bucket.closed(alices, "bucket_full"))
        assert await revoked(index) == {bobs.grant_id}
        # Its end was named: it must not rise any more.
        with pytest.raises(BusyError, match="closed"):
            await index.allocate(index.bob, blob(1), 100)


def people(index: IndexCluster, count: int) -> list:
    return [type(index.bob.proven)(index.rng.token(32)) for _ in range(count)]
