"""Allocations through the index service against a bare SQLite loop, interleaved, medians of rounds.

- grouped: `IndexService.handle(Allocate)` by many tasks at once, of many users, each for a new
  blob: up to 64 share a transaction and its sync. The reference is a bare loop of the statements
  that these transactions ran, with their parameters, on a copy of the database with the same
  settings: the same rows, groups and syncs, without decisions, grants and tasks. Beside it, a loop
  of the writes among them alone;
- ungrouped: the same calls, one to a transaction.

Every grant that is given is signed (Ed25519); `signing` is that alone, in one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import trio
from support.indexes import (
    INCARNATION,
    INDEX_KEY,
    Recording,
    Reference,
    Statement,
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

from ostnode.identity.grants import mint_grant, open_grant
from ostnode.ids import BlobId
from ostnode.roles.index.database import repository
from ostnode.roles.index.service import IndexService
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller

ROUNDS = 7
USERS, TASKS, BUCKETS = 10_000, 256, 4
ALLOCATIONS, UNGROUPED, SIGNATURES = 4096, 768, 1000
RATIOS = (
    Ratio("ratio", "allocations /s, the same statements", "grouped", "replayed", ">= 0.5"),
    Ratio("writes_ratio", "  their writes alone", "grouped", "written"),
    Ratio("grouping", "  one to a transaction", "grouped", "ungrouped", ">= 3"),
    Ratio("cpu_ratio", "  CPU each, us", "replayed_cpu_us", "grouped_cpu_us"),
    Ratio("signing_share", "  time each, us; of it signing", "signing_us", "grouped_us"),
)


class Rounds:
    """Both sides on one file system, in turns."""

    def __init__(self, directory: Path, service: IndexService, connection: Recording) -> None:
        self.figures = Figures()
        self._service = service
        self._connection = connection
        self._references = {
            name: Reference(connection, directory / name) for name in ("replayed", "written")
        }
        self._asked = 0

    async def run(self) -> None:
        """Ours comes first, as its statements are the reference's."""
        for _ in range(ROUNDS):
            statements, given = await self._grouped()
            self._reference(statements)
            await self._ungrouped()
            self._sign(given)

    async def _allocate(self, count: int) -> tuple[float, m.Allocation]:
        """Seconds for `count` allocations by TASKS tasks; one of the answers."""
        first, self._asked = self._asked, self._asked + count
        numbers = iter(range(first, first + count))
        given = []

        async def task() -> None:
            for number in numbers:
                caller = Caller(principal(number % USERS))
                blob_id = BlobId((number * 0x9E3779B97F4A7C15 << 128).to_bytes(33, "big")[-32:])
                reply = await self._service.handle(caller, m.Allocate(blob_id, 1000))
                given[:] = [reply.message]

        start = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(task)
        return time.perf_counter() - start, given[0]

    async def _grouped(self) -> tuple[list[Statement], m.Allocation]:
        self._connection.log = statements = []
        cpu = time.process_time()
        seconds, given = await self._allocate(ALLOCATIONS)
        self._connection.log = None
        self.figures.note("grouped_cpu_us", (time.process_time() - cpu) / ALLOCATIONS * 1e6)
        self.figures.note("grouped", ALLOCATIONS / seconds)
        self.figures.note("grouped_us", seconds / ALLOCATIONS * 1e6)
        self.figures.note("statements", len(statements) / ALLOCATIONS)
        return statements, given

    async def _ungrouped(self) -> None:
        with mock.patch.object(repository, "BATCH_JOBS_MAX", 1):
            seconds, _ = await self._allocate(UNGROUPED)
        self.figures.note("ungrouped", UNGROUPED / seconds)

    def _reference(self, statements: list[Statement]) -> None:
        for name, part in (("replayed", statements), ("written", writes_of(statements))):
            cpu = time.process_time()
            seconds = self._references[name].seconds(part)
            self.figures.note(name, ALLOCATIONS / seconds)
            self.figures.note(f"{name}_cpu_us", (time.process_time() - cpu) / ALLOCATIONS * 1e6)

    def _sign(self, given: m.Allocation) -> None:
        grant = open_grant(
            given.grant,
            index=INDEX_KEY.principal,
            bucket=given.bucket.principal,
            bucket_incarnation=INCARNATION,
            now=time.time(),
            skew=60,
        )
        start = time.perf_counter()
        for _ in range(SIGNATURES):
            mint_grant(INDEX_KEY, grant)
        self.figures.note("signing_us", (time.perf_counter() - start) / SIGNATURES * 1e6)


async def measure(directory: Path) -> Figures:
    """Every round's figures."""
    with recorded_connections() as connections:
        async with running_index(directory / "index", BUCKETS) as service:
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
    medians = figures.medians()
    print(
        f"{medians['statements']:.1f} statements and {medians['grouped_cpu_us']:.0f} us of CPU each"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
