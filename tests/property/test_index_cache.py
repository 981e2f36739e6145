"""The tables with a memory against the plain ones: the same jobs see and leave the same rows."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.roles.index.core.rows import (
    FeedRow,
    OpenGrant,
    OutboxAnswer,
    Unstamped,
    User,
)
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.engine import Job
from ostnode.roles.index.database.sqlite import SqliteDatabase

BUCKET = Principal(b"b" * 32)

Action = Callable[[Tables], object]
BATCHES = 12
REFUSED, NESTED, HALF = 0.3, 0.25, 0.5


class RefusalError(Exception):
    """A decision says no."""


class Plain(SqliteDatabase):
    """Runs every batch as one that has been taken back."""

    @override
    def _run_with_memory(self, jobs) -> bool:
        return False


class Program(Job):
    """A job that notes what it sees; `raised` is how its last run ended."""

    def __init__(self, actions: list[Action]) -> None:
        self._actions = actions
        self.seen: list[object] = []
        self.raised: type[Exception] | None = None

    @override
    def run(self, tables: Tables) -> None:
        self.seen, self.raised = [], None
        for action in self._actions:
            self.seen.append(action(tables))

    @override
    def fail(self, error: Exception) -> None:
        self.raised = type(error)


def uid(number: int) -> Uid:
    return Uid(bytes([number]) * 8)


def person(number: int) -> Principal:
    return Principal(bytes([number]) * 32)


def blob(number: int) -> BlobId:
    return BlobId(bytes([number]) * 32)


def grant_id(number: int) -> GrantId:
    return GrantId(bytes([number]) * 16)


# --- actions: each returns what it has seen ---


def put_user(number: int, who: int, used: int, *, deleted: bool) -> Action:
    user = User(uid(number), person(who), 10, "refuse", used=used, deleted=deleted)
    return lambda tables: tables.users.put(user)


def put_grant(number: int, whose: int, what: int, end: int, *, revoking: bool) -> Action:
    grant = OpenGrant(
        grant_id(number), uid(whose), blob(what), BUCKET, 5, 1, 5, end, revoking=revoking
    )
    return lambda tables: tables.grants.put(grant)


def put_answer(seq: int, end: int) -> Action:
    return lambda tables: tables.answers.put(OutboxAnswer(BUCKET, seq, b"d", b"", end))


def put_feed(number: int, seq: int) -> Action:
    return lambda tables: tables.feed.put(FeedRow(bytes([number]), seq, b"", b"event"))


def mark(number: int, *, urgent: bool) -> Action:
    def announce(tables: Tables) -> None:
        entity = bytes([number])
        if tables.unstamped.get(entity) is None:
            tables.unstamped.put(Unstamped(entity, tables.next_place(), urgent))

    return announce


def look(number: int, other: int, *, truth: bool) -> list[Action]:
    return [
        lambda tables: tables.users.get(uid(number)),
        lambda tables: tables.live_user(person(number)),
        lambda tables: tables.users.where(principal=person(number)),
        lambda tables: tables.users.where(deleted=truth, used=other),
        lambda tables: tables.grants.get(grant_id(number)),
        lambda tables: tables.grants.where(uid=uid(number), blob_id=blob(other)),
        lambda tables: tables.grants.where(revoking=truth),
        lambda tables: tables.grants.where(),
        lambda tables: tables.grants_ended(BUCKET, number, 2),
        lambda tables: tables.answers_between(BUCKET, number, other),
        lambda tables: tables.feed.where(seq=number),
        lambda tables: tables.feed_after(number, BUCKET, 2),
        lambda tables: marks(tables, 2, urgent_only=truth),
        lambda tables: tables.totals(),
        lambda tables: tables.users.expect([(uid(other),), (uid(number),), (uid(other),)]),
        lambda tables: tables.answers.expect([(BUCKET, other), (BUCKET, number)]),
        lambda tables: tables.answers.get(BUCKET, number),
    ]


def marks(tables: Tables, limit: int, *, urgent_only: bool) -> list[bytes]:
    """In order; the places themselves may leave gaps."""
    found = tables.unstamped_in_order(limit, urgent_only=urgent_only)
    return [row.entity for row in found]


def drop(number: int) -> list[Action]:
    return [
        lambda tables: tables.users.drop(uid(number)),
        lambda tables: tables.grants.drop(grant_id(number)),
        lambda tables: tables.feed.drop(bytes([number])),
        lambda tables: tables.unstamped.drop(bytes([number])),
        lambda tables: tables.answers.drop(BUCKET, number),
        lambda tables: tables.drop_answers_before(BUCKET, number),
    ]


def refuse(_: Tables) -> None:
    raise RefusalError


def block(actions: list[Action]) -> Action:
    """The actions alone; a refusal takes them back, and the job goes on."""

    def run(tables: Tables) -> list[object]:
        seen: list[object] = []
        try:
            with tables.alone():
                seen.extend(action(tables) for action in actions)
        except RefusalError:
            seen.append("refused")
        return seen

    return run


class Author:
    """Writes jobs over very few rows, so that they meet: by a seed, as long as one likes."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def batch(self) -> list[list[Action]]:
        return [self.actions(8, depth=2) for _ in range(self._random.randint(1, 5))]

    def actions(self, most: int, depth: int) -> list[Action]:
        """They may end in a refusal."""
        made = [self._action(depth) for _ in range(self._random.randint(1, most))]
        if self._random.random() < REFUSED:
            made.append(refuse)
        return made

    def _action(self, depth: int) -> Action:
        if depth and self._random.random() < NESTED:
            return block(self.actions(5, depth - 1))
        one, two, three = (self._random.randint(0, 2) for _ in range(3))
        truth = self._random.random() < HALF
        write = self._random.choice([
            put_user(one, self._random.randint(0, 4), three, deleted=truth),
            put_grant(one, two, self._random.randint(0, 4), three, revoking=truth),
            put_answer(one, two),
            put_feed(one, self._random.randint(0, 100)),
            mark(one, urgent=truth),
        ])
        looks, drops = look(one, two, truth=truth), drop(one)
        return self._random.choice([write, write, *map(self._random.choice, (looks, looks, drops))])


class Watched(SqliteDatabase):
    """Fails for what the plain tables would only hide."""

    @override
    def _ends_the_batch(self, error: Exception) -> bool:
        assert isinstance(error, RefusalError | sqlite3.IntegrityError), error
        return super()._ends_the_batch(error)


@contextmanager
def two_databases() -> Iterator[tuple[Watched, Plain]]:
    cached, plain = Watched(None), Plain(None)
    yield cached, plain
    cached.close()
    plain.close()


def run(database: SqliteDatabase, jobs: list[list[Action]]) -> list[Program]:
    made = [Program(job) for job in jobs]
    database.run_batch(made)
    return made


def everything(database: SqliteDatabase) -> list[object]:
    whole: list[Action] = [
        lambda tables: tables.users.where(),
        lambda tables: tables.grants.where(),
        lambda tables: tables.answers.where(),
        lambda tables: tables.feed.where(),
        lambda tables: marks(tables, 10, urgent_only=False),
    ]
    return run(database, [whole])[0].seen


@given(st.integers(0, 1 << 64))
def test_a_memory_changes_nothing(seed: int) -> None:
    author = Author(seed)
    with two_databases() as (cached, plain):
        for _ in range(BATCHES):
            jobs = author.batch()
            ours, theirs = run(cached, jobs), run(plain, jobs)
            again = cached._cached.spoiled
            if not again and any(each.raised is sqlite3.IntegrityError for each in theirs):
                # What the memory never wrote did no harm: two rows under one name, for a moment.
                return
            assert [each.raised for each in ours] == [each.raised for each in theirs]
            assert [each.seen for each in ours] == [each.seen for each in theirs]
            assert everything(cached) == everything(plain)
