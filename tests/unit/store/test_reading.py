"""Reading back: verification, descriptors, cold reads."""

from __future__ import annotations

import errno
from random import Random

import pytest
import trio

from ostnode.env import InlineWorker
from ostnode.errors import DataCorruptError
from ostnode.store.record import Extent
from ostnode.store.segment import segment_name
from ostnode.store.simdisk import SimDisk, SimFile
from ostnode.store.store import Store
from tests.support.storekit import chunk, extents, opened

FIRST = segment_name(1)


async def test_b41_a_payload_that_rotted_is_refused_and_counted() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        await store.commit([chunk(b"good" * 100, 1), chunk(b"evil" * 100, 2)])
        good, evil = extents(store.state)
        disk.files[FIRST].seen[evil.offset + 96 + 7] ^= 1
        with pytest.raises(DataCorruptError, match="digest") as caught:
            await store.read(evil, 390, 4)
        assert caught.value.details == {"segment": 1, "offset": evil.offset}
        assert bytes(await store.read(good)) == b"good" * 100
        assert store.corrupt_reads == 1


async def test_without_verification_rot_is_not_seen() -> None:
    disk = SimDisk()
    async with opened(disk, verify_reads=False) as store:
        await store.commit([chunk(b"evil")])
        (extent,) = extents(store.state)
        disk.files[FIRST].seen[extent.offset + 96] ^= 1
        assert bytes(await store.read(extent)) == b"dvil"


async def test_a_verified_extent_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(SimDisk()) as store:
        await store.commit([chunk(b"x" * 1000)])
        (extent,) = extents(store.state)
        assert bytes(await store.read(extent, 5, 3)) == b"xxx"
        monkeypatch.setattr("ostnode.store.reading.blake3", None)
        assert bytes(await store.read(extent, 7, 4)) == b"xxxx"


@pytest.mark.parametrize("length", [1, 1000, 256 << 10, (256 << 10) + 1, 700_000])
async def test_any_slice_of_a_payload_is_verified_and_right(length: int) -> None:
    """The bytes before and behind the slice are hashed in pieces, also by a cold read."""
    data = Random(length).randbytes(length)
    places = sorted({0, 1, length // 3, length // 2, length - 1, length})
    async with opened(SimDisk(), segment_bytes=1 << 20, batch_bytes_max=1 << 20) as store:
        await store.commit([chunk(data)])
        (extent,) = extents(store.state)
        for start in places:
            for end in (place for place in places if place >= start):
                forget(store)
                got = memoryview(await store.read(extent, start, end - start))
                assert got == data[start:end]
        assert store.corrupt_reads == 0


@pytest.mark.parametrize("at", [0, 499_999, 500_000, 599_999, 600_000, 699_999])
async def test_b41_rot_anywhere_in_a_payload_refuses_every_slice(at: int) -> None:
    disk = SimDisk()
    async with opened(disk, segment_bytes=1 << 20, batch_bytes_max=1 << 20) as store:
        await store.commit([chunk(bytes(700_000))])
        (extent,) = extents(store.state)
        disk.files[FIRST].seen[extent.offset + 96 + at] ^= 1
        with pytest.raises(DataCorruptError, match="digest"):
            await store.read(extent, 500_000, 100_000)
        assert store.corrupt_reads == 1


async def test_a_slice_keeps_no_more_than_itself_in_memory() -> None:
    """A thousand slow readers of small slices would otherwise hold a thousand chunks."""
    async with opened(SimDisk(), segment_bytes=1 << 20, batch_bytes_max=1 << 20) as store:
        await store.commit([chunk(bytes(700_000))])
        (extent,) = extents(store.state)
        for _ in ("verifying", "verified"):
            got = memoryview(await store.read(extent, 1000, 2000))
            assert len(got.obj) <= 2000 + 96


async def test_what_is_hashed_but_not_asked_for_is_read_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_into = SimFile.read_into
    lengths: list[int] = []

    def noted(self: SimFile, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        lengths.append(len(buffer))
        return read_into(self, offset, buffer, wait=wait)

    async with opened(SimDisk(), segment_bytes=2 << 20, batch_bytes_max=2 << 20) as store:
        await store.commit([chunk(bytes(1_500_000))])
        (extent,) = extents(store.state)
        await store.read(extent, 0, 0)
        forget(store)
        monkeypatch.setattr(SimFile, "read_into", noted)
        await store.read(extent, 700_000, 1000)
        assert max(lengths) <= 256 << 10
        assert sum(lengths) == 1_500_000 + 96


async def test_how_many_verified_payloads_are_remembered_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ostnode.store.reading._VERIFIED_MAX", 3)
    async with opened(SimDisk()) as store:
        await store.commit([chunk(bytes(100), i) for i in range(8)])
        for extent in extents(store.state):
            await store.read(extent)
            (segment,) = store._parts.reading._segments.values()
            assert segment.is_verified(extent)
            assert len(segment._verified) <= 3


async def test_cached_reads_let_others_run() -> None:
    async with opened(SimDisk()) as store:
        await store.commit([chunk(b"data")])
        (extent,) = extents(store.state)
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                await store.read(extent)


def forget(store: Store) -> None:
    """What has been verified is verified again."""
    for segment in store._parts.reading._segments.values():
        segment._verified.clear()


@pytest.mark.parametrize(
    "extent",
    [
        Extent(1, 4096, 999),  # another length
        Extent(1, 4104, 4),  # no record there
        Extent(1, 1 << 40, 4),  # behind the end
        Extent(9, 4096, 4),  # no such segment
    ],
)
async def test_an_extent_that_names_no_record_is_refused(extent: Extent) -> None:
    async with opened(SimDisk()) as store:
        await store.commit([chunk(b"data")])
        with pytest.raises(DataCorruptError):
            await store.read(extent)
        with pytest.raises(DataCorruptError):
            store.digest(extent)


async def test_a_segment_with_a_damaged_header_is_refused() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        await store.commit([chunk(b"data")])
        for at in (5, 2048 + 5):
            disk.files[FIRST].seen[at] ^= 1
        with pytest.raises(DataCorruptError, match="header"):
            await store.read(extents(store.state)[0])
    assert disk.open_files == 0


async def test_digests_come_from_the_header() -> None:
    async with opened(SimDisk()) as store:
        await store.commit([chunk(b"data", 1), chunk(b"data", 2), chunk(b"else", 3)])
        first, second, third = (store.digest(extent) for extent in extents(store.state))
        assert first == second != third
        assert len(first) == 16


async def test_descriptors_are_bounded() -> None:
    disk = SimDisk()
    async with opened(disk, segments_open_max=2) as store:
        for i in range(40):
            await store.commit([chunk(bytes([i]) * 5000, i)])
        assert len(disk.files) > 3
        for _ in range(2):
            for i, extent in enumerate(extents(store.state)):
                assert bytes(await store.read(extent)) == bytes([i]) * 5000
                assert disk.open_files <= 3  # two to read, one to write
    assert disk.open_files == 0


class SlowReads(InlineWorker):
    """Lets other tasks run in the middle of a cold read."""

    def __init__(self) -> None:
        self.gate = trio.Event()
        self.calls: list[str] = []

    async def run(self, function, *args):
        self.calls.append(function.__name__)
        if function.__name__ in {"verified_waited", "_open"}:
            await self.gate.wait()
        return await super().run(function, *args)


async def test_a_cold_read_waits_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page cache has only the first bytes; the segment is closed while the rest is read."""
    disk, worker = SimDisk(), SlowReads()
    async with opened(disk) as store:
        for i in range(40):
            await store.commit([chunk(bytes([i]) * 5000, i)])
    read_into = SimFile.read_into

    def cold(self: SimFile, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        return read_into(self, offset, buffer if wait else buffer[:10], wait=wait)

    cold.__name__ = "read_into"
    monkeypatch.setattr(SimFile, "read_into", cold)
    async with opened(disk, worker=worker, segments_open_max=1) as store:
        places = extents(store.state)
        got: dict[int, bytes] = {}

        async def read(i: int) -> None:
            got[i] = bytes(await store.read(places[i]))

        async with trio.open_nursery() as nursery:
            for i in (0, 39, 0):
                nursery.start_soon(read, i)
            await trio.testing.wait_all_tasks_blocked()
            assert got == {}
            worker.gate.set()
        assert got == {0: bytes(5000), 39: bytes([39]) * 5000}
        assert worker.calls.count("verified_waited") == 3
        assert disk.open_files == 1
    assert disk.open_files == 0


@pytest.mark.parametrize("cold_from", [0, 50, 150, 250])
async def test_a_payload_cached_in_part_is_verified_in_a_thread(
    cold_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the header, what lies before the slice, the slice, or what lies behind it is cold."""
    disk, worker = SimDisk(), SlowReads()
    worker.gate.set()
    read_into = SimFile.read_into
    async with opened(disk, worker=worker) as store:
        await store.commit([chunk(bytes(300))])
        (extent,) = extents(store.state)
        await store.read(extent, 0, 0)
        forget(store)

        def cold(self: SimFile, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
            is_there = wait or offset + len(buffer) <= extent.offset + 96 + cold_from
            return read_into(self, offset, buffer, wait=wait) if is_there else 0

        monkeypatch.setattr(SimFile, "read_into", cold)
        assert bytes(await store.read(extent, 100, 100)) == bytes(100)
        assert worker.calls.count("verified_waited") == 1


async def test_b65_a_read_that_waits_keeps_its_segment_pinned_from_the_start() -> None:
    disk, worker = SimDisk(), SlowReads()
    async with opened(disk, worker=worker) as store:
        await store.commit([chunk(b"data")])
        (extent,) = extents(store.state)
        drained = False

        async def drain() -> None:
            nonlocal drained
            await store._parts.reading.pins.drained(extent.segment)
            drained = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.read, extent)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(drain)
            await trio.testing.wait_all_tasks_blocked()
            assert not drained
            worker.gate.set()
        assert drained


async def test_b65_a_read_pins_before_it_first_waits() -> None:
    """Its extent is good only until then."""
    async with opened(SimDisk()) as store:
        await store.commit([chunk(b"data")])
        (extent,) = extents(store.state)
        reading = store.read(extent)
        reading.send(None)
        assert list(store._parts.reading.pins._pins) == [extent.segment]
        reading.close()
        assert not store._parts.reading.pins._pins


async def test_a_cancelled_read_gives_its_pin_back() -> None:
    disk, worker = SimDisk(), SlowReads()
    async with opened(disk, worker=worker) as store:
        await store.commit([chunk(b"data")])
        (extent,) = extents(store.state)
        with trio.move_on_after(0) as scope:
            await store.read(extent)
        assert scope.cancelled_caught
        with trio.fail_after(1):
            await store._parts.reading.pins.drained(extent.segment)


@pytest.mark.parametrize("verify", [True, False])
async def test_long_reads_go_to_a_thread(*, verify: bool) -> None:
    disk, worker = SimDisk(), SlowReads()
    worker.gate.set()
    size = (1 << 20) + 1
    big = 4 << 20
    async with opened(
        disk, worker=worker, segment_bytes=big, batch_bytes_max=big, verify_reads=verify
    ) as store:
        await store.commit([chunk(bytes(size))])
        for _ in range(2):
            assert bytes(await store.read(extents(store.state)[0])) == bytes(size)
        assert worker.calls.count("verified_waited") == int(verify)
        assert worker.calls.count("waited") == 2 - int(verify)


async def test_two_readers_open_a_segment_once() -> None:
    disk, worker = SimDisk(), SlowReads()
    async with opened(disk, worker=worker) as store:
        await store.commit([chunk(b"data")])
        (extent,) = extents(store.state)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(store.read, extent)
            await trio.testing.wait_all_tasks_blocked()
            worker.gate.set()
        assert worker.calls.count("_open") == 3
        assert disk.open_files == 2  # one to read, one to write
    assert disk.open_files == 0


async def test_large_payloads_are_verified_in_a_thread() -> None:
    disk, worker = SimDisk(), SlowReads()
    worker.gate.set()
    size = 300 << 10
    async with opened(disk, worker=worker, segment_bytes=1 << 20, batch_bytes_max=1 << 20) as store:
        await store.commit([chunk(bytes(size))])
        assert bytes(await store.read(extents(store.state)[0])) == bytes(size)
        assert worker.calls.count("verified_waited") == 1
        assert bytes(await store.read(extents(store.state)[0])) == bytes(size)
        assert worker.calls.count("verified_waited") == 1
        assert worker.calls.count("waited") == 0


@pytest.mark.parametrize("where", ["header", "payload"])
async def test_b41_a_disk_that_does_not_read_now_is_not_taken_for_damage(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async with opened(SimDisk()) as store:
        await store.commit([chunk(b"x" * 100)])
        (extent,) = extents(store.state)
        bad, read_into = 100 if where == "header" else extent.offset + 100, SimFile.read_into

        def failing(file: SimFile, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
            if offset <= bad < offset + len(buffer):
                raise OSError(errno.EIO, "bad sector")
            return read_into(file, offset, buffer, wait=wait)

        monkeypatch.setattr(SimFile, "read_into", failing)
        with pytest.raises(OSError, match="bad sector"):
            await store.read(extent)
        monkeypatch.undo()
        assert bytes(await store.read(extent)) == b"x" * 100
        assert store.corrupt_reads == 0
