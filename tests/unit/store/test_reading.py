"""Reading back: verification, descriptors, cold reads."""

from __future__ import annotations

import pytest
import trio

from ostnode.env import InlineWorker
from ostnode.errors import DataCorruptError
from ostnode.store.record import Extent
from ostnode.store.segment import segment_name
from tests.support.simdisk import SimDisk, SimFile
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
        monkeypatch.setattr("ostnode.store.reading.payload_digest", None)
        assert bytes(await store.read(extent, 7, 4)) == b"xxxx"


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
        if function.__name__ in {"read_into", "_open"}:
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
        assert worker.calls.count("read_into") == 3
        assert disk.open_files == 1
    assert disk.open_files == 0


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


async def test_large_payloads_are_hashed_in_a_thread() -> None:
    disk, worker = SimDisk(), SlowReads()
    worker.gate.set()
    size = 300 << 10
    async with opened(disk, worker=worker, segment_bytes=1 << 20, batch_bytes_max=1 << 20) as store:
        await store.commit([chunk(bytes(size))])
        assert bytes(await store.read(extents(store.state)[0])) == bytes(size)
        assert worker.calls.count("payload_digest") == 1
