"""Rows are written together, and what goes wrong then is still told to the right job."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace

import pytest
from typing_extensions import override

from ostnode.errors import BusyError, OstError
from ostnode.ids import Principal, Uid
from ostnode.roles.index.core.rows import Burned, OutboxAnswer, User
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.cache import EXPECTED_TOGETHER_MAX
from ostnode.roles.index.database.engine import DatabaseFailedError, Job
from ostnode.roles.index.database.repository import run_alone
from ostnode.roles.index.database.sqlite import SqliteDatabase

ALICE = User(Uid(b"a" * 8), Principal(b"a" * 32), 1000, "refuse")
CHANGES = 50


class Noted(Job):
    """A job that remembers how its last run ended."""

    def __init__(self, operation: Callable[[Tables], None]) -> None:
        self._operation = operation
        self.error: Exception | None = None

    @override
    def run(self, tables: Tables) -> None:
        self.error = None
        self._operation(tables)

    @override
    def fail(self, error: Exception) -> None:
        self.error = error


class FailingWrites(sqlite3.Connection):
    """Fails rows that are written together with an error of the engine's."""

    code: int | None = None

    @override
    def executemany(self, sql, parameters, /):
        if self.code is not None:
            error = sqlite3.OperationalError("it does not work")
            error.sqlite_errorcode = self.code
            raise error
        return super().executemany(sql, parameters)


@pytest.fixture
def database():
    opened = SqliteDatabase(
        None, lambda place: sqlite3.connect(place, isolation_level=None, factory=FailingWrites)
    )
    yield opened
    opened.close()


def burn(number: int) -> Callable[[Tables], None]:
    row = Burned(Principal(bytes([number]) * 32), number)
    return lambda tables: tables.burned.put(row)


def burned(database: SqliteDatabase) -> list[int]:
    return [row.burned_at for row in run_alone(database, lambda tables: tables.burned.where())]


def spend(tables: Tables) -> None:
    user = tables.users.get(ALICE.uid)
    assert user is not None
    tables.users.put(replace(user, used=user.used + 1))


def test_a_row_is_read_once_and_written_once(database) -> None:
    run_alone(database, lambda tables: tables.users.put(ALICE))
    statements: list[str] = []
    database._connection.set_trace_callback(statements.append)
    database.run_batch([Noted(spend) for _ in range(CHANGES)])
    database._connection.set_trace_callback(None)
    kinds = [statement.split()[0] for statement in statements]
    assert kinds == ["BEGIN", "SELECT", "INSERT", "COMMIT"]
    assert run_alone(database, lambda tables: tables.users.get(ALICE.uid)).used == CHANGES


def test_rows_that_are_expected_are_read_together_and_by_their_key(database) -> None:
    keys = [(Principal(bytes([number]) * 32), number) for number in range(CHANGES)]
    answers = [OutboxAnswer(*key, b"d", b"", 0) for key in keys]
    run_alone(database, lambda tables: [tables.answers.put(answer) for answer in answers])
    asked = [*keys, (Principal(bytes(32)), CHANGES), keys[0]]
    statements: list[str] = []

    def read(tables: Tables) -> list[OutboxAnswer | None]:
        tables.answers.expect(asked)
        return [tables.answers.get(*key) for key in asked]

    database._connection.set_trace_callback(statements.append)
    found = run_alone(database, read)
    database._connection.set_trace_callback(None)
    assert found == [*answers, None, answers[0]]
    assert [statement.split()[0] for statement in statements] == ["BEGIN", "WITH", "COMMIT"]
    plan = database._connection.execute(f"EXPLAIN QUERY PLAN {statements[1]}").fetchall()
    assert "SEARCH outbox_answers USING INDEX" in plan[-1][-1]


def test_more_rows_are_expected_than_one_question_takes(database) -> None:
    count = EXPECTED_TOGETHER_MAX + 1
    keys = [(number.to_bytes(8, "big"),) for number in range(count)]

    def read(tables: Tables) -> list[User | None]:
        tables.users.expect(keys)
        return [tables.users.get(*key) for key in keys]

    run_alone(database, lambda tables: tables.users.put(replace(ALICE, uid=Uid(keys[-1][0]))))
    statements: list[str] = []
    database._connection.set_trace_callback(statements.append)
    found = run_alone(database, read)
    database._connection.set_trace_callback(None)
    assert [user is not None for user in found] == [False] * (count - 1) + [True]
    assert [text.split()[0] for text in statements] == ["BEGIN", "WITH", "WITH", "COMMIT"]


def test_a_value_that_the_engine_does_not_take_fails_its_job_alone(database) -> None:
    jobs = [
        Noted(burn(1)),
        Noted(lambda tables: tables.users.put(replace(ALICE, byte_limit=1 << 70))),
        Noted(burn(2)),
    ]
    database.run_batch(jobs)
    assert [type(job.error) for job in jobs] == [type(None), OverflowError, type(None)]
    assert burned(database) == [1, 2]
    assert run_alone(database, lambda tables: tables.users.where()) == []


def test_a_job_that_was_refused_the_first_time_may_succeed_the_second(database) -> None:
    """The batch is run again without the job that took its place before."""

    def refused_if_burned(tables: Tables) -> None:
        if tables.burned.where():
            raise OstError("too late")
        burn(2)(tables)

    def stumble(tables: Tables) -> None:
        burn(1)(tables)
        tables.users.put(replace(ALICE, byte_limit=1 << 70))

    jobs = [Noted(stumble), Noted(refused_if_burned)]
    database.run_batch(jobs)
    assert [type(job.error) for job in jobs] == [OverflowError, type(None)]
    assert burned(database) == [2]


def test_no_room_for_what_is_written_together_had_no_effect(database) -> None:
    database._connection.code = sqlite3.SQLITE_FULL
    jobs = [Noted(burn(1)), Noted(burn(2))]
    database.run_batch(jobs)
    assert [type(job.error) for job in jobs] == [BusyError, BusyError]
    database._connection.code = None
    assert burned(database) == []
    database.run_batch([Noted(burn(3))])
    assert burned(database) == [3]


def test_a_disk_that_fails_what_is_written_together_ends_the_node(database) -> None:
    database._connection.code = sqlite3.SQLITE_IOERR
    jobs = [Noted(burn(1)), Noted(burn(2))]
    with pytest.raises(DatabaseFailedError):
        database.run_batch(jobs)
    assert [type(job.error) for job in jobs] == [DatabaseFailedError, DatabaseFailedError]


def test_what_a_refused_block_has_seen_is_forgotten_with_it(database) -> None:
    def work(tables: Tables) -> None:
        with pytest.raises(OstError), tables.alone():  # noqa: PT012  a block like a decision's
            burn(1)(tables)
            assert len(tables.burned.where()) == 1
            raise OstError("no")
        assert tables.burned.where() == []
        burn(2)(tables)

    run_alone(database, work)
    assert burned(database) == [2]


def test_a_row_that_changes_again_is_found_by_what_it_is_now(database) -> None:
    def work(tables: Tables) -> None:
        tables.users.put(ALICE)
        assert tables.users.where(used=0) == [ALICE]
        spend(tables)
        spend(tables)
        assert tables.users.where(used=0) == tables.users.where(used=1) == []
        assert len(tables.users.where(used=2)) == 1

    run_alone(database, work)


def test_rows_that_a_condition_deletes_are_known_no_more(database) -> None:
    answer = OutboxAnswer(ALICE.principal, 1, b"digest", b"", 0)

    def work(tables: Tables) -> OutboxAnswer | None:
        tables.answers.put(answer)
        tables.drop_answers_before(ALICE.principal, 2)
        return tables.answers.get(ALICE.principal, 1)

    # Not asserted within: what fails behind a write is run again on the plain tables.
    assert run_alone(database, work) is None
