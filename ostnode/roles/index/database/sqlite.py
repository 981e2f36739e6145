"""The embedded engine: one SQLite file, one connection, group commit."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from typing_extensions import override

from ostnode.errors import BusyError
from ostnode.roles.index.database.cache import CachedTables
from ostnode.roles.index.database.engine import (
    Database,
    DatabaseFailedError,
    DatabaseUnusableError,
    Job,
)
from ostnode.roles.index.database.schema import bring_up_to_date
from ostnode.roles.index.database.sqltables import SqlTables

FILE_NAME: Final = "index.sqlite"

_PRAGMAS: Final = (
    # Held from the first read until close: a second process is refused, and no -shm file is made.
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA journal_mode = WAL",
    # In WAL mode NORMAL would lose commits on power loss; FULL syncs the log on every COMMIT.
    "PRAGMA synchronous = FULL",
    "PRAGMA trusted_schema = OFF",
    # Of pages, 32 MiB: the upper levels of the trees of a million users.
    "PRAGMA cache_size = -32768",
    # In pages, 16 MiB of log: the default has a batch of outbox events in four wait for two more
    # syncs while its pages are copied into the file.
    "PRAGMA wal_autocheckpoint = 4000",
)
_OF_ONE_STATEMENT: Final = frozenset({
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
})
"""Primary result codes that undo the failed statement and leave the transaction usable."""
_PRIMARY_CODE_MASK: Final = 0xFF


class SqliteDatabase(Database):
    """Durability: WAL with synchronous=FULL, so a COMMIT that returned survives power loss, as
    far as the disk keeps what it has synced. A COMMIT that failed for want of room had no
    effect; any other failure of one has an unknown outcome and ends the node.

    The file is locked for as long as it is open. All calls block; they may come from any thread,
    one at a time. Without a directory the database is in memory.
    """

    def __init__(
        self, directory: Path | None, connect: Callable[[str], sqlite3.Connection] | None = None
    ) -> None:
        """Open or create the database; raises DatabaseUnusableError."""
        place = _prepared(directory) if directory else ":memory:"
        try:
            self._connection = _opened((connect or _connected)(place))
        except DatabaseUnusableError as error:
            raise DatabaseUnusableError(f"{place}: {error}") from None
        except sqlite3.Error as error:
            if _code(error) == sqlite3.SQLITE_BUSY:
                raise DatabaseUnusableError(f"{place} is in use by another process") from None
            raise DatabaseUnusableError(f"{place}: {error}") from error
        self._plain = SqlTables(self._connection)
        self._cached = CachedTables(self._connection)

    @override
    def run_batch(self, jobs: Sequence[Job]) -> bool:
        tables: SqlTables = self._cached
        try:
            if not self._run_with_memory(jobs):
                tables = self._plain
                self._run_plainly(jobs)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._give_up(jobs, error)
        return tables.urgent

    @override
    def close(self) -> None:
        self._connection.close()

    def _run_with_memory(self, jobs: Sequence[Job]) -> bool:
        """Run the jobs in a transaction; False if it had to be taken back."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._cached.begin()
        for job in jobs:
            self._run(job, self._cached)
        try:
            self._cached.write()
        except Exception as error:
            if self._ends_the_batch(error):
                raise
        if self._cached.spoiled:
            self._connection.execute("ROLLBACK")
        return not self._cached.spoiled

    def _run_plainly(self, jobs: Sequence[Job]) -> None:
        """Run the jobs in a transaction that finds whose statement fails."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._plain.urgent = False
        for job in jobs:
            self._run(job, self._plain)

    def _run(self, job: Job, tables: SqlTables) -> None:
        try:
            with tables.alone():
                job.run(tables)
        except Exception as error:
            if self._ends_the_batch(error):
                raise
            job.fail(error)
        if not self._connection.in_transaction:
            # The next job's writes would each commit on their own.
            raise sqlite3.OperationalError("the transaction was lost")

    def _ends_the_batch(self, error: Exception) -> bool:
        """Whether nothing more can be done in this transaction."""
        lost = not self._connection.in_transaction
        one_statement = _code(error) in _OF_ONE_STATEMENT
        return isinstance(error, sqlite3.Error) and (lost or not one_statement)

    def _give_up(self, jobs: Sequence[Job], error: sqlite3.Error) -> None:
        """End a batch that could not be committed; raises unless it surely had no effect."""
        error = _first(error)
        if _code(error) != sqlite3.SQLITE_FULL:
            for job in jobs:
                job.fail(DatabaseFailedError(f"the index's database failed: {error}"))
            raise DatabaseFailedError(f"the index's database failed: {error}") from error
        for job in jobs:
            job.fail(BusyError("the index's disk is full"))
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _connected(place: str) -> sqlite3.Connection:
    return sqlite3.connect(place, isolation_level=None, check_same_thread=False, timeout=0)


def _opened(connection: sqlite3.Connection) -> sqlite3.Connection:
    """A connection to a database of today's schema."""
    try:
        for statement in (*_PRAGMAS, "BEGIN IMMEDIATE"):
            connection.execute(statement)
        bring_up_to_date(connection.execute)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _first(error: sqlite3.Error) -> sqlite3.Error:
    """The failure that led to this one: a lost transaction fails its savepoints too."""
    while isinstance(error.__context__, sqlite3.Error):
        error = error.__context__
    return error


def _code(error: Exception) -> int:
    """The primary result code; misuse found by Python's own module has none and counts as ours."""
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & _PRIMARY_CODE_MASK


def _prepared(directory: Path) -> str:
    """The file's path in a directory that exists, durably, for its owner alone."""
    if not directory.is_dir():
        try:
            directory.mkdir(mode=0o700, parents=True)
            parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise DatabaseUnusableError(f"{directory}: {error.strerror}") from error
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    return str(directory / FILE_NAME)
