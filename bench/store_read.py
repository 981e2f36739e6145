"""Cached reads through the store against bare system calls, and recovery against a raw scan.

- large: 1 MiB payloads, looked up in the key index and read through the store, against `pread`;
- middle, small: 64 KiB and 4 KiB payloads, against an LMDB get, a Trio checkpoint and an inline
  `preadv` into one buffer that is used again;
- first: the same reads when the segment has just been opened, so that every payload is verified,
  with and without `verify_reads`;
- scan: finding and verifying every record of a segment, against reading the same file and hashing
  it by MiB in one thread;
- recovery: opening a log whose last segment was never sealed, which scans it, writes its last batch
  again, seals it and brings the key index up to it.

Rounds are interleaved; ratios are of medians.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Container
from pathlib import Path

import lmdb
import trio
from blake3 import blake3
from support.rounds import Figures, add_directory, arguments_parser, print_json, shown

from ostnode.env import SystemClock, SystemRng, ThreadWorker
from ostnode.store.disk import RealDisk
from ostnode.store.format import RECORD_HEADER_BYTES, segment_key
from ostnode.store.keyspace import Reader, Writer
from ostnode.store.record import Extent, NewRecord, Record
from ostnode.store.scan import scan
from ostnode.store.schema import Schema, Worth
from ostnode.store.segment import read_header, segment_name
from ostnode.store.store import Store, StoreOptions, open_store

ROUNDS, RECOVERY_ROUNDS = 9, 3
KIB, MIB = 1 << 10, 1 << 20
CHUNK = 1
SIZES = {"large": (MIB, 96), "middle": (64 * KIB, 768), "small": (4 * KIB, 1024)}
"""Bytes of a payload, and how many there are."""
RECOVERED_RECORDS = 224
GROUP = 4
READ_THREADS = 4


class PlainSchema(Schema):
    """One row per chunk, as a bucket keeps."""

    bulk_kinds = frozenset({CHUNK})

    def reduce(self, record: Record, rows: Writer) -> None:
        rows.put(key(record.number), record.extent.pack())

    def worth(self, record: Record, rows: Reader) -> Worth:
        return Worth.LIVE

    def relocate(self, record: Record, segments: Container[int], rows: Writer) -> None:
        raise NotImplementedError("nothing is compacted here")


def key(number: int) -> bytes:
    """The row of a chunk."""
    return b"C" + number.to_bytes(12, "big")


def opened(directory: Path, *, verify: bool = True):
    """The store in `directory`, threads as a node has them."""
    return open_store(
        RealDisk(directory),
        StoreOptions(verify_reads=verify),
        PlainSchema(),
        owner=bytes(32),
        worker=ThreadWorker(1),
        read_worker=ThreadWorker(READ_THREADS),
        clock=SystemClock(),
        rng=SystemRng(),
    )


async def fill(store: Store, payload: bytes, numbers: range) -> None:
    """Append the payload under every number."""
    for start in range(numbers.start, numbers.stop, GROUP):
        group = range(start, min(start + GROUP, numbers.stop))
        await store.commit([NewRecord(CHUNK, payload, number=number) for number in group])


class Reads:
    """Payloads of one size: read through a store, and by hand."""

    def __init__(self, directory: Path, numbers: range, size: int) -> None:
        self._keys = [key(number) for number in numbers]
        self._buffer = memoryview(bytearray(size))
        self._size = size
        self._segments = directory / "segments"
        self._rows = lmdb.open(str(directory.parent / f"rows{size}"), map_size=1 << 30, sync=False)
        self._files: dict[int, int] = {}
        self._extents: list[Extent] = []

    def copy_rows(self, store: Store) -> None:
        """The reference's own index of the same payloads, and its own descriptors."""
        with self._rows.begin(write=True) as transaction:
            for name in self._keys:
                row = store.durable.get(name)
                transaction.put(name, row)
                extent = Extent.unpack(row)
                self._extents.append(extent)
                if extent.segment not in self._files:
                    path = self._segments / segment_name(extent.segment)
                    self._files[extent.segment] = os.open(path, os.O_RDONLY)

    async def ours(self, store: Store) -> float:
        """Microseconds per payload."""
        start = time.perf_counter()
        for name in self._keys:
            await store.read(Extent.unpack(store.durable.get(name)))
        return self._each(start)

    def pread(self) -> float:
        """The same for nothing but the system call."""
        start = time.perf_counter()
        for extent in self._extents:
            at = extent.offset + RECORD_HEADER_BYTES
            os.pread(self._files[extent.segment], self._size, at)
        return self._each(start)

    async def by_hand(self) -> float:
        """The same for a look-up, a checkpoint and the system call."""
        start = time.perf_counter()
        for name in self._keys:
            with self._rows.begin() as transaction:
                extent = Extent.unpack(transaction.get(name))
            await trio.lowlevel.checkpoint()
            at = extent.offset + RECORD_HEADER_BYTES
            os.preadv(self._files[extent.segment], [self._buffer], at)
        return self._each(start)

    def close(self) -> None:
        """Release the descriptors."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._rows.close()

    def _each(self, start: float) -> float:
        return (time.perf_counter() - start) / len(self._keys) * 1e6


async def measure_reads(directory: Path, figures: Figures) -> None:
    """Fill a store, then read it over and over."""
    data, first = directory / "data", 1
    reads: dict[str, Reads] = {}
    async with opened(data) as store:
        for name, (size, count) in SIZES.items():
            numbers = range(first, first + count)
            await fill(store, os.urandom(size), numbers)
            reads[name] = Reads(data, numbers, size)
            reads[name].copy_rows(store)
            first += count
    for verify in (True, False) * 3:
        how = "verified" if verify else "unverified"
        async with opened(data, verify=verify) as store:
            for name, each in reads.items():
                figures.note(f"{name}_{how}_us", await each.ours(store))
    async with opened(data) as store:
        for each in reads.values():
            await each.ours(store)
        for _ in range(ROUNDS):
            for name, each in reads.items():
                figures.note(f"{name}_us", await each.ours(store))
                figures.note(f"{name}_pread_us", each.pread())
                figures.note(f"{name}_by_hand_us", await each.by_hand())
    for each in reads.values():
        each.close()


async def measure_recovery(directory: Path, figures: Figures) -> None:
    """Open a log that ends without a seal, as after a crash, and scan the same file by hand."""
    data = directory / "crashed"
    async with opened(data) as store:
        await fill(store, os.urandom(MIB), range(RECOVERED_RECORDS))
        segment = data / "segments" / segment_name(1)
        crashed = segment.read_bytes()
    for _ in range(RECOVERY_ROUNDS):
        for path in (data / "segments").iterdir():
            path.unlink()
        with segment.open("wb") as file:
            file.write(crashed)
            file.flush()
            os.fsync(file.fileno())  # or recovery's own sync would pay for all of it
        figures.note("by_hand_mib_s", scan_by_hand(segment))
        figures.note("scan_mib_s", scan_by_store(data))
        start = time.perf_counter()
        async with opened(data):
            took = time.perf_counter() - start
        figures.note("recovery_mib_s", RECOVERED_RECORDS / took)


def scan_by_store(data: Path) -> float:
    """MiB per second of finding and verifying every record of the first segment."""
    file = RealDisk(data).open(segment_name(1))
    start = time.perf_counter()
    header = read_header(file)
    found = list(scan(file, segment_key(header.uuid)))
    took = time.perf_counter() - start
    file.close()
    if len(found) < RECOVERED_RECORDS:
        raise ValueError("the log lacks records")
    return RECOVERED_RECORDS / took


def scan_by_hand(path: Path) -> float:
    """MiB per second of reading and hashing what a segment holds."""
    buffer = memoryview(bytearray(MIB))
    descriptor = os.open(path, os.O_RDONLY)
    start = time.perf_counter()
    for number in range(RECOVERED_RECORDS):
        os.preadv(descriptor, [buffer], number * MIB)
        blake3(buffer).digest(length=16)
    took = time.perf_counter() - start
    os.close(descriptor)
    return RECOVERED_RECORDS / took


ROWS = (
    ("1 MiB: us, pread", "large_us", "large_pread_us", 0.5),
    ("64 KiB: us, get + checkpoint + preadv", "middle_us", "middle_by_hand_us", 0.5),
    ("4 KiB: us, get + checkpoint + preadv", "small_us", "small_by_hand_us", None),
    ("1 MiB, first read: us, unverified", "large_verified_us", "large_unverified_us", None),
    ("64 KiB", "middle_verified_us", "middle_unverified_us", None),
    ("4 KiB", "small_verified_us", "small_unverified_us", None),
    ("scan of a segment: MiB/s, read + BLAKE3", "scan_mib_s", "by_hand_mib_s", 0.7),
    ("recovery with its syncs", "recovery_mib_s", "by_hand_mib_s", None),
)


def main() -> int:
    """Measure, print, and say whether the goals are met."""
    parser = arguments_parser(__doc__)
    add_directory(parser)
    arguments = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        trio.run(measure_reads, Path(directory), figures)
        trio.run(measure_recovery, Path(directory), figures)
    medians = figures.medians()
    for _, ours, reference, _ in ROWS:
        first, second = (reference, ours) if ours.endswith("_us") else (ours, reference)
        medians[ours.rpartition("_")[0] + "_ratio"] = medians[first] / medians[second]
    if arguments.json:
        print_json(medians)
        return 0

    print(f"{'':40}{'median (of all rounds)':>30}{'reference':>30}")
    for what, ours, reference, goal in ROWS:
        ratio = medians[ours.rpartition("_")[0] + "_ratio"]
        goal_text = "" if goal is None else f"(goal >= {goal:.2f})"
        figure, other = shown(figures, ours, 1), shown(figures, reference, 1)
        print(f"{what:40}{figure:>30}{other:>30}  ratio {ratio:5.2f}  {goal_text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
