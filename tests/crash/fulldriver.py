"""A real store that does what it is told on stdin, for tests that fill its disk.

Usage: fulldriver.py DATA_DIR. Each line is answered by one: `chunk N SIZE`, `set NAME SIZE` and
`unset PREFIX` by `ok` once it is durable, or by `full: why`; `read` by how many chunks read back
right, `names` by how many names are set. The end of the input closes the store.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from ostnode.env import ThreadWorker
from ostnode.store.disk import RealDisk
from ostnode.store.errors import StoreFullError
from ostnode.store.record import Extent, NewRecord
from ostnode.store.store import Store, StoreOptions
from tests.support.storekit import chunk, names, opened, set_, unset

OPTIONS = StoreOptions(
    segment_bytes=8 << 20, batch_bytes_max=1 << 20, queue_bytes_max=2 << 20, marker_delay_s=0.01
)


def content(number: int, size: int) -> bytes:
    return number.to_bytes(4, "big") * (size // 4)


def record_of(words: list[str]) -> NewRecord:
    match words:
        case ["chunk", number, size]:
            return chunk(content(int(number), int(size)), int(number))
        case ["set", name, size]:
            return set_(name, "." * int(size))
        case ["unset", prefix]:
            return unset(prefix)
    raise ValueError(words)


async def read_all(store: Store) -> int:
    rows = list(store.durable.scan(b"C"))
    for key, value in rows:
        extent = Extent.unpack(value)
        number = int.from_bytes(key[-12:-4], "big")
        assert bytes(await store.read(extent)) == content(number, extent.length)
    return len(rows)


async def answer(store: Store, line: str) -> str:
    if line == "read":
        return str(await read_all(store))
    if line == "names":
        return str(len(names(store.durable)))
    try:
        await store.commit([record_of(line.split())])
    except StoreFullError as error:
        return f"full: {error}"
    return "ok"


async def main(data_dir: Path) -> None:
    async with opened(RealDisk(data_dir), OPTIONS, worker=ThreadWorker(1)) as store:
        assert store.problems == ()
        print("ready", flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            print(await answer(store, line.strip()), flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
