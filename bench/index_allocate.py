"""Allocations through the index service against a bare SQLite loop, interleaved, medians of rounds.

`IndexService.handle(Allocate)` by many tasks at once, of many users, each for a new blob: up to 64
share a transaction and its sync. The references are bare loops over a copy of the database with the
same settings: the same rows, groups and syncs, without decisions, grants and tasks:

- asked: every question and every change of a row as the decisions make them, one statement each;
- together: the statements that ours needs with its memory of the transaction, where each row is
  written once, and those of a table together;
- writes: the changes among these alone.

Beside them, ours without that memory, and with one allocation to a transaction. Every grant that is
given is signed (Ed25519, in COSE): `signing` is that alone, in one thread.
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
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.roles.index.service import IndexService
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller

ROUNDS = 7
USERS, TASKS, BUCKETS = 10_000, 256, 4
ALLOCATIONS, UNGROUPED, SIGNATURES = 4096, 256, 1000
RATIOS = (
    Ratio("ratio", "allocations /s, asked", "grouped", "asked", ">= 0.5"),
    Ratio("together_ratio", "  together", "grouped", "together"),
    Ratio("writes_ratio", "  writes", "grouped", "writes"),
    Ratio("memory_ratio", "  ours without a memory", "grouped", "plain"),
    Ratio("grouping", "  one to a transaction", "grouped", "ungrouped", ">= 3"),
    Ratio("cpu_ratio", "us of CPU: asked, ours", "asked_cpu_us", "grouped_cpu_us"),
    Ratio("signing_share", "us of CPU: signing, ours", "signing_us", "grouped_cpu_us"),
)


class Rounds:
    """Both sides on one file system, in turns."""

    def __init__(self, directory: Path, service: IndexService, connection: Recording) -> None:
        self.figures = Figures()
        self._service = service
        self._connection = connection
        self._whole = Reference(connection, directory / "whole")
        self._writes = Reference(connection, directory / "writes")
        self._asked = 0

    async def run(self) -> None:
        """Ours comes first, as its statements are the references'."""
        self._connection.taken()
        for _ in range(ROUNDS):
            statements, given = await self._ours("grouped", ALLOCATIONS)
            self._reference("together", self._whole, statements)
            self._reference("writes", self._writes, writes_of(statements))
            with mock.patch.object(SqliteDatabase, "_run_with_memory", return_value=False):
                statements, _ = await self._ours("plain", ALLOCATIONS)
            self._reference("asked", self._whole, statements)
            self._writes.seconds(writes_of(statements))
            with mock.patch.object(repository, "BATCH_JOBS_MAX", 1):
                statements, _ = await self._ours("ungrouped", UNGROUPED)
            self._whole.seconds(statements)
            self._writes.seconds(writes_of(statements))
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

    async def _ours(self, name: str, count: int) -> tuple[list[Statement], m.Allocation]:
        cpu = time.process_time()
        seconds, given = await self._allocate(count)
        statements = self._connection.taken()
        self.figures.note(f"{name}_cpu_us", (time.process_time() - cpu) / count * 1e6)
        self.figures.note(name, count / seconds)
        self.figures.note(f"{name}_statements", len(statements) / count)
        return statements, given

    def _reference(self, name: str, reference: Reference, statements: list[Statement]) -> None:
        cpu = time.process_time()
        self.figures.note(name, ALLOCATIONS / reference.seconds(statements))
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
        start = time.process_time()
        for _ in range(SIGNATURES):
            mint_grant(INDEX_KEY, grant)
        self.figures.note("signing_us", (time.process_time() - start) / SIGNATURES * 1e6)


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
        f"statements for an allocation: {medians['grouped_statements']:.1f},"
        f" without a memory {medians['plain_statements']:.1f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
