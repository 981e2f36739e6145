"""The store at 10 thousand, 100 thousand and 1 million blobs: what grows with them, what does not.

A store of each size is built through its log, its reducer and its key index: a blob is a chunk of
64 bytes, its commit and one reference, in groups of 1024 records, as uploads leave them once their
grants are forgotten. Then:

- index: bytes of `data.mdb` a blob, and of its pages that are in use;
- clean: seconds to close cleanly, and to open again;
- killed: seconds to open after a kill, and of work to prove the index row by row, which is done in
  the background then;
- rebuilt: seconds to open without a key index;
- append, read: durable appends of 4 KiB, 64 in flight, and cached reads of random blobs, in a
  process of its own, with its anonymous and file-backed resident memory;
- verify: that process also appends 192 MiB in chunks of 1 MiB; every record of its segments found
  and verified, against reading the same files and hashing them by MiB in one thread, in turn.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final

import lmdb
import trio
from blake3 import blake3

from ostnode.env import InlineWorker, SystemClock, SystemRng, ThreadWorker
from ostnode.ids import BlobId, Principal, Uid
from ostnode.roles.bucket.payloads import encode_payload
from ostnode.roles.bucket.records import Commit, Kind, ReferenceAdded
from ostnode.roles.bucket.schema import BucketSchema
from ostnode.roles.bucket.views import View
from ostnode.store.disk import RealDisk
from ostnode.store.format import segment_key
from ostnode.store.lmdbindex import DATABASES_MAX, LmdbIndex
from ostnode.store.record import NewRecord
from ostnode.store.scan import scan
from ostnode.store.segment import read_header
from ostnode.store.store import Store, StoreOptions, open_store

SIZES: Final = (10_000, 100_000)
GOAL_INDEX_BYTES, GOAL_OPEN_S, GOAL_VERIFY = 400, 1.0, 0.7
OWNER: Final = bytes(32)
MIB, PAGE_BYTES = 1 << 20, 4096
PAYLOAD_BYTES, GROUP_BLOBS = 64, 341
USERS, ACCESSORS = 2_000, 5_000
CREATED: Final = 1_790_000_000
TYPES: Final = ("image/jpeg", "image/jpeg", "image/png", "video/mp4", "application/x-rar")
VERIFY_ROUNDS, LARGE = 5, 192
APPENDS, APPEND_BYTES, APPENDING, READS = 4096, 4096, 64, 20_000
NUMBERS_FROM: Final = 1 << 40
"""Uploads' numbers of the measured appends: above those of all blobs."""


def blobs(count: int) -> Iterator[tuple[BlobId, bytes]]:
    """The ids and payloads of a store; the same ones each time."""
    random = Random(count)
    for _ in range(count):
        payload = random.randbytes(PAYLOAD_BYTES)
        yield BlobId(blake3(payload).digest()), payload


def opened(data_dir: Path, *, threads: bool = False) -> AbstractAsyncContextManager[Store]:
    """The store in a directory, as a bucket opens it."""
    options = StoreOptions(batch_bytes_max=16 * MIB, queue_bytes_max=64 * MIB)
    return open_store(
        RealDisk(data_dir),
        options,
        BucketSchema(),
        owner=OWNER,
        worker=ThreadWorker(1) if threads else InlineWorker(),
        clock=SystemClock(),
        rng=SystemRng(),
    )


async def build(data_dir: Path, count: int) -> float:
    """Fill a new store; seconds it took to close it."""
    random = Random(1)
    users = [Uid(random.randbytes(8)) for _ in range(USERS)]
    accessors = [Principal(random.randbytes(32)) for _ in range(ACCESSORS)]
    async with opened(data_dir) as store:
        group: list[NewRecord] = []
        for number, (blob, payload) in enumerate(blobs(count), start=1):
            reference = ReferenceAdded(
                uid=random.choice(users),
                accessor=random.choice(accessors),
                ref_id=random.randbytes(16),
                content_type=random.choice(TYPES),
                filename=None,
                expires_at=0,
                created_at=CREATED + number,
            )
            commit = Commit(PAYLOAD_BYTES, MIB, CREATED + number)
            group += (
                NewRecord(Kind.CHUNK, payload, blob, number),
                NewRecord(Kind.COMMIT, encode_payload(commit), blob, number),
                NewRecord(Kind.REFERENCE_ADDED, encode_payload(reference), blob),
            )
            if number % GROUP_BLOBS == 0 or number == count:
                await store.commit(group)
                group = []
        start = time.perf_counter()
    return time.perf_counter() - start


async def open_seconds(data_dir: Path) -> float:
    """Seconds until the store is open."""
    start = time.perf_counter()
    async with opened(data_dir):
        return time.perf_counter() - start


def audit_seconds(data_dir: Path) -> float:
    """Seconds of work to prove the rows of the key index."""
    index = LmdbIndex(data_dir / "keyindex", "bench")
    index.open()
    index.recovered()
    start = time.perf_counter()
    for _ in index.audit():
        pass
    taken = time.perf_counter() - start
    index.close(clean=True)
    return taken


def verified(data_dir: Path, paths: list[Path]) -> dict[str, float]:
    """GB/s of finding and verifying every record, and of reading and hashing the same files."""
    disk = RealDisk(data_dir)
    ours, raw, nbytes = [], [], sum(path.stat().st_size for path in paths)
    for _ in range(VERIFY_ROUNDS):
        start = time.perf_counter()
        for path in paths:
            file = disk.open(path.name)
            header = read_header(file)
            assert header is not None
            for _item in scan(file, segment_key(header.uuid)):
                pass
            file.close()
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        for path in paths:
            with path.open("rb", buffering=0) as raw_file:
                hasher, buffer = blake3(), bytearray(MIB)
                while length := raw_file.readinto(buffer):
                    hasher.update(memoryview(buffer)[:length])
        raw.append(time.perf_counter() - start)
    mine, theirs = statistics.median(ours), statistics.median(raw)
    return {"gb_s": nbytes / mine / 1e9, "raw_gb_s": nbytes / theirs / 1e9, "ratio": theirs / mine}


async def serve(data_dir: Path, count: int) -> dict[str, float]:
    """Appends and random reads, and the memory of the process that did them."""
    # Without a list of all, whose memory would be this process's.
    ids = [blob for blob, _ in islice(blobs(count), 0, None, max(1, count // READS))][:READS]
    Random(3).shuffle(ids)
    async with opened(data_dir, threads=True) as store:
        view = View(store.durable)
        start = time.perf_counter()
        for blob_id in ids:
            await read_one(store, view, blob_id)
        read_s = time.perf_counter() - start
        memory = resident()
        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for task in range(APPENDING):
                nursery.start_soon(append_some, store, task)
        append_s = time.perf_counter() - start
        for number in range(NUMBERS_FROM, NUMBERS_FROM + LARGE):
            await store.commit([NewRecord(Kind.CHUNK, bytes(MIB), bytes(32), number + MIB)])
    return {"reads_s": len(ids) / read_s, "appends_s": APPENDS / append_s, **memory}


async def read_one(store: Store, view: View, blob_id: BlobId) -> None:
    """As a bucket looks a blob up, and reads its one chunk."""
    blob = view.blob(blob_id)
    assert blob is not None
    assert view.needed(blob_id)
    chunk = view.chunk(blob.number, 0)
    assert chunk is not None
    assert len(memoryview(await store.read(chunk.extent))) == PAYLOAD_BYTES


async def append_some(store: Store, task: int) -> None:
    """One task's share of the appends."""
    payload = bytes(APPEND_BYTES)
    for i in range(APPENDS // APPENDING):
        number = NUMBERS_FROM + task * APPENDS + i
        await store.commit([NewRecord(Kind.CHUNK, payload, bytes(32), number)])


def resident() -> dict[str, float]:
    """MiB of this process: its own memory, and mapped files."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {
        name: int(fields[key].split()[0]) / 1024
        for name, key in (("rss_anon_mib", "RssAnon"), ("rss_file_mib", "RssFile"))
    }


def measure(data_dir: Path, count: int) -> dict[str, float]:
    """Everything of one size."""
    start = time.perf_counter()
    close_s = trio.run(build, data_dir, count)
    index_bytes, used_bytes = index_size(data_dir / "keyindex")
    result = {
        "blobs": count,
        "build_s": time.perf_counter() - start,
        "index_bytes_per_blob": index_bytes / count,
        "index_used_per_blob": used_bytes / count,
        "clean_close_s": close_s,
        "clean_open_s": trio.run(open_seconds, data_dir),
    }
    before = set(segments(data_dir))
    run = [sys.executable, __file__, "--serve", str(data_dir), "--sizes", str(count)]
    served = subprocess.run(run, check=True, capture_output=True, text=True)
    result |= json.loads(served.stdout)
    latest = [path for path in segments(data_dir) if path not in before]
    result |= {f"verify_{name}": value for name, value in verified(data_dir, latest).items()}
    result["audit_s"] = audit_seconds(data_dir)
    state = data_dir / "keyindex" / "state"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    state.write_text(f"running {boot_id}", "ascii")
    result["killed_open_s"] = trio.run(open_seconds, data_dir)
    shutil.rmtree(data_dir / "keyindex")
    result["rebuilt_open_s"] = trio.run(open_seconds, data_dir)
    return result


def segments(data_dir: Path) -> list[Path]:
    """Segment files, in order."""
    return sorted((data_dir / "segments").glob("*.seg"))


def index_size(directory: Path) -> tuple[int, int]:
    """Bytes of the file, and of its pages that hold rows."""
    environment = lmdb.open(str(directory), readonly=True, lock=False, max_dbs=DATABASES_MAX)
    pages = 0
    with environment.begin() as transaction, transaction.cursor() as cursor:
        for name in cursor.iternext(values=False):
            stat = transaction.stat(environment.open_db(name, txn=transaction, create=False))
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    environment.close()
    return (directory / "data.mdb").stat().st_size, pages * PAGE_BYTES


def line_of(result: dict[str, float]) -> str:
    """One size, for people."""
    figures = (
        f"index {result['index_bytes_per_blob']:.0f} B a blob "
        f"({result['index_used_per_blob']:.0f} in use; goal <= {GOAL_INDEX_BYTES})",
        f"clean close {result['clean_close_s']:.2f} s, open {result['clean_open_s']:.2f} s "
        f"(goal < {GOAL_OPEN_S:.0f})",
        f"open after a kill {result['killed_open_s']:.2f} s (audit {result['audit_s']:.1f} s), "
        f"without an index {result['rebuilt_open_s']:.1f} s",
        f"verify {result['verify_gb_s']:.2f} GB/s, {result['verify_ratio']:.2f} of raw "
        f"{result['verify_raw_gb_s']:.2f} (goal >= {GOAL_VERIFY}, or 1 GB/s)",
        f"appends {result['appends_s']:.0f}/s, reads {result['reads_s']:.0f}/s",
        f"memory {result['rss_anon_mib']:.0f} MiB + {result['rss_file_mib']:.0f} of files",
    )
    return "\n    ".join((f"{result['blobs']:.0f} blobs", *figures))


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        sys.stdout.write(json.dumps(trio.run(serve, arguments.serve, arguments.sizes[0])))
        return
    results = []
    for count in arguments.sizes:
        with tempfile.TemporaryDirectory(prefix="ostnode-bench-", dir=Path.cwd()) as directory:
            results.append(measure(Path(directory) / "data", count))
        print(line_of(results[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1), "utf-8")


if __name__ == "__main__":
    main()
