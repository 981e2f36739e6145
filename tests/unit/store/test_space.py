"""A disk that fills up: what is refused, what is still taken, and how it ends."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from ostnode.env import InlineWorker
from ostnode.store.errors import NoSpaceError, StoreFailedError, StoreFullError
from ostnode.store.simdisk import Faults, SimDisk
from ostnode.store.space import Space, reserve_bytes
from ostnode.store.staging import Want
from ostnode.store.store import Store
from tests.support.storekit import SMALL, chunk, count, dump, extents, names, opened, set_, unset

SEGMENT = SMALL.segment_bytes
RESERVE = reserve_bytes(SEGMENT)
ONE_SEGMENT = SEGMENT + 2 * RESERVE
"""A disk with room for the reserve, one segment and what is left to the key index."""


def disk_of(capacity: int, seed: int = 0) -> SimDisk:
    return SimDisk(seed, Faults(capacity=capacity))


async def fill(store: Store) -> int:
    """Chunks until one is refused, all durable; how many."""
    for number in range(1000):
        try:
            await store.commit([chunk(bytes(2000), number)])
        except StoreFullError:
            return number
    raise AssertionError("the disk never filled up")


async def set_all(store: Store, most: int = 1000) -> int:
    """Metadata until it is refused, all durable; how many."""
    for number in range(most):
        try:
            await store.commit([set_(f"k{number:03}")])
        except StoreFullError:
            return number
    return most


async def test_b43_bulk_is_refused_and_deletions_are_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = disk_of(ONE_SEGMENT)
    async with opened(disk) as store:
        chunks = await fill(store)
        assert chunks > SEGMENT // 2000 // 2
        before, seq = dump(store.state), store.next_seq
        with pytest.raises(StoreFullError, match=r"is full: 2200 bytes .* free some") as refused:
            store.stage([set_("a"), chunk(bytes(2000))])
        assert refused.value.needed == 2200
        assert refused.value.free < SEGMENT
        assert (dump(store.state), store.next_seq) == (before, seq)
        assert await set_all(store, most=30) == 30
        await store.commit([unset("k00")])
        assert len(names(store.durable)) == 20
        assert [bytes(await store.read(e)) for e in extents(store.state)] == [bytes(2000)] * chunks


async def test_b43_uploads_go_on_when_space_returns(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = disk_of(ONE_SEGMENT)
    async with opened(disk) as store:
        await fill(store)
        kept = await set_all(store)
        assert kept > 30
        with pytest.raises(StoreFullError):
            await store.commit([set_("more")])
        assert store.space().free == 0
        disk.faults.capacity = 1 << 20
        await trio.sleep(2)
        assert store.space().free > SEGMENT
        assert disk.kept == RESERVE
        await store.commit([set_("more"), chunk(bytes(9000), 5000)])
        assert await fill(store) > 100
    async with opened(disk) as store:
        assert len(names(store.state)) == kept + 1
        assert store.problems == ()


@pytest.mark.parametrize("rebuild", [False, True])
async def test_b43_a_store_killed_when_full_opens_and_takes_deletions(*, rebuild: bool) -> None:
    disk = disk_of(ONE_SEGMENT)
    with trio.CancelScope() as scope:
        async with opened(disk) as store:
            await fill(store)
            kept = await set_all(store, most=20)
            before = dump(store.durable)
            after = disk.killed(1)
            scope.cancel()
    after.faults = Faults(capacity=after.used())  # somebody took the last byte
    if rebuild:
        after.index.reset()
    async with opened(after, seed=1) as store:
        assert dump(store.state) == before
        assert kept == 20
        with pytest.raises(StoreFullError):
            await store.commit([chunk(bytes(2000))])
        await store.commit([unset("k")])
        assert names(store.durable) == []
    async with opened(after, seed=2) as store:
        assert names(store.state) == []


async def test_b43_a_new_store_on_a_full_disk_opens_and_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = disk_of(0)
    async with opened(disk) as store:
        with pytest.raises(StoreFullError):
            await store.commit([set_("a")])
        disk.faults.capacity = 1 << 20
        await trio.sleep(2)
        await store.commit([set_("a"), chunk(bytes(5000))])
    async with opened(disk) as store:
        assert names(store.state) == ["a"]


async def test_b43_a_key_index_without_room_gets_the_reserve() -> None:
    """And bulk is refused from then on, although the segment has room for it."""
    disk = disk_of(ONE_SEGMENT)
    async with opened(disk) as store:
        await store.commit([set_("a")])
        disk.faults.capacity = disk.used()
        number = 0
        while disk.kept == RESERVE:
            await store.commit([set_(f"k{number}")])
            number += 1
        assert disk.kept == RESERVE * 3 // 4
        with pytest.raises(StoreFullError):
            await store.commit([chunk(bytes(100))])
        await store.commit([set_("b")])
        assert {"a", "b"} < set(names(store.durable))


async def test_b43_a_batch_that_finds_no_room_at_all_waits_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Everything is refused meanwhile, nothing is acknowledged, and nothing is lost."""
    disk = SimDisk()
    async with opened(disk) as store:
        await store.commit([set_("a")])
        disk.faults.errors["commit"] = errno.ENOSPC
        staged = store.stage([set_("b")])
        await trio.sleep(3)
        assert not staged._batch.durable
        assert names(store.durable) == ["a"]
        syncs = disk.log.count("sync")
        for refused in (set_("c"), chunk(b"c")):
            with pytest.raises(StoreFullError):
                store.stage([refused])
            with pytest.raises(StoreFullError):
                store.admit(10)
        await trio.sleep(3)
        assert disk.log.count("sync") == syncs  # the log has the batch: only the index is behind
        del disk.faults.errors["commit"]
        await staged.wait()
        assert names(store.durable) == ["a", "b"]
        await store.commit([set_("c")])
    async with opened(disk) as store:
        assert names(store.state) == ["a", "b", "c"]


async def test_b44_a_failure_elsewhere_ends_a_store_that_waits_for_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = SimDisk()
    failed = pytest.RaisesExc(StoreFailedError, match="the key index is damaged")
    with pytest.RaisesGroup(failed, flatten_subgroups=True):
        async with opened(disk) as store:
            disk.faults.errors["commit"] = errno.ENOSPC
            staged = store.stage([set_("a")])
            await trio.sleep(3)
            store._parts.commit.fail(StoreFailedError("the key index is damaged"))
            with trio.fail_after(3), pytest.raises(StoreFailedError):
                await staged.wait()


async def test_b43_a_full_disk_keeps_its_open_segment(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What is left of it may be all there is for deletions."""
    disk = disk_of(ONE_SEGMENT)
    async with opened(disk) as store:
        await fill(store)
        await store.commit([set_("a")])
        before = store.segments()
        await store.roll()
        assert store.segments() == before
        disk.faults.capacity = 1 << 20
        await trio.sleep(2)
        await store.roll()
        assert store.segments()[-1].sealed


async def test_b43_a_file_system_that_cannot_preallocate_fills_up_under_a_batch(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The batch is written again from its beginning, and the segment is as it should be."""
    disk = disk_of(ONE_SEGMENT)
    disk.faults.preallocates = False
    async with opened(disk) as store:
        await store.commit([chunk(bytes(33_000), 1)])  # too large for zeros behind it
        disk.faults.capacity = disk.used() - RESERVE + 300
        staged = store.stage([set_("a", "." * 1000), set_("b"), count("c")])
        await trio.sleep(3)
        assert names(store.durable) == []
        assert disk.kept == 0
        disk.faults.capacity = 1 << 20
        await staged.wait()
        await trio.sleep(3)
        await store.commit([chunk(bytes(5000), 2)])
    disk.index.reset()
    async with opened(disk) as store:
        assert names(store.state) == ["a", "b"]
        assert dump(store.state)[b"Nc"] == b"1"
        assert [len(await store.read(extent)) for extent in extents(store.state)] == [33_000, 5000]
        assert store.problems == ()


async def test_b43_leaving_a_store_that_is_out_of_room_does_not_wait_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        disk.faults.errors["commit"] = errno.ENOSPC
        staged = store.stage([set_("a")])
        await trio.sleep(1)
        started = trio.current_time()
    assert trio.current_time() - started == pytest.approx(5)
    with pytest.raises(StoreFailedError):
        await staged.wait()
    disk.faults.errors.clear()
    async with opened(disk.killed(1)) as store:
        assert names(store.state) == ["a"]  # never acknowledged, and whole


async def test_groups_wait_while_the_next_segment_is_made() -> None:
    """And no longer: they are let in, in turn, when it is there."""

    class SlowFiles(InlineWorker):
        def __init__(self) -> None:
            self.gate = trio.Event()
            self.gate.set()

        async def run(self, function, *args):
            if function.__name__ == "provide":
                await self.gate.wait()
            return await super().run(function, *args)

    worker, entered = SlowFiles(), []

    async def push(number: int) -> None:
        async with store.admit(20_000):
            entered.append(number)
            staged = store.stage([chunk(bytes(20_000), number)])
        await staged.wait()

    async with opened(SimDisk(), worker=worker, queue_bytes_max=1 << 20) as store:
        worker.gate = trio.Event()
        for number in (1, 2):
            store.stage([chunk(bytes(20_000), number)])
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StoreFullError):
            store.stage([chunk(bytes(20_000), 3)])
        async with trio.open_nursery() as nursery:
            for number in range(3, 6):
                nursery.start_soon(push, number)
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(store.commit, [chunk(bytes(20_000), 6)])
            await trio.testing.wait_all_tasks_blocked()
            assert entered == []
            worker.gate.set()
        assert sorted(entered) == [3, 4, 5]
        assert len(extents(store.durable)) == 6


async def test_a_segment_is_made_ahead_only_when_it_will_be_needed() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        await store.commit([chunk(bytes(20_000))])
        assert list(disk.files) == ["00000001.seg"]
        await store.commit([chunk(bytes(20_000))])
        await store.commit([chunk(bytes(100))])
        assert sorted(disk.files) == ["00000001.seg", "00000002.seg"]
        assert store.space().free == disk.space()[1] + 2 * SEGMENT - used(store)
    assert sorted(disk.files) == ["00000001.seg"]


def used(store: Store) -> int:
    return store.space().stored


async def test_a_crash_leaves_nothing_of_files_made_ahead() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        for number in range(3):
            await store.commit([chunk(bytes(18_000), number)])
        assert len(disk.files) == 2
        after = disk.killed(1)
    async with opened(after, seed=1) as store:
        assert store.problems == ()
        assert len(extents(store.state)) == 3
    assert len(after.files) == 1


def test_a_file_grows_when_there_is_room_for_all_of_it() -> None:
    disk = disk_of(RESERVE + 2 * RESERVE + (16 << 10))
    space = Space(disk, 256 << 10)
    reserve = reserve_bytes(256 << 10)
    disk.faults.capacity = 2 * reserve + (16 << 10)
    assert space.provide(Want(1, urgent=True)) == 16 << 10
    assert space.whole
    disk.faults.capacity = 1 << 20
    assert space.provide(Want(1, urgent=False)) == 256 << 10
    assert len(disk.files["00000001.seg"].seen) == 256 << 10


def test_a_refused_file_gives_back_what_it_got() -> None:
    disk = disk_of(RESERVE + 100)
    space = Space(disk, SEGMENT)
    disk.space = lambda: (1 << 30, 1 << 30)  # somebody is quicker
    assert space.provide(Want(1, urgent=False)) == 0
    assert disk.room() == 100


def test_an_urgent_file_comes_out_of_the_reserve_bit_by_bit() -> None:
    disk = disk_of(RESERVE)
    space = Space(disk, SEGMENT)
    for number in range(1, 4):
        assert space.provide(Want(number, urgent=True)) == RESERVE // 4
        assert disk.kept == RESERVE - number * RESERVE // 4
        assert not space.whole
    assert space.provide(Want(4, urgent=True)) == 0
    assert disk.kept == RESERVE // 4  # for the key index


def test_what_does_not_fit_is_done_again_until_the_reserve_is_gone() -> None:
    space, calls = Space(disk_of(RESERVE), SEGMENT), 0
    space.provide(None)

    def action() -> None:
        nonlocal calls
        calls += 1
        raise NoSpaceError(errno.ENOSPC, "full")

    with pytest.raises(NoSpaceError):
        space.having_room(action)
    assert calls == 5


@pytest.mark.parametrize("what", ["create", "allocate", "sync names", "write", "sync", "commit"])
async def test_b44_an_io_error_ends_the_store_wherever_it_is(what: str) -> None:
    """It is not tried again, nobody is told that anything is stored, and the file is named."""
    disk = SimDisk()
    with pytest.RaisesGroup(StoreFailedError) as failed:
        async with opened(disk) as store:
            await store.commit([chunk(bytes(40_000), 1)])
            await trio.testing.wait_all_tasks_blocked()
            disk.faults.errors[what] = errno.EIO
            for number in (2, 3):
                with pytest.raises((StoreFailedError, StoreFullError)):
                    await store.commit([chunk(bytes(30_000), number)])
            assert len(extents(store.durable)) == 1
            with pytest.raises(StoreFailedError):
                store.stage([set_("a")])
    assert disk.log[-1].startswith(f"failed {what}")
    assert len([line for line in disk.log if line.startswith("failed")]) == 1
    message = str(failed.value.exceptions[0])
    name = {"sync names": "segments", "commit": "data.mdb"}.get(what, "0000000")
    assert "[Errno 5] Input/output error" in message
    assert name in message
    assert "kernel's log" in message
    disk.faults.errors.clear()
    async with opened(disk.killed(1), seed=1) as store:
        assert len(extents(store.state)) in {1, 2}
        assert store.problems == ()


async def test_b44_a_sync_that_fails_for_want_of_space_is_as_final_as_any() -> None:
    disk = SimDisk()
    with pytest.RaisesGroup(StoreFailedError):
        async with opened(disk) as store:
            await store.commit([set_("a")])
            disk.faults.errors["sync"] = errno.ENOSPC
            with pytest.raises(StoreFailedError):
                await store.commit([set_("b")])


@pytest.mark.parametrize("by_commit", [False, True])
async def test_memory_stays_bounded_with_ten_thousand_tasks(
    autojump_clock: trio.testing.MockClock, by_commit: bool
) -> None:
    """What is admitted or staged and not durable is never more than the queue's bound."""
    size, most = 1000, 0
    stores: list[Store] = []

    class Watching(InlineWorker):
        async def run(self, function, *args):
            nonlocal most
            await trio.sleep(0.001)  # others get their turn while the disk is busy
            for store in stores:
                parts = store._parts
                queued = sum(batch.nbytes for batch in parts.staging.queue)
                assert queued <= parts.commit.admission._used <= SMALL.queue_bytes_max + size
                most = max(most, parts.commit.admission._used)
            return await super().run(function, *args)

    async with opened(SimDisk(), worker=Watching()) as store:
        stores.append(store)

        async def task(number: int) -> None:
            record = chunk(bytes(size - 96), number)
            if by_commit:
                await store.commit([record])
                return
            async with store.admit(size):
                staged = store.stage([record])
            await staged.wait()

        async with trio.open_nursery() as nursery:
            for number in range(10_000):
                nursery.start_soon(task, number)
        assert len(extents(store.durable)) == 10_000
    assert most > SMALL.queue_bytes_max // 2
