"""An index on real files, with buckets and users that are only callers of it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from unittest import mock

from ostnode.env import SystemClock, SystemRng, ThreadWorker
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, Principal
from ostnode.roles.index import IndexOptions, Rules
from ostnode.roles.index.opening import open_index
from ostnode.roles.index.service import IndexService
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Kind

INDEX_KEY = KeyPair(b"i" * 32)
APP = Caller(Principal(b"A" * 32), frozenset({Kind.APP}))
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
    directory: Path, buckets: int = 1, **options: object
) -> AsyncIterator[IndexService]:
    """An index whose buckets have reported."""
    callers = [bucket_caller(number) for number in range(buckets)]
    settings = IndexOptions(
        cluster_id=ClusterId(bytes(16)),
        buckets=tuple(caller.proven for caller in callers),
        data_dir=directory,
        rules=RULES,
        **options,
    )
    async with open_index(
        settings,
        INDEX_KEY,
        clock=SystemClock(),
        rng=SystemRng(),
        worker=ThreadWorker(1),
    ) as service:
        for caller in callers:
            await service.handle(caller, m.SyncBucket(INCARNATION, 1, (), ROOMY, "http://b"))
        yield service


async def register(service: IndexService, users: range) -> None:
    """Register these principals with room for everything."""
    for first in range(users.start, users.stop, USERS_AT_ONCE):
        numbers = range(first, min(first + USERS_AT_ONCE, users.stop))
        changes = tuple(m.UserChange("register", principal(number), LIMIT) for number in numbers)
        await service.handle(APP, m.ChangeUsers(changes))


Statement = tuple[str, object]


class Recording(sqlite3.Connection):
    """A connection that notes its statements while it is asked to."""

    log: list[Statement] | None = None

    def execute(self, sql, parameters=(), /):
        if self.log is not None:
            self.log.append((sql, tuple(parameters)))
        return super().execute(sql, parameters)

    def executemany(self, sql, parameters, /):
        if self.log is not None:
            self.log.append((sql, parameters := list(parameters)))
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
    copy = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    source.backup(copy)
    for setting in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
        copy.execute(f"PRAGMA {setting}")
    return copy


def writes_of(statements: list[Statement]) -> list[Statement]:
    """Without the questions among them."""
    return [each for each in statements if not each[0].lstrip().startswith("SELECT")]


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
