"""Durable appends against raw loops on the same file system, interleaved, medians of rounds.

- large: 1 MiB records from 16 tasks, against `pwritev` + `fdatasync` of the same groups;
- small: 4 KiB records from 64 tasks, against one `pwritev` + `fdatasync` per record;
- lone: one 4 KiB record at a time, against the median `fdatasync` of that same loop. The raw loops
  append to preallocated blocks, as a plain log does; the store writes zeros ahead of small batches.
  So the `fdatasync` of a loop over blocks that were written before is printed as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Container
from pathlib import Path

import trio

from ostnode.env import SystemClock, SystemRng, ThreadWorker
from ostnode.store.disk import RealDisk
from ostnode.store.keyspace import Reader, Writer
from ostnode.store.record import NewRecord, Record
from ostnode.store.schema import Schema, Worth
from ostnode.store.store import Store, StoreOptions, open_store

ROUNDS = 8
KIB, MIB = 1 << 10, 1 << 20
SEGMENT_BYTES = StoreOptions().segment_bytes
CHUNK = 1
LARGE_RECORDS, LARGE_TASKS = 192, 16
SMALL_RECORDS, SMALL_TASKS = 4096, 64
LONE_RECORDS, UNGROUPED_RECORDS = 200, 300


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
        self._number = 0

    async def run(self, payload: bytes, records: int, tasks: int) -> float:
        """Seconds until `records` appends from `tasks` tasks are durable."""

        async def task() -> None:
            for _ in range(records // tasks):
                self._number += 1
                async with self._store.admit(len(payload)):
                    staged = self._store.stage([NewRecord(CHUNK, payload, number=self._number)])
                await staged.wait()

        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(task)
        return time.perf_counter() - start


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


async def measure(directory: Path) -> dict[str, float]:
    """Medians over the rounds, the three ratios among them."""
    large, small = os.urandom(MIB), os.urandom(4 * KIB)
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    disk, options = RealDisk(directory / "data"), StoreOptions()
    group = options.batch_bytes_max // MIB
    async with open_store(
        disk,
        options,
        PlainSchema(),
        owner=bytes(32),
        worker=ThreadWorker(1),
        clock=SystemClock(),
        rng=SystemRng(),
    ) as store:
        appends = Appends(store)
        raw_large, raw_small = RawLog(directory / "large"), RawLog(directory / "small")
        raw_written = RawLog(directory / "written", written=True)

        def raws() -> None:
            took, _ = raw_large.run(large, LARGE_RECORDS, group)
            note("large_raw_mib_s", LARGE_RECORDS / took)
            took, sync = raw_small.run(small, UNGROUPED_RECORDS, 1)
            note("small_ungrouped_per_s", UNGROUPED_RECORDS / took)
            note("fdatasync_us", sync * 1e6)
            _, sync = raw_written.run(small, UNGROUPED_RECORDS, 1)
            note("fdatasync_written_us", sync * 1e6)

        for number in range(ROUNDS):
            if number % 2:  # a disk that allows bursts favours whoever comes first
                raws()
            took = await appends.run(large, LARGE_RECORDS, LARGE_TASKS)
            note("large_mib_s", LARGE_RECORDS / took)
            took = await appends.run(small, SMALL_RECORDS, SMALL_TASKS)
            note("small_per_s", SMALL_RECORDS / took)
            took = await appends.run(small, LONE_RECORDS, 1)
            note("lone_us", took / LONE_RECORDS * 1e6)
            if not number % 2:
                raws()
    medians = {name: statistics.median(values) for name, values in figures.items()}
    medians["large_ratio"] = medians["large_mib_s"] / medians["large_raw_mib_s"]
    medians["small_ratio"] = medians["small_per_s"] / medians["small_ungrouped_per_s"]
    medians["lone_ratio"] = medians["lone_us"] / medians["fdatasync_us"]
    return medians


def main() -> int:
    """Measure, print, and say whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--dir", type=Path, help="where to write (default: temporary)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        figures = trio.run(measure, Path(directory))
    if arguments.json:
        print(json.dumps(figures))
        return 0
    f = figures
    print(
        f"1 MiB records   {f['large_mib_s']:8.0f} MiB/s  raw {f['large_raw_mib_s']:8.0f} MiB/s"
        f"  ratio {f['large_ratio']:.2f}  (goal >= 0.50)\n"
        f"4 KiB, 64 tasks {f['small_per_s']:8.0f} /s     raw {f['small_ungrouped_per_s']:8.0f} /s"
        f"     ratio {f['small_ratio']:.2f}  (goal >= 5.00)\n"
        f"lone 4 KiB      {f['lone_us']:8.0f} us     sync {f['fdatasync_us']:7.0f} us"
        f"     ratio {f['lone_ratio']:.2f}  (goal <= 2.00)\n"
        f"                fdatasync into written blocks {f['fdatasync_written_us']:.0f} us"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
