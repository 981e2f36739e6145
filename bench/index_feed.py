"""A changed user record on its way to 16 buckets, of an index with a million registered users.

The users are registered, and in the feed, before; the buckets have read it and wait at its end,
each by a poll of `IndexService.handle(Feed)` in this process, decoding what comes. Then:

- lone: one user's limit is changed; milliseconds until all have heard, bytes to each;
- batch: 500 users' limits in one call; microseconds and bytes a user and bucket, until all have
  heard. The reference is a bare loop of the statements that ours ran for it, on a copy of the
  database: the same rows, stamps, questions and syncs;
- resend: the feed from its beginning, as a bucket that knows nothing reads it: what a full resend
  would cost, reckoned from its first pages.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import trio
import trio.testing
from support.indexes import (
    APP,
    CLUSTER,
    INDEX_KEY,
    LIMIT,
    Recording,
    Reference,
    bucket_caller,
    loading,
    principal,
    recorded_connections,
    running_index,
)
from support.rounds import (
    Figures,
    Ratio,
    add_directory,
    arguments_parser,
    print_json,
    print_ratios,
    with_ratios,
)

from ostnode.ids import Uid
from ostnode.roles.index.core.rows import THE_INDEX, FeedRow, Meta, User
from ostnode.roles.index.database.schema import SCHEMA_VERSION
from ostnode.roles.index.service import IndexService
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.eventcodec import decode_event, encode_event

USERS, BUCKETS, BATCH = 1_000_000, 16, 500
ROUNDS, LONE, PAGES = 7, 8, 20
WAIT_MS = 60_000
LOADED_AT_ONCE = 10_000
RATIOS = (
    Ratio("ratio", "users to 16 buckets /s, statements", "batch_per_s", "replayed_per_s"),
    Ratio("resend_ratio", "ms for one user, for a full resend", "lone_ms", "resend_ms"),
)


def load(directory: Path, incarnation: int) -> None:
    """Register the users in the database of an index, as if it had been done long ago."""
    rows = loaded_rows()
    with loading(directory) as insert:
        while some := list(islice(rows, LOADED_AT_ONCE)):
            insert(User, "users", [user for user, _ in some])
            insert(FeedRow, "feed", [event for _, event in some])
        own = (INDEX_KEY.principal, incarnation, USERS)
        insert(Meta, "meta", [(THE_INDEX, SCHEMA_VERSION, CLUSTER, *own)])


def loaded_rows() -> Iterator[tuple[tuple, tuple]]:
    """A row of users and one of the feed, each by key; the feed knows them in another order."""
    numbers = sorted(Random(1).sample(range(1 << 62), USERS))
    order = list(range(1, USERS + 1))
    Random(2).shuffle(order)
    uid, who = Uid(b"\1" * 8), principal(0)
    event = encode_event(e.UserChanged(uid, who, 1, LIMIT))
    for number, (key, seq) in enumerate(zip(numbers, order, strict=True)):
        new_uid, new_who = key.to_bytes(8, "big"), principal(number)
        changed = event.replace(uid, new_uid).replace(who, new_who)
        yield (
            (new_uid, new_who, LIMIT, "refuse", 0, 0, 0, 0, 1, 0),
            (b"u" + new_uid, seq, b"", changed),
        )


class Listener:
    """A bucket that reads the feed and remembers how far, and how many bytes that were."""

    def __init__(self, service: IndexService, number: int, incarnation: int) -> None:
        self._service, self._caller = service, bucket_caller(number)
        self._cursor = (incarnation, USERS)
        self.nbytes = 0
        self.heard = 0

    async def hear(self, users: int) -> None:
        """Poll until that many users' changes have come."""
        self.nbytes = self.heard = 0
        while self.heard < users:
            reply = await self._service.handle(self._caller, m.Feed(*self._cursor, WAIT_MS))
            batch = reply.message
            self._cursor = (batch.incarnation, batch.next_seq)
            for event in batch.events:
                assert isinstance(decode_event(event, e.FeedEvent), e.UserChanged)
                self.nbytes += len(event)
            self.heard += len(batch.events)


class Rounds:
    """Ours, and the reference in step with it."""

    def __init__(
        self, service: IndexService, connection: Recording, reference: Reference, incarnation: int
    ) -> None:
        self.figures = Figures()
        self._service, self._connection, self._reference = service, connection, reference
        self._listeners = [Listener(service, number, incarnation) for number in range(BUCKETS)]
        self._numbers = Random(3)
        self._incarnation = incarnation

    async def run(self) -> None:
        """Every change is another user's, anywhere in the table."""
        self._connection.taken()
        for _ in range(ROUNDS):
            for _ in range(LONE):
                seconds = await self._change(1)
                self.figures.note("lone_ms", seconds * 1000)
                self.figures.note("lone_bytes", self._listeners[0].nbytes)
            self._reference.seconds(self._connection.taken())
            seconds = await self._change(BATCH)
            statements = self._connection.taken()
            self.figures.note("batch_per_s", BATCH / seconds)
            self.figures.note("batch_us", seconds / BATCH / BUCKETS * 1e6)
            self.figures.note("batch_bytes", self._listeners[0].nbytes / BATCH)
            self.figures.note("replayed_per_s", BATCH / self._reference.seconds(statements))
            await self._resend()

    async def _change(self, users: int) -> float:
        """Seconds until every bucket has heard of the change."""
        limit = self._numbers.randrange(LIMIT)
        changes = tuple(
            m.UserChange("update", principal(number), limit)
            for number in self._numbers.sample(range(USERS), users)
        )
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                nursery.start_soon(listener.hear, users)
            await trio.testing.wait_all_tasks_blocked()
            start = time.perf_counter()
            await self._service.handle(APP, m.ChangeUsers(changes))
        return time.perf_counter() - start

    async def _resend(self) -> None:
        """What the whole feed would take one bucket, by its first pages."""
        seq = events = nbytes = 0
        start = time.perf_counter()
        for _ in range(PAGES):
            request = m.Feed(self._incarnation, seq, 0)
            batch = (await self._service.handle(bucket_caller(0), request)).message
            seq = batch.next_seq
            events += len(batch.events)
            nbytes += sum(map(len, batch.events))
        share = events / USERS
        self.figures.note("resend_ms", (time.perf_counter() - start) / share * 1000)
        self.figures.note("resend_mib", nbytes / share / (1 << 20))


async def measure(directory: Path) -> Figures:
    """Every round's figures."""
    async with running_index(directory / "index", BUCKETS) as service:
        first = await service.handle(bucket_caller(0), m.Feed(0, 0, 0))
    incarnation = first.message.incarnation
    await trio.to_thread.run_sync(load, directory / "index", incarnation)
    with recorded_connections() as connections:
        async with running_index(directory / "index", BUCKETS, again=True) as service:
            reference = Reference(connections[0], directory / "replayed")
            rounds = Rounds(service, connections[0], reference, incarnation)
            await rounds.run()
            return rounds.figures


def main() -> int:
    """Measure and print."""
    parser = arguments_parser(__doc__)
    add_directory(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        figures = trio.run(measure, Path(directory))
    if arguments.json:
        print_json(with_ratios(figures, RATIOS))
        return 0
    print_ratios(figures, RATIOS, 1)
    medians = figures.medians()
    print(
        f"one user: {medians['lone_bytes']:.0f} bytes to each bucket;"
        f" in batches of {BATCH}: {medians['batch_bytes']:.0f} bytes and"
        f" {medians['batch_us']:.1f} us a user and bucket;"
        f" a full resend: {medians['resend_mib']:.0f} MiB to each bucket"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
