"""An index on real files, with buckets and users that are only callers of it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import fields
from pathlib import Path
from unittest import mock

from ostnode.env import SystemClock, SystemRng, ThreadWorker
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, Principal
from ostnode.roles.index import IndexOptions, Rules
from ostnode.roles.index.database.sqlite import FILE_NAME
from ostnode.roles.index.opening import open_index
from ostnode.roles.index.service import IndexService
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Kind

INDEX_KEY = KeyPair(b"i" * 32)
APP = Caller(Principal(b"A" * 32), frozenset({Kind.APP}))
CLUSTER = ClusterId(bytes(16))
INCARNATION = 1_600_000_000_000_000
LIMIT = 1 << 50
ROOMY = m.Space(1 << 40, 1 << 40, 0)
USERS_AT_ONCE = 500
RULES = Rules(user_grants_max=1 << 40, user_blobs_max=1 << 40)


def principal(number: int) -> Principal:
    """A user or bucket that signs nothing here."""
    return Principal(number.to_bytes(32, "big"))


def bucket_caller(number: int) -> Caller:
    """The bucket with this number."""
    return Caller(principal((1 << 200) + number), frozenset({Kind.BUCKET}))


@asynccontextmanager
async def running_index(
    directory: Path, buckets: int = 1, *, again: bool = False
) -> AsyncIterator[IndexService]:
    """An index whose buckets have reported, unless they had before it was opened `again`."""
    callers = [bucket_caller(number) for number in range(buckets)]
    async with opened_index(directory, [caller.proven for caller in callers]) as service:
        for caller in () if again else callers:
            await service.handle(caller, m.SyncBucket(INCARNATION, 1, (), ROOMY, "http://b"))
        yield service


@asynccontextmanager
async def opened_index(
    directory: Path, buckets: Iterable[Principal]
) -> AsyncIterator[IndexService]:
    """An index of these buckets on real files, with a thread for its database."""
    settings = IndexOptions(
        cluster_id=CLUSTER,
        buckets=tuple(buckets),
        data_dir=directory,
        rules=RULES,
    )
    async with open_index(
        settings,
        INDEX_KEY,
        clock=SystemClock(),
        rng=SystemRng(),
        worker=ThreadWorker(1),
    ) as service:
        yield service


async def register(service: IndexService, users: range) -> None:
    """Register these principals with room for everything."""
    for first in range(users.start, users.stop, USERS_AT_ONCE):
        numbers = range(first, min(first + USERS_AT_ONCE, users.stop))
        changes = tuple(m.UserChange("register", principal(number), LIMIT) for number in numbers)
        await service.handle(APP, m.ChangeUsers(changes))


@contextmanager
def loading(directory: Path) -> Iterator[Callable[[type, str, list[tuple]], None]]:
    """Inserts whole rows into the tables of an index that is not open, fast and carelessly."""
    connection = sqlite3.connect(directory / FILE_NAME, isolation_level=None)
    for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000"):
        connection.execute(f"PRAGMA {setting}")
    connection.execute("BEGIN")

    def insert(kind: type, table: str, rows: list[tuple]) -> None:
        names = [field.name for field in fields(kind)]
        marks = ", ".join("?" * len(names))
        sql = f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({marks})"
        connection.executemany(sql, rows)

    yield insert
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


Statement = tuple[str, object]


class Recording(sqlite3.Connection):
    """A connection that notes its statements."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self._log: list[Statement] = []

    def taken(self) -> list[Statement]:
        """The statements of whole transactions since the last time: a heartbeat may be in one."""
        ends = [n for n, (sql, _) in enumerate(self._log, 1) if sql in {"COMMIT", "ROLLBACK"}]
        end = ends[-1] if ends else 0
        whole, self._log[:end] = self._log[:end], []
        return whole

    def execute(self, sql, parameters=(), /):
        self._log.append((sql, tuple(parameters)))
        return super().execute(sql, parameters)

    def executemany(self, sql, parameters, /):
        self._log.append((sql, parameters := list(parameters)))
        return super().executemany(sql, parameters)


@contextmanager
def recorded_connections() -> Iterator[list[Recording]]:
    """The connections that are opened within the block can record."""
    opened: list[Recording] = []
    connect = sqlite3.connect

    def recording(*arguments, **keywords):
        opened.append(connect(*arguments, factory=Recording, **keywords))
        return opened[-1]

    with mock.patch("sqlite3.connect", recording):
        yield opened


def _copied(source: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """The same database in another file, opened as the index opens its own."""
    copy = sqlite3.connect(path, isolation_level=None)
    source.backup(copy)
    for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
        copy.execute(f"PRAGMA {setting}")
    return copy


def writes_of(statements: list[Statement]) -> list[Statement]:
    """Without the questions among them, and the marks to return to."""
    asking = ("SELECT", "SAVEPOINT", "RELEASE")
    return [each for each in statements if not each[0].lstrip().startswith(asking)]


class Reference:
    """A bare loop over a copy of the index's database, in step with it."""

    def __init__(self, source: sqlite3.Connection, path: Path) -> None:
        self._copy = _copied(source, path)

    def seconds(self, statements: list[Statement]) -> float:
        """What it takes to run them, and to read every row they find."""
        execute, executemany = self._copy.execute, self._copy.executemany
        start = time.perf_counter()
        for sql, parameters in statements:
            if isinstance(parameters, list):
                executemany(sql, parameters)
            else:
                execute(sql, parameters).fetchall()
        return time.perf_counter() - start
