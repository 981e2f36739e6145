"""evict_oldest: what makes room in an allowance that is full."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from ostnode.errors import AllowanceExceededError, BusyError, NoBucketError, OstError
from ostnode.ids import BlobId, Uid
from ostnode.roles.index import Rules
from ostnode.roles.index.core import eviction
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller
from tests.support.index_cluster import IndexCluster, an_index, blob


@asynccontextmanager
async def full(
    *sizes: int, limit: int = 100, rules: Rules | None = None, buckets: int = 1
) -> AsyncIterator[IndexCluster]:
    """Alice would rather lose her oldest blobs; she holds blobs 1, 2 … of these sizes."""
    async with an_index(rules or Rules(), buckets=buckets) as index:
        await let_evict(index, index.alice, limit)
        for bucket in index.buckets:
            await bucket.feed()
        for number, size in enumerate(sizes, 1):
            await hold(index, index.alice, blob(number), size)
            index.clock.time += 1
        yield index


async def let_evict(index: IndexCluster, who: Caller, limit: int) -> None:
    change = m.UserChange("register", who.proven, limit, "evict_oldest")
    assert await index.ask(index.app, m.ChangeUsers((change,))) == m.BatchResult((m.ItemResult(),))


async def hold(index: IndexCluster, who: Caller, blob_id: BlobId, size: int) -> m.Allocation:
    allocation = await index.allocate(who, blob_id, size)
    bucket = index.bucket_of(allocation)
    await bucket.sync(bucket.completed(allocation))
    return allocation


async def victims(index: IndexCluster, bucket: int = 0) -> list[int]:
    """The numbers of the blobs that the bucket is told to evict, in order."""
    heard = await index.buckets[bucket].feed()
    return [int.from_bytes(each.blob_id, "big") for each in heard if isinstance(each, e.EvictBlob)]


def uid_of(index: IndexCluster, allocation: m.Allocation) -> Uid:
    return index.bucket_of(allocation).open(allocation).uid


async def test_b27_the_oldest_make_room_and_no_more_than_needed() -> None:
    async with full(30, 30, 30) as index:
        allocation = await index.allocate(index.alice, blob(4), 40)
        assert await index.account(index.alice) == (60, 40)
        assert allocation.allowance == m.Allowance(100, 60, 40)
        assert await victims(index) == [1]
        await index.bucket.sync(index.bucket.completed(allocation))
        assert await index.account(index.alice) == (100, 0)


async def test_b27_what_fits_evicts_nothing() -> None:
    async with full(30, 30, 30) as index:
        await index.allocate(index.alice, blob(4), 10)
        assert await index.account(index.alice) == (90, 10)
        assert await victims(index) == []


async def test_b27_a_blob_that_cannot_fit_beside_what_is_reserved_evicts_nothing() -> None:
    async with full(30, 30) as index:
        await index.allocate(index.alice, blob(3), 40)
        with pytest.raises(AllowanceExceededError) as caught:
            await index.allocate(index.alice, blob(4), 61)
        assert caught.value.details == {"limit": 100, "used": 60, "reserved": 40, "needed": 61}
        assert await index.account(index.alice) == (60, 40)
        assert await victims(index) == []
        await index.allocate(index.alice, blob(4), 60)
        assert await index.account(index.alice) == (0, 100)
        assert await victims(index) == [1, 2]


async def test_b27_allocations_at_once_never_pick_the_same_victims() -> None:
    async with full(*[10] * 10) as index:
        async with trio.open_nursery() as nursery:
            for number in range(11, 16):
                nursery.start_soon(index.allocate, index.alice, blob(number), 20)
        assert await index.account(index.alice) == (0, 100)
        assert sorted(await victims(index)) == list(range(1, 11))
        with pytest.raises(AllowanceExceededError):
            await index.allocate(index.alice, blob(16), 1)


async def test_b27_a_victim_that_others_hold_stays_theirs() -> None:
    async with full(60) as index:
        await index.change(("register", index.bob, 100))
        await hold(index, index.bob, blob(1), 60)
        held = await index.allocate(index.alice, blob(2), 60)
        assert await victims(index) == [1]
        await index.bucket.sync(e.Evicted(uid_of(index, held), blob(1)))
        assert await index.account(index.bob) == (60, 0)
        await index.allocate(index.bob, blob(1), 60)
        assert await index.account(index.bob) == (60, 0)


async def test_a_blob_being_evicted_is_busy_until_the_bucket_says_that_it_is_gone() -> None:
    async with full(60) as index:
        held = await index.allocate(index.alice, blob(2), 60)
        await index.ask(index.alice, m.ReleaseGrant(held.grant_id))
        await index.bucket.sync(index.bucket.closed(held, "revoked"))
        for say in (None, e.Released(uid_of(index, held), blob(1), 60)):
            if say:
                await index.bucket.sync(say)
            for ask in (m.Allocate(blob(1), 60), m.CanForward(blob(1), 60)):
                with pytest.raises(BusyError, match="evicted"):
                    await index.ask(index.alice, ask)
        await index.bucket.sync(e.Evicted(uid_of(index, held), blob(1)))
        assert await index.account(index.alice) == (0, 0)
        assert not (await index.allocate(index.alice, blob(1), 60)).already_yours
        assert await index.account(index.alice) == (0, 60)


async def test_b60_a_blob_added_again_while_it_is_evicted_is_evicted() -> None:
    """Its grant was open before: the bucket completes it, and removes it all the same."""
    async with full(60) as index:
        again = await index.allocate(index.alice, blob(1), 60)
        assert again.already_yours
        held = await index.allocate(index.alice, blob(2), 60)
        await index.bucket.sync(index.bucket.completed(again))
        assert await index.account(index.alice) == (0, 60)
        assert await victims(index) == [1]
        released = e.Released(uid_of(index, held), blob(1), 60)
        evicted = e.Evicted(uid_of(index, held), blob(1))
        await index.bucket.sync(released, evicted, index.bucket.completed(held))
        assert await index.account(index.alice) == (60, 0)
        assert await victims(index) == []


async def test_b60_a_grant_that_finds_its_references_gone_ends_no_eviction() -> None:
    async with full(60) as index:
        again = await index.allocate(index.alice, blob(1), 60)
        held = await index.allocate(index.alice, blob(2), 60)
        await index.bucket.sync(index.bucket.closed(again, "not_held"))
        with pytest.raises(BusyError, match="evicted"):
            await index.allocate(index.alice, blob(1), 60)
        await index.bucket.sync(e.Evicted(uid_of(index, held), blob(1)))
        assert await index.account(index.alice) == (0, 60)


async def test_who_would_rather_be_refused_loses_nothing() -> None:
    async with full(60) as index:
        await index.change(("update", index.alice, 100))  # on_full is refuse again
        with pytest.raises(AllowanceExceededError):
            await index.allocate(index.alice, blob(2), 41)
        assert await victims(index) == []


async def test_a_lowered_limit_evicts_with_the_next_allocation() -> None:
    async with full(40, 40) as index:
        await let_evict(index, index.alice, 50)
        assert await index.account(index.alice) == (80, 0)
        assert await victims(index) == []
        await index.allocate(index.alice, blob(3), 5)
        assert await index.account(index.alice) == (40, 5)


async def test_most_blobs_allowed_evict_as_bytes_do() -> None:
    """Empty ones too, and only then."""
    async with full(0, 0, 5, 6, rules=Rules(user_blobs_max=4), limit=12) as index:
        await index.allocate(index.alice, blob(5), 6)
        assert sorted(await victims(index)) == [1, 2, 3]
    async with full(0, 5, 6, limit=12) as index:
        await index.allocate(index.alice, blob(4), 6)
        assert await victims(index) == [2]
    async with full(rules=Rules(user_blobs_max=1), limit=12) as index:
        await index.allocate(index.alice, blob(1), 6)
        with pytest.raises(AllowanceExceededError, match="most allowed"):
            await index.allocate(index.alice, blob(2), 6)


async def test_can_forward_tells_what_an_allocation_would_leave_and_evicts_nothing() -> None:
    async with full(30, 30, 30) as index:
        told = await index.ask(index.alice, m.CanForward(blob(4), 40))
        assert told == m.Allowance(100, 60, 40)
        assert await victims(index) == []
        assert told == (await index.allocate(index.alice, blob(4), 40)).allowance
        with pytest.raises(AllowanceExceededError):
            await index.ask(index.alice, m.CanForward(blob(5), 61))


async def test_thousands_of_victims_go_in_slices_within_one_call(monkeypatch) -> None:
    monkeypatch.setattr(eviction, "VICTIMS_MAX", 3)
    async with full(*[10] * 10) as index:
        told = await index.ask(index.alice, m.CanForward(blob(11), 95))
        allocation = await index.allocate(index.alice, blob(11), 95)
        assert allocation.allowance == m.Allowance(100, 0, 95)
        assert told.used <= 5
        assert await victims(index) == list(range(1, 11))


async def test_no_bucket_for_the_blob_evicts_nothing() -> None:
    async with full(60) as index:
        await index.bucket.sync(space=m.Space(1 << 40, 0, 1 << 40))
        with pytest.raises(NoBucketError):
            await index.allocate(index.alice, blob(2), 60)
        assert await index.account(index.alice) == (60, 0)


async def test_a_bucket_without_the_ledger_keeps_what_it_has() -> None:
    """Its blobs are not chosen, and when the others do not suffice nothing is."""
    async with full(buckets=2) as index:
        old = index.buckets[1]
        old.caller = replace(old.caller, features=frozenset())
        await old.feed()
        numbers: dict[int, list[int]] = {0: [], 1: []}
        for number in range(1, 100):
            allocation = await index.allocate(index.alice, blob(number << 248), 10)
            bucket = index.buckets.index(index.bucket_of(allocation))
            if len(numbers[bucket]) == 5:
                await index.ask(index.alice, m.ReleaseGrant(allocation.grant_id))
                await index.buckets[bucket].sync(
                    index.buckets[bucket].closed(allocation, "revoked")
                )
                continue
            numbers[bucket].append(number << 248)
            await index.buckets[bucket].sync(index.buckets[bucket].completed(allocation))
            if sum(map(len, numbers.values())) == 10:
                break
        with pytest.raises(AllowanceExceededError):
            await index.allocate(index.alice, blob(7), 51)
        assert await index.account(index.alice) == (100, 0)
        await index.allocate(index.alice, blob(7), 50)
        assert await victims(index) == numbers[0]
        assert await victims(index, 1) == []


async def test_deleting_a_user_leaves_evictions_to_the_bucket() -> None:
    async with full(60) as index:
        held = await index.allocate(index.alice, blob(2), 60)
        await index.change(("delete", index.alice, 0), ("register", index.alice, 100))
        uid = uid_of(index, held)
        await index.bucket.sync(
            index.bucket.closed(held, "user_deleted"),
            e.Released(uid, blob(1), 60),
            e.Evicted(uid, blob(1)),
        )
        assert await index.account(index.alice) == (0, 0)
        assert (await index.status()).charges == 0
        await index.allocate(index.alice, blob(1), 60)


async def test_an_eviction_survives_a_restart(tmp_path) -> None:
    index = IndexCluster(Rules(), tmp_path, 1)
    async with index.open():
        await index.bucket.sync()
        await let_evict(index, index.alice, 100)
        await index.bucket.feed()
        await hold(index, index.alice, blob(1), 60)
        held = await index.allocate(index.alice, blob(2), 60)
    async with index.open():
        with pytest.raises(OstError, match="evicted"):
            await index.allocate(index.alice, blob(1), 60)
        index.bucket.cursor = (0, 0)
        assert await victims(index) == [1]
        await index.bucket.sync(e.Evicted(uid_of(index, held), blob(1)))
        await index.ask(index.alice, m.CanForward(blob(1), 40))
