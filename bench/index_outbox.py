"""Outbox events applied by the index, against a bare `executemany`, interleaved, medians of rounds.

Batches of 500 events of one bucket, through `IndexService.handle(SyncBucket)`: uploads that have
completed, uploads that were cancelled, and references that went. Each batch is one transaction and
one sync. References, on copies of the database with the same settings:

- the rows that ours wrote, in the same transactions, by `executemany`, and nothing else;
- all statements that ours ran, questions too.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import trio
from support.indexes import (
    INCARNATION,
    ROOMY,
    Recording,
    Reference,
    Statement,
    bucket_caller,
    principal,
    recorded_connections,
    register,
    running_index,
    writes_of,
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

from ostnode.ids import BlobId
from ostnode.roles.index.service import IndexService
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller
from ostnode.wire.eventcodec import encode_event

ROUNDS = 7
USERS, TASKS, SIZE = 10_000, 256, 1000
BATCH, BATCHES = 500, 8
EVENTS = BATCH * BATCHES
RATIOS = (
    Ratio("writes_ratio", "events /s, executemany of the rows", "ours", "written"),
    Ratio("ratio", "  all statements", "ours", "replayed"),
    Ratio("cpu_ratio", "  CPU each, us", "written_cpu_us", "ours_cpu_us"),
)
GOAL_PER_S = 10_000


class Rounds:
    """Both sides on one file system, in turns."""

    def __init__(self, directory: Path, service: IndexService, connection: Recording) -> None:
        self.figures = Figures()
        self._service = service
        self._connection = connection
        self._references = {
            name: Reference(connection, directory / name) for name in ("replayed", "written")
        }
        self._uids = {}
        self._asked = 0
        self._next_seq = 1

    async def run(self) -> None:
        """Ours comes first, as its statements are the references'."""
        self._connection.taken()
        for _ in range(ROUNDS):
            # Two events end what each of the first half began; one ends each of the others.
            events = await self._events()
            prepared = self._connection.taken()
            await self._apply(events)
            statements = self._connection.taken()
            for name, reference in self._references.items():
                reference.seconds(prepared if name == "replayed" else writes_of(prepared))
                self._reference(name, reference, statements)

    async def _events(self) -> list[bytes]:
        """A third each: completed, released, cancelled; the first two of the same blobs."""
        allocations = await self._allocations(EVENTS * 2 // 3)
        events, released = [], []
        for number, (uid, blob_id, grant_id) in enumerate(allocations):
            if number % 2:
                events.append(e.GrantClosed(grant_id, uid, blob_id, "cancelled"))
            else:
                events.append(e.Completed(grant_id, uid, blob_id, SIZE))
                released.append(e.Released(uid, blob_id, SIZE))
        return [encode_event(event) for event in events + released]

    async def _allocations(self, count: int) -> list[tuple]:
        first, self._asked = self._asked, self._asked + count
        numbers, given = iter(range(first, first + count)), []

        async def task() -> None:
            for number in numbers:
                caller = Caller(principal(number % USERS))
                blob_id = BlobId((number * 0x9E3779B97F4A7C15 << 128).to_bytes(33, "big")[-32:])
                reply = await self._service.handle(caller, m.Allocate(blob_id, SIZE))
                given.append((await self._uid(caller), blob_id, reply.message.grant_id))

        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(task)
        return given

    async def _uid(self, caller: Caller):
        if caller.proven not in self._uids:
            user = await self._service.handle(caller, m.GetUser())
            self._uids[caller.proven] = user.message.uid
        return self._uids[caller.proven]

    async def _apply(self, events: list[bytes]) -> None:
        cpu, start = time.process_time(), time.perf_counter()
        for first in range(0, len(events), BATCH):
            batch = tuple(events[first : first + BATCH])
            request = m.SyncBucket(INCARNATION, self._next_seq, batch, ROOMY, "http://b")
            reply = await self._service.handle(bucket_caller(0), request)
            assert not reply.message.rejected
            self._next_seq += len(batch)
        self.figures.note("ours", len(events) / (time.perf_counter() - start))
        self.figures.note("ours_cpu_us", (time.process_time() - cpu) / len(events) * 1e6)

    def _reference(self, name: str, reference: Reference, statements: list[Statement]) -> None:
        part = statements if name == "replayed" else writes_of(statements)
        cpu = time.process_time()
        self.figures.note(name, EVENTS / reference.seconds(part))
        self.figures.note(f"{name}_cpu_us", (time.process_time() - cpu) / EVENTS * 1e6)


async def measure(directory: Path) -> Figures:
    """Every round's figures."""
    with recorded_connections() as connections:
        async with running_index(directory / "index") as service:
            await register(service, range(USERS))
            rounds = Rounds(directory, service, connections[0])
            await rounds.run()
            return rounds.figures


def main() -> int:
    """Measure, and print beside the goals."""
    parser = arguments_parser(__doc__)
    add_directory(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        figures = trio.run(measure, Path(directory))
    if arguments.json:
        print_json(with_ratios(figures, RATIOS))
        return 0
    print_ratios(figures, RATIOS)
    print(f"goal: {GOAL_PER_S} events a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
