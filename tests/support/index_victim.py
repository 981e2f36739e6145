"""A process with an index, made to be killed: `python -m tests.support.index_victim DIR`.

Prints one line per acknowledged step: the blob's number, then `granted`, `charged`, `registered` (a
user of that number) or `deleted` (a chat of that number).
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from ostnode.env import ThreadWorker
from ostnode.ids import Principal
from ostnode.roles.index import Rules
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller
from tests.support.index_cluster import IndexCluster, blob

LANES = 8
SIZE = 3


def cluster(directory: Path) -> IndexCluster:
    """The same keys in every process."""
    return IndexCluster(Rules(user_grants_max=1 << 40), directory, 1)


def user(number: int) -> Caller:
    """A user whom nobody else registers."""
    return Caller(Principal(number.to_bytes(32, "little")))


def chat(number: int) -> Principal:
    """A chat that is deleted once."""
    return Principal(b"chat".ljust(24) + number.to_bytes(8, "little"))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _main(directory: Path) -> None:
    index = cluster(directory)
    one_batch_at_a_time = trio.Lock()

    async def lane(number: int) -> None:
        while True:
            number += LANES
            allocation = await index.allocate(index.alice, blob(number), SIZE)
            _say(f"{number} granted")
            if number % 5 == 0:
                await index.change(("register", user(number), 7))
                _say(f"{number} registered")
            if number % 7 == 0:
                await index.ask(index.app, m.DeleteAccessor(chat(number)))
                _say(f"{number} deleted")
            if number % 3 == 0:
                async with one_batch_at_a_time:
                    await index.bucket.sync(index.bucket.completed(allocation))
                _say(f"{number} charged")

    async with index.open(ThreadWorker(1)):
        status = await index.status()
        index.bucket.next_seq = status.buckets[0].outbox_acked + 1
        await index.bucket.sync()
        await index.change(("register", index.alice, 1 << 40))
        start = (status.open_grants + status.charges) * 1000
        # Ids of an earlier process must not come again.
        index.rng.token(start)
        async with trio.open_nursery() as nursery:
            for first in range(LANES):
                nursery.start_soon(lane, start + first)


if __name__ == "__main__":
    trio.run(_main, Path(sys.argv[1]))
