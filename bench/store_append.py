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
from pathlib import Path

import trio

from ostnode.env import SystemClock, SystemRng, ThreadWorker
from ostnode.store.disk import RealDisk
from ostnode.store.keyspace import Writer
from ostnode.store.record import NewRecord, Record
from ostnode.store.store import Store, StoreOptions, open_store

ROUNDS = 7
KIB, MIB = 1 << 10, 1 << 20
CHUNK = 1
LARGE_RECORDS, LARGE_TASKS = 192, 16
SMALL_RECORDS, SMALL_TASKS = 4096, 64
LONE_RECORDS, UNGROUPED_RECORDS = 200, 300


def reduce(record: Record, writer: Writer) -> None:
    """One row per chunk, as a bucket keeps."""
    numbers = record.number.to_bytes(8, "big") + record.chunk_index.to_bytes(4, "big")
    writer.put(b"C" + numbers, record.extent.pack())


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


def raw(
    directory: Path, payload: bytes, records: int, group: int, *, written: bool = False
) -> tuple[float, float]:
    """Seconds for the loop, and its median fdatasync, with `group` records per sync.

    The blocks are preallocated; `written` says that they were written before, too.
    """
    path = directory / "raw"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.posix_fallocate(descriptor, 0, records * len(payload) + MIB)
        if written:
            os.pwrite(descriptor, bytes(records * len(payload)), 0)
        os.fsync(descriptor)
        buffers, offset, syncs = [payload] * group, 0, []
        start = time.perf_counter()
        for _ in range(records // group):
            offset += os.pwritev(descriptor, buffers, offset)
            before = time.perf_counter()
            os.fdatasync(descriptor)
            syncs.append(time.perf_counter() - before)
        return time.perf_counter() - start, statistics.median(syncs)
    finally:
        os.close(descriptor)
        path.unlink()


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
        reduce,
        bulk_kinds=frozenset({CHUNK}),
        owner=bytes(32),
        worker=ThreadWorker(1),
        clock=SystemClock(),
        rng=SystemRng(),
    ) as store:
        appends = Appends(store)
        for _ in range(ROUNDS):
            took, _ = raw(directory, large, LARGE_RECORDS, group)
            note("large_raw_mib_s", LARGE_RECORDS / took)
            note(
                "large_mib_s", LARGE_RECORDS / await appends.run(large, LARGE_RECORDS, LARGE_TASKS)
            )
            took, sync = raw(directory, small, UNGROUPED_RECORDS, 1)
            note("small_ungrouped_per_s", UNGROUPED_RECORDS / took)
            note("fdatasync_us", sync * 1e6)
            _, sync = raw(directory, small, UNGROUPED_RECORDS, 1, written=True)
            note("fdatasync_written_us", sync * 1e6)
            note(
                "small_per_s", SMALL_RECORDS / await appends.run(small, SMALL_RECORDS, SMALL_TASKS)
            )
            note("lone_us", await appends.run(small, LONE_RECORDS, 1) / LONE_RECORDS * 1e6)
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
