"""Writes groups to a real store and says on stdout which ones are durable; killed by the tests.

Usage: storedriver.py DATA_DIR GROUPS. All disk writes happen in one thread, because strace counts
the calls it injects faults into per thread. Prints `ready`, then `ack N` after group N is durable.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random

import trio

from ostnode.env import InlineWorker
from ostnode.store.disk import RealDisk
from tests.support.storecrash import TINY, group
from tests.support.storekit import names, opened


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def main(data_dir: Path, groups: int) -> None:
    async with opened(RealDisk(data_dir), TINY, worker=InlineWorker(), seed=os.getpid()) as store:
        first = int(dict(store.state.scan(b"Mn")).get(b"Mn", b"0")) + 1
        say(f"ready {first - 1} {len(names(store.state))}")
        for number in range(first, first + groups):
            await store.commit(group(Random(number), number))
            say(f"ack {number}")


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
