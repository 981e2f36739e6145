"""Durable appends against raw loops on the same file system, interleaved, medians of rounds.

- large: 1 MiB records from 16 tasks, each hashed in a thread first, as a bucket does, against
  `pwritev` + `fdatasync` of the same groups, nothing hashed;
- small: 4 KiB records from 64 tasks, against the least that Trio can do for the same promise
  (`Skeleton`), a raw loop with 64 records per `fdatasync`, and one with one record per `fdatasync`;
- lone: one 4 KiB record at a time, against the median `fdatasync` of that last loop. The raw loops
  append to preallocated blocks, as a plain log does; the store writes zeros ahead of small batches.
  So the `fdatasync` of a loop over blocks that were written before is printed as well.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Container
from pathlib import Path

import lmdb
import trio
from blake3 import blake3
from support.rounds import (
    Figures,
    Ratio,
    add_directory,
    arguments_parser,
    print_json,
    print_ratios,
    shown,
    with_ratios,
)

from ostnode.env import SystemClock, SystemRng, ThreadWorker
from ostnode.store.disk import RealDisk
from ostnode.store.format import payload_digest
from ostnode.store.keyspace import Reader, Writer
from ostnode.store.record import NewRecord, Record
from ostnode.store.schema import Schema, Worth
from ostnode.store.store import Store, StoreOptions, open_store

ROUNDS = 12
KIB, MIB = 1 << 10, 1 << 20
SEGMENT_BYTES = StoreOptions().segment_bytes
CHUNK = 1
LARGE_RECORDS, LARGE_TASKS = 192, 16
SMALL_RECORDS, SMALL_TASKS = 4096, 64
LONE_RECORDS, UNGROUPED_RECORDS = 100, 150
HASH_THREADS, HASH_IN_THREAD_BYTES = 4, MIB


class PlainSchema(Schema):
    """One row per chunk, as a bucket keeps."""

    bulk_kinds = frozenset({CHUNK})

    def reduce(self, record: Record, rows: Writer) -> None:
        numbers = record.number.to_bytes(8, "big") + record.chunk_index.to_bytes(4, "big")
        rows.put(b"C" + numbers, record.extent.pack())

    def worth(self, record: Record, rows: Reader) -> Worth:
        return Worth.LIVE

    def relocate(self, record: Record, segments: Container[int], rows: Writer) -> None:
        raise NotImplementedError("nothing is compacted here")


class Appends:
    """The store's side of a round."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hashing = ThreadWorker(HASH_THREADS)
        self._number = 0

    async def run(self, payload: bytes, records: int, tasks: int) -> float:
        """Seconds until `records` appends from `tasks` tasks are durable."""
        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(self._task, payload, records // tasks)
        return time.perf_counter() - start

    async def _task(self, payload: bytes, records: int) -> None:
        for _ in range(records):
            self._number += 1
            digest = b""
            if len(payload) >= HASH_IN_THREAD_BYTES:
                digest = await self._hashing.run(payload_digest, payload)
            record = NewRecord(CHUNK, payload, number=self._number, digest=digest)
            await self._store.commit([record])


class Skeleton:
    """The least that does what the store does: tasks, one writer, a digest and a row per record.

    No headers, no footer, no checks, no bounds, no recovery.
    """

    def __init__(self, directory: Path) -> None:
        (directory / "rows").mkdir(parents=True)
        self._rows = lmdb.open(str(directory / "rows"), map_size=1 << 40, sync=False)
        self._descriptor = os.open(directory / "log", os.O_RDWR | os.O_CREAT)
        os.posix_fallocate(self._descriptor, 0, SEGMENT_BYTES)
        os.fsync(self._descriptor)
        self._queue: list[tuple[bytes, bytes, bytes]] = []
        self._work, self._done = trio.Event(), trio.Event()
        self._number, self._offset = 0, 0

    async def run(self, payload: bytes, records: int, tasks: int) -> float:
        """As `Appends.run`."""
        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._writer)
            async with trio.open_nursery() as inner:
                for _ in range(tasks):
                    inner.start_soon(self._task, payload, records // tasks)
            nursery.cancel_scope.cancel()
        return time.perf_counter() - start

    async def _task(self, payload: bytes, records: int) -> None:
        for _ in range(records):
            self._number += 1
            digest = blake3(payload).digest(length=16)
            self._queue.append((self._number.to_bytes(8, "big"), payload, digest))
            self._work.set()
            await self._done.wait()

    async def _writer(self) -> None:
        limiter = trio.CapacityLimiter(1)
        while True:
            while not self._queue:
                self._work = trio.Event()
                await self._work.wait()
            batch, self._queue = self._queue, []
            done, self._done = self._done, trio.Event()
            await trio.to_thread.run_sync(self._write, batch, limiter=limiter)
            done.set()

    def _write(self, batch: list[tuple[bytes, bytes, bytes]]) -> None:
        if self._offset + sum(len(payload) for _, payload, _ in batch) > SEGMENT_BYTES:
            self._offset = 0
        written = os.pwritev(self._descriptor, [payload for _, payload, _ in batch], self._offset)
        os.fdatasync(self._descriptor)
        with self._rows.begin(write=True) as transaction:
            for key, _, digest in batch:
                transaction.put(key, self._offset.to_bytes(8, "big") + digest)
        self._offset += written


class RawLog:
    """The reference: a loop that appends to preallocated files of a segment's size.

    `written` says that the blocks were written before, too. Making files is not timed.
    """

    def __init__(self, path: Path, *, written: bool = False) -> None:
        self._path, self._written = path, written
        self._descriptor, self._offset = -1, SEGMENT_BYTES

    def run(self, payload: bytes, records: int, group: int) -> tuple[float, float]:
        """Seconds for the loop, and its median fdatasync, with `group` records per sync."""
        if self._offset + records * len(payload) > SEGMENT_BYTES:
            self._next_file()
        buffers, syncs = [payload] * group, []
        start = time.perf_counter()
        for _ in range(records // group):
            self._offset += os.pwritev(self._descriptor, buffers, self._offset)
            before = time.perf_counter()
            os.fdatasync(self._descriptor)
            syncs.append(time.perf_counter() - before)
        return time.perf_counter() - start, statistics.median(syncs)

    def _next_file(self) -> None:
        if self._descriptor != -1:
            os.close(self._descriptor)
            self._path = self._path.with_name(self._path.name + "+")
        self._descriptor, self._offset = os.open(self._path, os.O_RDWR | os.O_CREAT), 0
        os.posix_fallocate(self._descriptor, 0, SEGMENT_BYTES)
        if self._written:
            os.pwrite(self._descriptor, bytes(16 * MIB), 0)
        os.fsync(self._descriptor)


class Rounds:
    """Both sides on one file system, in turns."""

    def __init__(self, directory: Path, store: Store) -> None:
        self.figures = Figures()
        self._large, self._small = os.urandom(MIB), os.urandom(4 * KIB)
        self._group = StoreOptions().batch_bytes_max // MIB
        self._store, self._skeleton = Appends(store), Skeleton(directory / "skeleton")
        self._raw_large, self._raw_small = RawLog(directory / "large"), RawLog(directory / "small")
        self._raw_group = RawLog(directory / "group")
        self._raw_written = RawLog(directory / "written", written=True)

    async def run(self) -> None:
        """One size after the other, large last: much written makes a disk slower for a while.

        One that allows bursts favours whoever comes first.
        """
        for sides in (
            [self._small_ours, self._small_skeleton, self._small_raw],
            [self._lone_ours, self._lone_raw],
            [self._large_ours, self._large_raw],
        ):
            for number in range(ROUNDS):
                for side in sides[:: -1 if number % 2 else 1]:
                    await side()

    async def _large_ours(self) -> None:
        took = await self._store.run(self._large, LARGE_RECORDS, LARGE_TASKS)
        self.figures.note("large_mib_s", LARGE_RECORDS / took)

    async def _large_raw(self) -> None:
        took, _ = self._raw_large.run(self._large, LARGE_RECORDS, self._group)
        self.figures.note("large_raw_mib_s", LARGE_RECORDS / took)

    async def _small_ours(self) -> None:
        took = await self._store.run(self._small, SMALL_RECORDS, SMALL_TASKS)
        self.figures.note("small_per_s", SMALL_RECORDS / took)

    async def _small_skeleton(self) -> None:
        took = await self._skeleton.run(self._small, SMALL_RECORDS, SMALL_TASKS)
        self.figures.note("small_skeleton_per_s", SMALL_RECORDS / took)

    async def _small_raw(self) -> None:
        took, _ = self._raw_group.run(self._small, SMALL_RECORDS, SMALL_TASKS)
        self.figures.note("small_raw_per_s", SMALL_RECORDS / took)

    async def _lone_ours(self) -> None:
        took = await self._store.run(self._small, LONE_RECORDS, 1)
        self.figures.note("lone_us", took / LONE_RECORDS * 1e6)

    async def _lone_raw(self) -> None:
        took, sync = self._raw_small.run(self._small, UNGROUPED_RECORDS, 1)
        self.figures.note("small_ungrouped_per_s", UNGROUPED_RECORDS / took)
        self.figures.note("fdatasync_us", sync * 1e6)
        _, sync = self._raw_written.run(self._small, UNGROUPED_RECORDS, 1)
        self.figures.note("fdatasync_written_us", sync * 1e6)


SMALL = "4 KiB, 64 tasks: /s, skeleton"
RATIOS = (
    Ratio("large_ratio", "1 MiB, 16 tasks: MiB/s, raw", "large_mib_s", "large_raw_mib_s", ">= 0.8"),
    Ratio("small_ratio", SMALL, "small_per_s", "small_skeleton_per_s", ">= 0.5"),
    Ratio("small_raw_ratio", "  raw, 64 per sync", "small_per_s", "small_raw_per_s"),
    Ratio("small_ungrouped_ratio", "  raw, one per sync", "small_per_s", "small_ungrouped_per_s"),
    Ratio("lone_ratio", "lone 4 KiB: us, fdatasync", "lone_us", "fdatasync_us", "<= 2"),
)


async def measure(directory: Path) -> Figures:
    """Every round's figures."""
    async with open_store(
        RealDisk(directory / "data"),
        StoreOptions(),
        PlainSchema(),
        owner=bytes(32),
        worker=ThreadWorker(1),
        clock=SystemClock(),
        rng=SystemRng(),
    ) as store:
        rounds = Rounds(directory, store)
        await rounds.run()
    return rounds.figures


def main() -> int:
    """Measure, print, and say whether the goals are met."""
    parser = arguments_parser(__doc__)
    add_directory(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        figures = trio.run(measure, Path(directory))
    if arguments.json:
        print_json(with_ratios(figures, RATIOS))
        return 0
    print_ratios(figures, RATIOS)
    print(f"fdatasync into written blocks: {shown(figures, 'fdatasync_written_us')} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
