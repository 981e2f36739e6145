"""The repository: group commit, refusals taken back alone, failures told to everybody."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import trio
import trio.testing
from typing_extensions import override

from ostnode.env import InlineWorker, ThreadWorker
from ostnode.errors import BusyError, InvalidArgumentError, ShuttingDownError
from ostnode.ids import ClusterId, Principal
from ostnode.roles.index import DatabaseFailedError, DatabaseUnusableError, Rules
from ostnode.roles.index.core import memberrows, rows
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database import schema
from ostnode.roles.index.database.engine import Database, Job
from ostnode.roles.index.database.repository import (
    BATCH_JOBS_MAX,
    WAITING_JOBS_MAX,
    Repository,
    run_alone,
)
from ostnode.roles.index.database.sqlite import FILE_NAME, SqliteDatabase
from ostnode.wire import events as e
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from tests.support.index_cluster import IndexCluster, an_index, blob

BURNED = rows.Burned(Principal(b"a" * 32), 5)


class Counting(Database):
    """An engine that notes the size of its batches, and may be told to fail."""

    def __init__(self, inner: Database) -> None:
        self.inner = inner
        self.batches: list[int] = []
        self.before: Callable[[], None] = lambda: None

    @override
    def run_batch(self, jobs: Sequence[Job]) -> bool:
        self.batches.append(len(jobs))
        self.before()
        return self.inner.run_batch(jobs)

    @override
    def close(self) -> None:
        self.inner.close()


@pytest.fixture
def engine():
    database = Counting(SqliteDatabase(None))
    yield database
    database.close()


def _burn(number: int) -> Callable[[Tables], None]:
    row = rows.Burned(Principal(bytes([number]) * 32), number)
    return lambda tables: tables.burned.put(row)


def _count(tables: Tables) -> int:
    return len(tables.burned.where())


async def test_operations_that_wait_share_a_transaction(engine: Counting) -> None:
    repository = Repository(engine, InlineWorker(), lambda: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(repository.run)
        async with trio.open_nursery() as callers:
            for number in range(150):
                callers.start_soon(repository.transact, _burn(number))
        assert await repository.transact(_count) == 150
        nursery.cancel_scope.cancel()
    assert max(engine.batches) == BATCH_JOBS_MAX
    assert sum(engine.batches) == 151
    assert len(engine.batches) <= 5


async def test_a_refusal_is_taken_back_alone(engine: Counting) -> None:
    repository = Repository(engine, InlineWorker(), lambda: None)
    refusals: list[BaseException] = []

    def refuse(tables: Tables) -> None:
        tables.burned.put(BURNED)
        raise InvalidArgumentError("no")

    def stumble(tables: Tables) -> None:
        tables.burned.put(BURNED)
        tables.feed.put(rows.FeedRow(b"one", 1, b"", b""))
        tables.feed.put(rows.FeedRow(b"two", 1, b"", b""))

    async def expect(kind: type[Exception], operation: Callable[[Tables], None]) -> None:
        with pytest.raises(kind) as refused:
            await repository.transact(operation)
        refusals.append(refused.value)

    async with trio.open_nursery() as nursery:
        await nursery.start(repository.run)
        async with trio.open_nursery() as callers:
            callers.start_soon(repository.transact, _burn(1))
            callers.start_soon(expect, InvalidArgumentError, refuse)
            callers.start_soon(expect, sqlite3.IntegrityError, stumble)
            callers.start_soon(repository.transact, _burn(2))
        assert len(refusals) == 2
        assert await repository.transact(lambda tables: tables.burned.get(BURNED.accessor)) is None
        assert await repository.transact(lambda tables: tables.feed.where()) == []
        assert await repository.transact(_count) == 2
        nursery.cancel_scope.cancel()


async def test_a_caller_that_is_gone_before_its_turn_is_not_served(engine: Counting) -> None:
    gate = threading.Event()
    engine.before = lambda: gate.wait(5) and None
    repository = Repository(engine, ThreadWorker(1), lambda: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(repository.run)
        async with trio.open_nursery() as callers:
            callers.start_soon(repository.transact, _burn(1))
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope() as impatient:
                async with trio.open_nursery() as other:
                    other.start_soon(repository.transact, _burn(2))
                    await trio.testing.wait_all_tasks_blocked()
                    impatient.cancel()
            gate.set()
        assert await repository.transact(_count) == 1
        nursery.cancel_scope.cancel()


async def test_an_operation_whose_caller_goes_while_it_runs_is_finished(engine: Counting) -> None:
    told: list[None] = []
    gate = threading.Event()
    engine.before = lambda: gate.wait(5) and None
    repository = Repository(engine, ThreadWorker(1), lambda: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(repository.run)
        async with trio.open_nursery() as caller:
            caller.start_soon(repository.transact, _burn(1), told.append)
            await trio.testing.wait_all_tasks_blocked()
            caller.cancel_scope.cancel()
        assert told == []
        gate.set()
        assert await repository.transact(_count) == 1
        assert told == [None]
        nursery.cancel_scope.cancel()


async def test_waiting_work_is_bounded(engine: Counting) -> None:
    repository = Repository(engine, InlineWorker(), lambda: None)
    async with trio.open_nursery() as nursery:
        for _ in range(WAITING_JOBS_MAX):
            nursery.start_soon(repository.transact, _count)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(BusyError):
            await repository.transact(_count)
        nursery.cancel_scope.cancel()


async def test_who_still_waits_at_the_end_is_told(engine: Counting) -> None:
    repository = Repository(engine, InlineWorker(), lambda: None)
    told: list[str] = []

    async def ask() -> None:
        with pytest.raises(ShuttingDownError):
            await repository.transact(_burn(1))
        told.append("shutting down")

    async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
        await nursery.start(repository.run)
        for _ in range(BATCH_JOBS_MAX + 10):
            callers.start_soon(ask)
        nursery.cancel_scope.cancel()
    assert len(told) == BATCH_JOBS_MAX + 10
    with pytest.raises(ShuttingDownError):
        await repository.transact(_count)
    engine.inner.run_batch([])


async def test_nobody_is_told_yes_when_the_end_of_the_batch_was_not_seen(
    engine: Counting,
) -> None:
    repository = Repository(CutOff(engine), InlineWorker(), lambda: None)
    told: list[None] = []

    async def ask() -> None:
        with pytest.raises(ShuttingDownError):
            await repository.transact(_burn(1), told.append)

    async with trio.open_nursery() as callers:
        callers.start_soon(ask)
        with pytest.raises(KeyboardInterrupt):
            await repository.run()
    assert told == []


class CutOff(Counting):
    """An engine whose thread is interrupted after the work."""

    @override
    def run_batch(self, jobs: Sequence[Job]) -> bool:
        super().run_batch(jobs)
        raise KeyboardInterrupt


async def test_a_failed_transaction_ends_the_node_and_nobody_is_told_yes() -> None:
    database = SqliteDatabase(None)
    repository = Repository(database, InlineWorker(), lambda: None)
    failed: list[str] = []

    async def ask(operation: Callable[[Tables], None]) -> None:
        with pytest.raises(DatabaseFailedError):
            await repository.transact(operation)
        failed.append("failed")

    def break_it(tables: Tables) -> None:
        tables.burned.put(BURNED)
        database._connection.execute("ROLLBACK")

    with pytest.RaisesGroup(DatabaseFailedError):
        async with trio.open_nursery() as nursery:
            await nursery.start(repository.run)
            async with trio.open_nursery() as callers:
                callers.start_soon(ask, _burn(1))
                callers.start_soon(ask, break_it)
                callers.start_soon(ask, _burn(2))
    assert len(failed) == 3
    database.close()


class NoRoomToCommit:
    """A connection whose disk is full when the log is written."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.full = True

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.full:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._connection.execute(sql)


def test_a_commit_without_room_had_no_effect() -> None:
    database = SqliteDatabase(None)
    connection = database._connection
    database._connection = broken = NoRoomToCommit(connection)
    with pytest.raises(BusyError):
        run_alone(database, _burn(1))
    broken.full = False
    assert run_alone(database, _count) == 0
    run_alone(database, _burn(1))
    assert run_alone(database, _count) == 1
    connection.close()


async def test_a_full_disk_refuses_and_recovers(tmp_path, autojump_clock) -> None:
    async with an_index(directory=tmp_path) as index:
        connection = index.service._transact.__self__._database._connection
        ((pages,),) = connection.execute("PRAGMA page_count")
        connection.execute(f"PRAGMA max_page_count = {pages}")
        await index.change(("update", index.alice, 1 << 40))
        stored = 0
        with pytest.raises(BusyError):  # noqa: PT012  how many fit is the engine's affair
            for stored in range(2000):
                await index.allocate(index.alice, blob(stored << 200), 1)
        assert await index.account(index.alice) == (0, stored)
        await trio.sleep(3)
        connection.execute("PRAGMA max_page_count = 1000000")
        left = [x.bytes_left for x in await index.bucket.feed(wait_ms=2000)]
        assert left == [(1 << 40) - stored]
        await index.allocate(index.alice, blob(stored << 200), 1)
        assert await index.account(index.alice) == (0, stored + 1)


async def test_b38_a_restart_loses_nothing(tmp_path) -> None:
    index = IndexCluster(Rules(), tmp_path / "deep" / "er", 1)
    async with index.open():
        await index.bucket.sync()
        await index.change(("register", index.alice, 1000))
        done = await index.allocate(index.alice, blob(1), 10)
        first = await index.bucket.sync(index.bucket.completed(done))
        held = await index.allocate(index.alice, blob(2), 20)
        await index.ask(index.app, m.DeleteAccessor(index.general.principal))
        await trio.testing.wait_all_tasks_blocked()
        before = await index.status()
    async with index.open(ThreadWorker(1)):
        after = await index.status()
        assert after.incarnation == before.incarnation
        assert (tmp_path / "deep" / "er").stat().st_mode & 0o077 == 0
        assert (after.bytes_used, after.bytes_reserved) == (10, 20)
        assert await index.bucket.sync(index.bucket.completed(done), first_seq=1) == first
        assert (await index.allocate(index.alice, blob(2), 20)).grant_id == held.grant_id
        assert e.AccessorDeleted(index.general.principal) in await index.bucket.feed()


async def test_b46_a_second_process_on_one_directory_is_refused(tmp_path) -> None:
    async with an_index(directory=tmp_path):
        with pytest.raises(DatabaseUnusableError, match="in use by another process"):
            SqliteDatabase(tmp_path)


async def test_a_database_of_another_cluster_or_key_is_refused(tmp_path) -> None:
    index = IndexCluster(Rules(), tmp_path, 1)
    async with index.open():
        pass
    other = IndexCluster(Rules(), tmp_path, 1)
    other.index_key = other.alice_key
    foreign = IndexCluster(Rules(), tmp_path, 1)
    foreign.options = type(index.options)(
        cluster_id=ClusterId(bytes(16)), buckets=index.options.buckets, data_dir=tmp_path
    )
    for cluster in (other, foreign):
        with pytest.raises(DatabaseUnusableError, match="check data_dir and key_file"):
            async with cluster.open():
                pass


async def test_a_newer_schema_is_refused(tmp_path) -> None:
    index = IndexCluster(Rules(), tmp_path, 1)
    async with index.open():
        pass
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE meta SET schema_version = 99")
        connection.execute("ALTER TABLE users RENAME TO people")
    connection.close()
    before = dump(tmp_path)
    with pytest.raises(DatabaseUnusableError, match="schema 99"):
        async with index.open():
            pass
    assert dump(tmp_path) == before


async def test_a_database_of_schema_1_is_taken_up(tmp_path) -> None:
    """As the version before joining left it: without members, invites and roster."""
    index = IndexCluster(Rules(), tmp_path, 2)
    async with index.open():
        await index.bucket.sync()
        await index.change(("register", index.alice, 1000))
        held = await index.allocate(index.alice, blob(1), 10)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        undo_version_3(connection)
        for table in ADDED_BY_2:
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE meta SET schema_version = 1")
    connection.close()
    async with index.open():
        assert (await index.allocate(index.alice, blob(1), 10)).grant_id == held.grant_id
        await index.bucket.sync()
        page = await index.ask(index.operator, mb.ListMembers())
        assert [member.state for member in page.members] == ["approved", "approved"]
        assert page.epoch == int(index.clock.now())
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        assert connection.execute("SELECT schema_version FROM meta").fetchone() == (3,)
    connection.close()


OF_SCHEMA_1 = (
    "meta",
    "users",
    "grants",
    "charges",
    "placements",
    "buckets",
    "outbox_answers",
    "rejected_events",
    "blocked_principals",
    "burned_accessors",
    "accessor_deletions",
    "feed",
    "feed_unstamped",
)
ADDED_BY_2 = ("members", "invites", "roster", "index_keys")


def undo_version_3(connection: sqlite3.Connection) -> None:
    """Make the tables those of schema 2."""
    kept = {*OF_SCHEMA_1, *ADDED_BY_2}
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in names:
        if table not in kept:
            connection.execute(f"DROP TABLE {table}")
    connection.execute("DROP INDEX charges_by_age")
    connection.execute("DROP INDEX grants_by_size")
    connection.execute("CREATE INDEX grants_by_blob ON grants (blob_id)")
    for statement in schema._MIGRATIONS[2]:
        added = re.match(r"ALTER TABLE (\w+) ADD COLUMN (\w+)", statement)
        if added:
            connection.execute(f"ALTER TABLE {added[1]} DROP COLUMN {added[2]}")
    connection.execute("UPDATE meta SET schema_version = 2")


def dump(directory: Path) -> list[str]:
    """Everything in the database, as SQL."""
    connection = sqlite3.connect(directory / FILE_NAME)
    lines = list(connection.iterdump())
    connection.close()
    return lines


async def test_a_database_of_schema_2_is_taken_up_with_its_accounts(tmp_path) -> None:
    index = IndexCluster(Rules(), tmp_path, 2)
    async with index.open():
        await index.bucket.sync()
        await index.change(("register", index.alice, 1000))
        charged = await index.allocate(index.alice, blob(1), 10)
        held = await index.allocate(index.alice, blob(2), 20)
        await index.bucket.sync(index.bucket.completed(charged))
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        undo_version_3(connection)
    connection.close()
    async with index.open():
        assert await index.account(index.alice) == (10, 20)
        assert (await index.allocate(index.alice, blob(2), 20)).grant_id == held.grant_id
        await index.bucket.sync(index.bucket.completed(held), index.bucket.released(charged))
        assert await index.account(index.alice) == (20, 0)
    async with index.open():
        assert await index.account(index.alice) == (20, 0)


async def test_a_migration_that_fails_half_way_changes_nothing(tmp_path, monkeypatch) -> None:
    index = IndexCluster(Rules(), tmp_path, 1)
    async with index.open():
        pass
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        undo_version_3(connection)
    connection.close()
    before = dump(tmp_path)
    with monkeypatch.context() as patched:
        broken = {**schema._MIGRATIONS, 2: (*schema._MIGRATIONS[2], "CREATE nonsense")}
        patched.setattr(schema, "_MIGRATIONS", broken)
        with pytest.raises(DatabaseUnusableError, match="syntax error"):
            SqliteDatabase(tmp_path)
    assert dump(tmp_path) == before
    SqliteDatabase(tmp_path).close()


def test_a_file_that_is_no_database_is_refused(tmp_path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"what is this?" * 100)
    with pytest.raises(DatabaseUnusableError, match="not a database"):
        SqliteDatabase(tmp_path)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnusableError, match="Not a directory"):
        SqliteDatabase(tmp_path / "file" / "data")


def test_commits_are_synced_to_disk(tmp_path) -> None:
    database = SqliteDatabase(tmp_path)
    (mode,) = database._connection.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = database._connection.execute("PRAGMA synchronous").fetchone()
    assert (mode, synchronous) == ("wal", 2)
    database.close()


TABLES = {
    rows.Meta: "meta",
    rows.User: "users",
    rows.OpenGrant: "grants",
    rows.Charge: "charges",
    rows.Placement: "placements",
    rows.Bucket: "buckets",
    memberrows.Member: "members",
    memberrows.PastKey: "past_keys",
    memberrows.Invite: "invites",
    memberrows.RosterEpoch: "roster",
    memberrows.IndexKey: "index_keys",
    rows.OutboxAnswer: "outbox_answers",
    rows.Rejected: "rejected_events",
    rows.Blocked: "blocked_principals",
    rows.BlockedBlob: "blocked_blobs",
    rows.Chore: "chores",
    rows.Burned: "burned_accessors",
    rows.DeletionCount: "accessor_deletions",
    rows.FeedRow: "feed",
    rows.Unstamped: "feed_unstamped",
}


def test_columns_are_the_fields_of_the_rows() -> None:
    database = SqliteDatabase(None)
    for row, table in TABLES.items():
        columns = [
            name for _, name, *_ in database._connection.execute(f"PRAGMA table_info({table})")
        ]
        assert columns == [field.name for field in fields(row)]
    database.close()


async def test_no_query_scans_a_table_that_grows() -> None:
    async with an_index() as index:
        connection = index.service._transact.__self__._database._connection
        statements: set[str] = set()
        connection.set_trace_callback(statements.add)
        held = [await index.allocate(index.alice, blob(n), 1) for n in range(4)]
        await index.ask(index.alice, m.ReleaseGrant(held[0].grant_id))
        await index.bucket.feed()
        await index.bucket.sync(
            index.bucket.completed(held[1]),
            index.bucket.closed(held[2], "bucket_full"),
            e.FloorRaised(held[3].expires_at),
            index.bucket.released(held[1]),
        )
        await index.change(("delete", index.alice, 0), ("register", index.alice, 5))
        await index.ask(index.app, m.DeleteAccessor(index.general.principal))
        await index.bucket.feed()
        connection.set_trace_callback(None)
        assert len(statements) > 40
        for statement in statements:
            if not re.match("SELECT|DELETE|UPDATE", statement):
                continue
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
            scanned = {line[3] for line in plan if line[3].startswith("SCAN")}
            assert all(
                re.search(r"SCAN (buckets|feed_unstamped|chores)\b", line) for line in scanned
            )
