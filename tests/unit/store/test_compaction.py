"""Compaction of a store that goes on working."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Container
from dataclasses import replace

import pytest
import trio
import trio.testing

from ostnode.errors import DataCorruptError
from ostnode.store.errors import NoSpaceError, StoreFailedError, StoreFullError
from ostnode.store.format import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, record_bytes
from ostnode.store.keyspace import Writer
from ostnode.store.memoryindex import MemoryIndex
from ostnode.store.output import Copy
from ostnode.store.pace import Pace
from ostnode.store.planning import Run
from ostnode.store.record import Damage, Record
from ostnode.store.segment import segment_name
from ostnode.store.simdisk import SimDisk, SimFile, copy_index
from ostnode.store.store import Store, StoreOptions
from tests.support.compactkit import (
    ADD,
    FREE,
    SET,
    KeepSchema,
    add,
    added_key,
    compact_all,
    count,
    extent_of,
    judge_all,
    opened,
    remove,
    rows_of,
    set_,
    touch,
    unset,
)


def body(number: int, size: int = 3000) -> bytes:
    return bytes([number % 251]) * size


async def fill(store: Store, numbers: range, size: int = 3000) -> None:
    for number in numbers:
        await store.commit([add(number, body(number, size)), set_(f"k{number}", "v"), count("all")])


async def intact(store: Store, numbers: list[int], size: int = 3000) -> None:
    for number in numbers:
        data = bytes(await store.read(extent_of(store.durable, number)))
        assert data == body(number, size)


async def rebuilt_is_the_same(disk: SimDisk, store: Store) -> None:
    """A copy of the disk as a kill leaves it, with and without its key index."""
    shown = rows_of(store.durable)
    for index in (None, MemoryIndex()):
        async with opened(disk.killed(0), index=index) as other:
            assert other.problems == ()
            assert rows_of(other.durable) == shown


async def test_b42_what_is_dead_goes_and_the_rest_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        await fill(store, range(100))
        for number in range(0, 100, 2):
            await store.commit([remove(number), unset(f"k{number}")])
        before, stored = rows_of(store.durable), store.space().stored
        done = await compact_all(store)
        assert sum(run.dropped for run in done) >= 90
        assert sum(run.freed for run in done) > 100_000
        assert store.space().stored < 0.65 * stored
        assert rows_of(store.durable) == rows_of(store.state) == before
        await intact(store, list(range(1, 100, 2)))
        await rebuilt_is_the_same(disk, store)
        assert disk.open_files <= len(disk.files) + 2
    async with opened(disk) as store:
        assert rows_of(store.durable) == before
        await intact(store, list(range(1, 100, 2)))


class Interfering(Pace):
    """Does something in the middle of a copy."""

    def __init__(self, act: Callable[[], Awaitable[None]]) -> None:
        super().__init__(0)
        self._act: Callable[[], Awaitable[None]] | None = act

    async def spend(self, nbytes: int) -> None:
        act, self._act = self._act, None
        if act is not None:
            await act()


async def sealed_run(store: Store) -> Run:
    """Everything that is sealed, as one run."""
    found = [await store.judge(info.number) for info in store.segments() if info.sealed]
    place = (found[0].first_seq, found[-1].last_seq)
    nbytes = sum(judgement.nbytes for judgement in found)
    return Run(tuple(judgement.number for judgement in found), *place, nbytes, 0)


async def filled(numbers: range, size: int = 3000) -> SimDisk:
    disk = SimDisk()
    async with opened(disk) as store:
        await fill(store, numbers, size)
    return disk


async def test_b42_deletes_and_more_during_the_copy_are_honoured(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await filled(range(30))
    async with opened(disk) as store:

        async def act() -> None:
            await store.commit([remove(3), add(4, b"anew"), touch(5), unset("k6")])

        await store.compact(await sealed_run(store), Interfering(act))
        assert store.durable.get(added_key(3)) is None
        assert bytes(await store.read(extent_of(store.durable, 4))) == b"anew"
        await intact(store, [0, 5, 29])
        dead = {info.number: info.dead_bytes for info in store.segments()}
        assert dead[max(dead)] >= 6000
        await rebuilt_is_the_same(disk, store)


async def test_b42_a_row_that_is_on_its_way_is_moved_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A batch that waits for the disk holds a row that it copied from an older one."""
    disk = await filled(range(20))

    class Touching(KeepSchema):
        """Stages a record between two slices of rows, without waiting for it."""

        moved = 0

        def relocate(self, record: Record, segments: Container[int], rows: Writer) -> None:
            super().relocate(record, segments, rows)
            Touching.moved += 1

    async with opened(disk, schema=Touching()) as store:
        run = await sealed_run(store)
        done = trio.Event()

        async def touching() -> None:
            while not done.is_set():
                for number in range(20):
                    store.stage([touch(number)])
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(touching)
            await store.compact(run, FREE)
            done.set()
        await store.synced()
        assert Touching.moved == 20
        await intact(store, list(range(20)))
        await rebuilt_is_the_same(disk, store)


async def test_b65_inputs_stay_while_somebody_reads_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await filled(range(20))
    async with opened(disk) as store:
        run = await sealed_run(store)
        pins = store._parts.reading.pins
        pin = pins.take(run.segments[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.compact, run, FREE)
            await trio.sleep(10)
            assert segment_name(run.segments[0]) in disk.files
            await intact(store, list(range(20)))
            pins.release(run.segments[0], pin)
        assert segment_name(run.segments[0]) not in disk.files
        assert len(store.segments()) == 1


async def test_b42_a_cancelled_copy_leaves_nothing(autojump_clock: trio.testing.MockClock) -> None:
    disk = await filled(range(30))
    async with opened(disk) as store:
        names = set(disk.files)
        run = await sealed_run(store)
        with trio.move_on_after(1) as waited:
            await store.compact(run, Interfering(trio.sleep_forever))
        assert waited.cancelled_caught
        assert set(disk.files) <= names | {segment_name(number) for number in range(1, 20)}
        await store.compact(run, FREE)
        await intact(store, list(range(30)))
        assert len([info for info in store.segments() if info.sealed]) == 1


async def test_b42_a_cancelled_swap_is_finished_by_the_next_compaction(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await filled(range(20))
    async with opened(disk) as store:
        run = await sealed_run(store)
        pins = store._parts.reading.pins
        pin = pins.take(run.segments[0])
        with trio.move_on_after(1) as waited:
            await store.compact(run, FREE)
        assert waited.cancelled_caught
        with trio.move_on_after(1) as waited:
            await store.compact(run, FREE)
        assert waited.cancelled_caught
        assert segment_name(run.segments[0]) in disk.files
        pins.release(run.segments[0], pin)
        with pytest.raises(ValueError, match="not adjacent sealed segments"):
            await store.compact(run, FREE)
        assert [info.generation for info in store.segments()] == [1]
        assert len(disk.files) <= 3
        await intact(store, list(range(20)))
        await rebuilt_is_the_same(disk, store)


async def test_b43_a_full_disk_ends_the_copy_and_nothing_else(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = await filled(range(20))
    async with opened(disk) as store:
        run, names = await sealed_run(store), set(disk.files)

        def full(*_: object) -> None:
            raise NoSpaceError(errno.ENOSPC, "full")

        with monkeypatch.context() as patch:
            patch.setattr(Copy, "_flush", full)
            with pytest.raises(StoreFullError):
                await store.compact(run, FREE)
        assert set(disk.files) == names
        await store.commit([remove(1)])
        await store.compact(run, FREE)
        await intact(store, [0, 19])


async def test_b44_a_failed_sync_of_the_output_fails_the_store(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await filled(range(20))
    with pytest.RaisesGroup(StoreFailedError, flatten_subgroups=True):
        async with opened(disk) as store:
            run = await sealed_run(store)
            disk.faults.sync_errors = frozenset(range(disk.operations, disk.operations + 1000))
            with pytest.raises(StoreFailedError):
                await store.compact(run, FREE)
            await trio.sleep(1)
            pytest.fail("the store went on")
    disk = disk.killed(0)
    async with opened(disk) as store:
        await intact(store, list(range(20)))


async def test_b41_damaged_records_are_copied_as_they_are_and_named(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await filled(range(20))
    async with opened(disk) as store:
        extent = extent_of(store.durable, 7)
        run = await sealed_run(store)
        name = segment_name(extent.segment)
        disk.flip(name, extent.offset + 200)
        disk.flip(name, disk.files[name].seen.find(b"k5=v"))
        done = await store.compact(run, FREE)
        assert done.dropped == 0
        assert [(p.what, p.kind) for p in done.problems] == [
            (Damage.PAYLOAD, SET),
            (Damage.PAYLOAD, ADD),
        ]
        assert done.problems[1].number == 7
        assert {p.segment for p in done.problems} == {done.output}
        with pytest.raises(DataCorruptError):
            await store.read(extent_of(store.durable, 7))
        await intact(store, [0, 6, 8, 19])
        shown = rows_of(store.durable)
    async with opened(disk.killed(0), index=MemoryIndex()) as store:
        assert [p.what for p in store.problems] == [Damage.PAYLOAD] * 2
        assert set(shown) - set(rows_of(store.durable)) == {b"Mk5"}


@pytest.mark.parametrize("what", ["bulk", "metadata"])
async def test_b42_what_cannot_be_read_is_not_copied_as_zeros(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The disk may read it the next time. What is dead nobody asks for."""
    disk, bad = SimDisk(), [0]
    read_into = SimFile.read_into

    def failing(file: SimFile, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        if any(offset <= at < offset + len(buffer) for at in bad):
            raise OSError(errno.EIO, "bad sector")
        return read_into(file, offset, buffer, wait=wait)

    async with opened(disk) as store:
        await fill(store, range(40))
        await store.commit([remove(number) for number in range(0, 40, 2)])
        work = store.compaction_pass()
        first = (await judge_all(store, work))[0]
        run = Run((first.number,), first.first_seq, first.last_seq, first.nbytes, 0)
        live = extent_of(store.durable, 1)
        record = live.offset + record_bytes(live.length) if what == "metadata" else live.offset
        before = list(disk.files)
        bad[:] = [record + RECORD_HEADER_BYTES + 2]
        monkeypatch.setattr(SimFile, "read_into", failing)
        with pytest.raises(OSError, match="bad sector"):
            await work.compact(run, FREE)
        assert list(disk.files) == before
        bad[:] = [SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 2]  # in a dead payload
        done = await work.compact(run, FREE)
        assert (done.problems, done.dropped > 0) == ((), True)
        await intact(store, [1, 3, 39])


async def test_b58_an_output_of_a_damaged_output_ends_where_its_records_do(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As the end of the log it says which sequence number is next."""
    disk = await filled(range(20))
    async with opened(disk) as store:
        await store.compact(await sealed_run(store), FREE)
        last = store.next_seq - 1
        disk = disk.killed(0)
    name = [name for name in disk.names() if any(disk.files[name].seen)][-1]
    disk.flip(name, len(disk.files[name].seen) - 8)
    async with opened(disk) as store:
        assert [problem.what for problem in store.problems] == [Damage.FOOTER]
        shown = rows_of(store.durable)
        await store.compact(await sealed_run(store), FREE)
        assert [info.last_seq for info in store.segments()] == [last]
        disk = disk.killed(0)
    async with opened(disk) as store:
        assert store.next_seq > last
        await store.commit([add(100, body(100))])
    async with opened(disk, index=MemoryIndex()) as store:
        assert store.problems == ()
        assert rows_of(store.durable).items() >= shown.items()


async def test_b58_tombstones_go_when_nothing_is_left_that_they_undo(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await filled(range(40))
    async with opened(disk) as store:
        for number in range(40):
            await store.commit([remove(number), unset(f"k{number}")])
    async with opened(disk) as store:
        shown = rows_of(store.durable)
        for _ in range(3):
            await compact_all(store)
        work = store.compaction_pass()
        left = await judge_all(store, work)
        assert sum(judgement.tombstone_bytes + judgement.dead_bytes for judgement in left) == 0
        assert all(judgement.clean for judgement in left)
        assert rows_of(store.durable) == shown
        await rebuilt_is_the_same(disk, store)


async def test_b42_without_a_pass_every_tombstone_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await filled(range(10))
    async with opened(disk) as store:
        await store.commit([remove(1)])
    async with opened(disk) as store:
        done = await store.compact(await sealed_run(store), FREE)
        assert done.dropped == 1
        (judgement,) = [await store.judge(done.output)]
        assert judgement.tombstone_bytes > 0
        assert judgement.generation == 1


async def test_b65_large_dead_payloads_are_punched_once_their_readers_are_done(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = SimDisk()
    options = StoreOptions(segment_bytes=1 << 20)
    async with opened(disk, options) as store:
        await fill(store, range(4), 100_000)
    async with opened(disk, options) as store:
        await store.commit([remove(1), remove(2)])
        number = store.segments()[0].number
        judgement = await store.judge(number)
        assert [extent.length for extent in judgement.punchable] == [100_000] * 2
        pins = store._parts.reading.pins
        pin = pins.take(number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.punch, judgement, FREE)
            await trio.sleep(10)
            assert disk.files[segment_name(number)].punched == 0
            pins.release(number, pin)
        info = store.segments()[0]
        assert info.nbytes - info.allocated == disk.files[segment_name(number)].punched > 180_000
        assert (await store.judge(number)).punchable == ()
        await intact(store, [0, 3], 100_000)
        twin = disk.killed(0)
        twin.flip(segment_name(number), info.nbytes - 1)
        async with opened(twin, options, index=MemoryIndex()) as other:
            assert [p.what for p in other.problems] == [Damage.FOOTER]
        await rebuilt_is_the_same(disk, store)
        assert await store.punch(replace(judgement, number=99), FREE) == 0


async def test_segments_say_what_is_heard_of_them(autojump_clock: trio.testing.MockClock) -> None:
    disk = await filled(range(40))
    async with opened(disk) as store:
        await fill(store, range(40, 43))
        await store.commit([remove(0), remove(42)])
        found = store.segments()
        assert [info.sealed for info in found] == [True] * (len(found) - 1) + [False]
        assert [info.first_seq for info in found[1:]] == [info.last_seq + 1 for info in found[:-1]]
        assert found[0].first_seq == 1
        assert found[-1].last_seq == store.next_seq - 1
        assert found[0].dead_bytes == found[-1].dead_bytes == record_bytes(3000)
        assert all(info.allocated >= info.nbytes > 0 for info in found)
        with pytest.raises(ValueError, match="not adjacent"):
            await store.judge(found[-1].number)


async def test_b45_an_index_from_before_a_compaction_is_rebuilt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await filled(range(20))
    old = copy_index(disk.index)
    async with opened(disk) as store:
        await store.commit([remove(3)])
    async with opened(disk) as store:
        await compact_all(store)
        await compact_all(store)
        shown = rows_of(store.durable)
    async with opened(disk, index=old) as store:
        assert rows_of(store.durable) == shown
        await intact(store, [0, 19])
