"""The index's database of a simulated machine: the real engine, in memory, across processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path

from typing_extensions import override

from ostnode.roles.index import DatabaseFailedError, SqliteDatabase
from ostnode.roles.index.core.resync import take_incarnation
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.engine import Database, Job
from ostnode.roles.index.database.repository import run_alone
from ostnode.roles.index.database.sqltables import SqlTables
from ostnode.store.simdisk import SimCrash


class Moment(Enum):
    """When within a transaction a process dies."""

    BEFORE_COMMIT = "before"
    AFTER_COMMIT = "after"


class SimDatabase:
    """What is committed outlives the process, and can be set back to a backup.

    Each process opens it anew; the one before is shut out by that.
    """

    def __init__(self) -> None:
        self._connection = _connect()
        self._tables = SqlTables(self._connection)
        self._engine: _Engine | None = None
        self.crash_at: Moment | None = None
        """The next transaction does not come further."""
        self.on_commit: Callable[[], None] = _nothing

    def open(self, _directory: Path | None = None) -> Database:
        """A process opens it; for `Seams.make_database`."""
        self.shut_out()
        self._engine = _Engine(self, self._connection)
        return self._engine

    def shut_out(self) -> None:
        """The process that has it open is gone."""
        if self._engine is not None:
            self._engine.over = True
            self._engine = None
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def tables(self) -> Tables:
        """What is committed; to be read between transactions, and never written."""
        return self._tables

    def backup(self) -> bytes:
        """Everything that is committed."""
        copy = _connect()
        try:
            # Of a database that was put back itself, serialize() alone leaves out what came since.
            self._connection.backup(copy)
            return copy.serialize()
        finally:
            copy.close()

    def restore(self, backup: bytes, now_us: int | None = None) -> None:
        """Set it back, while no process has it open.

        With `now_us` the operator says so, as `ostnode index restored` does.
        """
        self.shut_out()
        self.crash_at = None
        self._connection = _connect()
        self._connection.deserialize(backup)
        self._tables = SqlTables(self._connection)
        if now_us is not None:
            run_alone(self.open(), partial(take_incarnation, now_us=now_us))
            self.shut_out()


class _Engine(SqliteDatabase):
    """One process's engine."""

    def __init__(self, database: SimDatabase, connection: sqlite3.Connection) -> None:
        self._database = database
        self.over = False
        super().__init__(None, lambda _place: connection)

    @override
    def run_batch(self, jobs: Sequence[Job]) -> bool:
        if self.over:
            raise DatabaseFailedError("this process is gone")
        if self._database.crash_at is Moment.BEFORE_COMMIT:
            raise SimCrash
        urgent = super().run_batch(jobs)
        self._database.on_commit()
        if self._database.crash_at is Moment.AFTER_COMMIT:
            raise SimCrash
        return urgent

    @override
    def close(self) -> None:
        """The memory stays."""


def _connect() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, timeout=0)


def _nothing() -> None:
    pass
