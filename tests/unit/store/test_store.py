"""The facade: staging, waiting, reading, failing, closing."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ostnode.env import InlineWorker
from ostnode.errors import DataCorruptError
from ostnode.store.disk import RealDisk
from ostnode.store.errors import (
    NotAFileError,
    StoreFailedError,
    StoreLockedError,
    StoreOwnerError,
)
from ostnode.store.format import payload_digest
from ostnode.store.pace import Pace
from ostnode.store.record import Damage, NewRecord
from ostnode.store.segment import segment_name
from ostnode.store.simdisk import Faults, SimDisk
from ostnode.store.store import Store, StoreOptions
from tests.support.storekit import (
    BLOB,
    CHUNK,
    SMALL,
    chunk,
    dump,
    extents,
    names,
    opened,
    set_,
    unset,
)

FIRST_BATCH_SYNC = 8
"""The operation: reserve, create, allocate, names, header written and synced, batch written and."""


class GatedWorker(InlineWorker):
    """Holds the writer before each hop until the gate opens."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.waiting = 0

    async def run(self, function, *args):
        if function.__name__ == "_write_in_turn":
            self.waiting += 1
            await self.gate.wait()
        return await super().run(function, *args)


async def test_committed_records_are_found_again() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        staged = await store.commit([set_("a", "1"), chunk(b"hello"), set_("b", "2")])
        assert list(staged.seqs) == [1, 2, 3]
        assert store.next_seq == 4
        before = dump(store.durable)
    async with opened(disk) as store:
        assert dump(store.state) == dump(store.durable) == before
        assert store.problems == ()
        assert bytes(await store.read(extents(store.state)[0])) == b"hello"
        assert store.next_seq > 4


async def test_reads_of_parts_stop_at_the_end_of_the_payload() -> None:
    async with opened(SimDisk()) as store:
        await store.commit([chunk(b"0123456789")])
        extent = extents(store.state)[0]
        assert bytes(await store.read(extent, 3, 4)) == b"3456"
        assert bytes(await store.read(extent, 3, 4)) == b"3456"
        assert bytes(await store.read(extent, 8, 99)) == b"89"
        assert bytes(await store.read(extent, 99)) == b""


async def test_what_is_staged_can_be_read_before_it_is_durable() -> None:
    worker = GatedWorker()
    async with opened(SimDisk(), worker=worker) as store:
        staged = store.stage([chunk(b"0123456789", 7)])
        extent = extents(store.state)[0]
        assert bytes(await store.read(extent, 2, 3)) == b"234"
        digest = store.digest(extent)
        worker.gate.set()
        await staged.wait()
        assert store.digest(extent) == digest


async def test_b67_decisions_see_unsynced_effects_and_readers_do_not() -> None:
    worker = GatedWorker()
    async with opened(SimDisk(), worker=worker) as store:
        staged = store.stage([set_("a", "1")])
        assert store.state.get(b"Ma") == b"1"
        assert store.durable.get(b"Ma") is None
        await trio.testing.wait_all_tasks_blocked()
        later = store.stage([unset("a"), set_("b")])
        assert names(store.state) == ["b"]
        assert names(store.durable) == []
        assert not staged._batch.durable
        worker.gate.set()
        await later.wait()
        assert names(store.durable) == names(store.state) == ["b"]


async def test_b67_synced_waits_for_all_that_is_staged() -> None:
    worker = GatedWorker()
    async with opened(SimDisk(), worker=worker) as store:
        await store.synced()
        store.stage([set_("a")])
        with trio.move_on_after(0) as scope:
            await store.synced()
        assert scope.cancelled_caught
        worker.gate.set()
        await store.synced()
        assert names(store.durable) == ["a"]


async def test_what_arrives_during_a_sync_is_the_next_batch() -> None:
    worker = GatedWorker()
    disk = SimDisk()
    async with opened(disk, worker=worker) as store:
        first = store.stage([set_("a")])
        await trio.testing.wait_all_tasks_blocked()
        rest = [store.stage([set_(f"b{i}")]) for i in range(20)]
        assert len({id(staged._batch) for staged in rest}) == 1
        assert rest[0]._batch is not first._batch
        worker.gate.set()
        await rest[-1].wait()
        assert worker.waiting == 2
        assert disk.log.count("sync") == 3  # one of the new segment's header


async def test_a_batch_is_bounded_and_a_group_is_never_split() -> None:
    worker = GatedWorker()
    async with opened(SimDisk(), worker=worker, batch_bytes_max=4096) as store:
        groups = [store.stage([chunk(bytes(1500), i), chunk(bytes(1500), i)]) for i in range(3)]
        big = store.stage([chunk(bytes(6000), 9), set_("x")])
        batches = [staged._batch for staged in [*groups, big]]
        assert len({id(batch) for batch in batches}) == 4
        assert [len(batch.records) for batch in batches] == [2, 2, 2, 2]
        worker.gate.set()


async def test_a_cancelled_waiter_changes_nothing() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.commit([set_("a")])
        assert scope.cancelled_caught
        await store.synced()
    async with opened(disk) as store:
        assert names(store.state) == ["a"]


async def test_a_reducer_that_raises_changes_nothing() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        await store.commit([set_("a", "1")])
        before = store.next_seq
        with pytest.raises(ValueError, match="unknown kind"):
            store.stage([set_("a", "2"), set_("b"), unset("a"), NewRecord(9)])
        assert store.next_seq == before
        assert store.state.get(b"Ma") == b"1"
        assert names(store.state) == ["a"]
        await store.commit([set_("c")])
    async with opened(disk) as store:
        assert names(store.state) == ["a", "c"]


@pytest.mark.parametrize(
    "record",
    [
        NewRecord(0),
        NewRecord(200),
        NewRecord(CHUNK, blob=b"short"),
        NewRecord(CHUNK, number=-1),
        NewRecord(CHUNK, chunk_index=1 << 32),
        NewRecord(CHUNK, bytes(65 << 10)),
        NewRecord(CHUNK, b"x", digest=b"short"),
    ],
)
async def test_records_that_cannot_be_stored_are_refused(record: NewRecord) -> None:
    async with opened(SimDisk()) as store:
        with pytest.raises(ValueError, match=r"kind|bytes|range|segment"):
            store.stage([record])
        assert store.next_seq == 1
        assert dump(store.state) == {}


async def test_a_digest_that_is_given_is_the_one_that_is_stored() -> None:
    right, wrong = payload_digest(b"given"), payload_digest(b"other")
    async with opened(SimDisk()) as store:
        records = [NewRecord(CHUNK, b"given", number=n) for n in (1, 2)]
        given = zip(records, (right, wrong), strict=True)
        await store.commit([record._replace(digest=digest) for record, digest in given])
        good, bad = extents(store.state)
        assert bytes(await store.read(good)) == b"given"
        with pytest.raises(DataCorruptError):
            await store.read(bad)


async def test_an_empty_group_is_refused() -> None:
    async with opened(SimDisk()) as store:
        with pytest.raises(ValueError, match="at least one"):
            store.stage([])


async def test_segments_are_sealed_and_followed() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        for i in range(40):
            await store.commit([chunk(bytes([i]) * 5000, i)])
        assert len(disk.files) > 3
        for i, extent in enumerate(extents(store.state)):
            assert bytes(await store.read(extent)) == bytes([i]) * 5000
    stored = sum(len(inode.seen) for inode in disk.files.values())
    async with opened(disk) as store:
        assert [bytes(await store.read(e))[0] for e in extents(store.state)] == list(range(40))
        assert store.space().stored == stored
    assert disk.open_files == 0


async def test_a_log_that_is_only_read_stays_as_it_is() -> None:
    disk = SimDisk()
    for _ in range(3):
        async with opened(disk) as store:
            assert store.next_seq == 1
        assert disk.files == {}
        assert not any(what.startswith("write") for what in disk.log)


async def test_space_counts_what_is_stored_and_what_is_preallocated_as_free() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        empty = store.space()
        await store.commit([chunk(bytes(1000))])
        used = store.space()
    assert used.total == empty.total
    assert used.stored - empty.stored == 4096 + 96 + 1000
    assert empty.free - used.free == used.stored


@pytest.fixture
def failing() -> SimDisk:
    return SimDisk(faults=Faults(sync_errors=frozenset({FIRST_BATCH_SYNC})))


async def test_b44_a_failed_sync_is_final(failing: SimDisk) -> None:
    store: Store | None = None
    with pytest.RaisesGroup(StoreFailedError):
        async with opened(failing) as store:
            staged = store.stage([set_("a")])
            with pytest.raises(StoreFailedError, match="takes no more writes"):
                await staged.wait()
            assert store.durable.get(b"Ma") is None
            with pytest.raises(StoreFailedError):
                store.stage([set_("b")])
            with pytest.raises(StoreFailedError):
                await store.synced()
    assert failing.log.count("sync") == 2  # the header's and the one that failed
    assert failing.log[-1] == "sync"


async def test_b44_waiters_of_later_batches_hear_of_it_too(failing: SimDisk) -> None:
    with pytest.RaisesGroup(StoreFailedError):
        async with opened(failing) as store:
            staged = store.stage([set_("a")])
            later = store.stage([chunk(bytes(9000))])
            with pytest.raises(StoreFailedError):
                await later.wait()
            with pytest.raises(StoreFailedError):
                await staged.wait()


async def test_b44_what_a_failed_sync_lost_is_not_shown_after_a_restart() -> None:
    """The page cache shows the batch after the failure; shown means durable from then on."""
    for seed in range(40):
        disk = SimDisk(seed, Faults(sync_errors=frozenset({FIRST_BATCH_SYNC})))
        with pytest.RaisesGroup(StoreFailedError):
            async with opened(disk) as store:
                store.stage([set_("a"), chunk(bytes(3000))])
                await trio.sleep(1)
        again = disk.killed(seed)
        async with opened(again, seed=1) as store:
            shown = dump(store.state)
            last = again.power_lost(seed)
        async with opened(last, seed=2) as store:
            assert dump(store.state) == shown


async def test_b46_a_second_store_on_the_directory_is_refused() -> None:
    disk = SimDisk()
    async with opened(disk):
        with pytest.raises(StoreLockedError):
            async with opened(disk):
                raise AssertionError
    async with opened(disk):
        pass


async def test_another_buckets_directory_is_refused() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        await store.commit([set_("a")])
    with pytest.raises(StoreOwnerError, match="belongs to bucket"):
        async with opened(disk, owner=b"x" * 32):
            raise AssertionError
    async with opened(disk) as store:
        assert names(store.state) == ["a"]


async def test_leaving_writes_what_is_staged() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        store.stage([set_("a")])
    with pytest.raises(StoreFailedError, match="closed"):
        store.stage([set_("b")])
    async with opened(disk) as store:
        assert names(store.state) == ["a"]


async def test_leaving_under_cancellation_writes_what_is_staged() -> None:
    disk = SimDisk()
    with trio.CancelScope() as scope:
        async with opened(disk) as store:
            store.stage([set_("a")])
            scope.cancel()
            await trio.sleep_forever()
    assert disk.index.clean
    async with opened(disk) as store:
        assert names(store.state) == ["a"]


async def test_leaving_gives_up_on_a_stuck_disk(autojump_clock: trio.testing.MockClock) -> None:
    disk = SimDisk()
    worker = GatedWorker()
    started = trio.current_time()
    async with opened(disk, worker=worker) as store:
        staged = store.stage([set_("a")])
    assert trio.current_time() - started == pytest.approx(5)
    assert not disk.index.clean
    with pytest.raises(StoreFailedError, match="before the sync"):
        await staged.wait()


async def test_admission_waits_for_the_disk() -> None:
    worker = GatedWorker()
    async with opened(SimDisk(), worker=worker, queue_bytes_max=10_000) as store:
        async with store.admit(6000):
            staged = store.stage([chunk(bytes(6000))])
        with trio.move_on_after(0) as scope:
            async with store.admit(6000):
                raise AssertionError
        assert scope.cancelled_caught
        worker.gate.set()
        await staged.wait()
        async with store.admit(6000):
            pass


async def test_a_burst_is_closed_by_one_marker(autojump_clock: trio.testing.MockClock) -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        await store.commit([set_("a")])
        before = len(disk.log)
        await trio.sleep(1)
        assert len(disk.log) == before + 2  # one write, one sync
        await trio.sleep(100)
        assert len(disk.log) == before + 2


async def test_no_marker_while_the_disk_is_busy(autojump_clock: trio.testing.MockClock) -> None:
    disk, worker = SimDisk(), GatedWorker()
    worker.gate.set()
    async with opened(disk, worker=worker) as store:
        await store.commit([set_("a")])
        worker.gate = trio.Event()
        store.stage([set_("b")])
        await trio.sleep(1)
        before = store.next_seq
        worker.gate.set()
        await trio.sleep(1)
        assert store.next_seq == before + 1


async def test_records_per_segment_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostnode.store.staging.SEGMENT_RECORDS_MAX", 10)
    disk = SimDisk()
    async with opened(disk) as store:
        for i in range(6):
            await store.commit([set_(f"k{i}{j}") for j in range(5)])
        with pytest.raises(ValueError, match="fits no segment"):
            store.stage([set_(f"{i}") for i in range(11)])
    assert len(disk.files) == 3
    async with opened(disk) as store:
        assert len(names(store.state)) == 30


@pytest.mark.parametrize("segment_bytes", [1 << 10, (1 << 32) + 1])
def test_segments_have_bounds(segment_bytes: int) -> None:
    with pytest.raises(ValueError, match="segment"):
        StoreOptions(segment_bytes=segment_bytes)


async def test_a_marker_that_does_not_fit_is_a_seal(autojump_clock: trio.testing.MockClock) -> None:
    disk = SimDisk()
    room = SMALL.segment_bytes - 4096
    async with opened(disk) as store:
        await store.commit([set_("a", "." * (room - 96 - 2 * 96 - 64 - 2))])
        await trio.sleep(1)
        assert disk.files["00000001.seg"].seen[-64:-56] == b"OstEnd\0\1"
        await store.commit([set_("b")])
    assert len(disk.files) == 2
    async with opened(disk) as store:
        assert names(store.state) == ["a", "b"]
        assert store.problems == ()


async def test_extents_pack_to_a_fixed_length() -> None:
    async with opened(SimDisk()) as store:
        await store.commit([chunk(b"x")])
        extent = extents(store.state)[0]
    assert len(extent.pack()) == 16
    assert (extent.segment, extent.offset, extent.length) == (1, 4096, 1)
    assert BLOB in next(iter(dump(store.state)))


@pytest.mark.parametrize("what", ["directory", "link"])
async def test_what_is_no_file_and_has_a_segments_name_is_refused_at_opening(
    tmp_path: Path, what: str
) -> None:
    """Not when its number comes up: by then records have been acknowledged."""
    async with opened(RealDisk(tmp_path)) as store:
        await store.commit([set_("a", "1")])
        before = dump(store.durable)
    last = max(info.number for info in store.segments())
    path = tmp_path / "segments" / segment_name(last + 1)
    path.mkdir() if what == "directory" else path.symlink_to(tmp_path / "unmounted")
    for _ in range(2):
        with pytest.raises(NotAFileError, match=path.name):
            async with opened(RealDisk(tmp_path)):
                pytest.fail("opened")
    path.rmdir() if what == "directory" else path.unlink()
    async with opened(RealDisk(tmp_path)) as store:
        assert dump(store.durable) == before
        await store.commit([set_("b", "2")])


async def test_a_directory_that_takes_a_segments_name_is_a_finding(tmp_path: Path) -> None:
    async with opened(RealDisk(tmp_path)) as store:
        await store.commit([set_("a", "1")])
        await store.roll()
        path = tmp_path / "segments" / segment_name(store.segments()[0].number)
        path.unlink()
        path.mkdir()
        result, found, after = None, [], 0
        while result is None or not result.done:
            result = await store.scrub(after, Pace(0))
            after, found = result.after_seq, [*found, *result.problems]
        assert {problem.what for problem in found} == {Damage.SEGMENT}
        path.rmdir()
