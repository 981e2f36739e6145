"""The lease and the leader's jobs: one node at a time, and no job in another's way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
import trio
from typing_extensions import override

from ostnode.env import InlineWorker
from ostnode.errors import BusyError, ShuttingDownError
from ostnode.ids import ClusterId, Principal, Uid
from ostnode.roles.index import IndexOptions
from ostnode.roles.index.core import users
from ostnode.roles.index.core.feed import index_meta
from ostnode.roles.index.core.lease import LostLeaseError, look
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.engine import DatabaseFailedError
from ostnode.roles.index.database.repository import Repository, run_alone
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.roles.index.heartbeat import Heartbeat
from ostnode.roles.index.leading import LEASE_S, Leader, Transact
from ostnode.roles.index.opening import found
from ostnode.roles.index.upkeep import Drain, Job, Upkeep
from ostnode.wire import messages as m

T = TypeVar("T")
OPTIONS = IndexOptions(cluster_id=ClusterId(bytes(16)), buckets=())


class Shared:
    """One database as several nodes see it, and a node's way to it, which may be held up."""

    def __init__(self) -> None:
        self.database = SqliteDatabase(None)
        self.repository = Repository(self.database, InlineWorker(), lambda: None)
        self.held: set[str] = set()

    def node(self, name: str) -> Transact:
        async def transact(operation: Callable[[Tables], T], /) -> T:
            while name in self.held:  # noqa: ASYNC110  a node that is stopped and goes on later
                await trio.sleep(1)
            return await self.repository.transact(operation)

        return transact

    async def ask(self, operation: Callable[[Tables], T]) -> T:
        return await self.repository.transact(operation)

    async def register(self, number: int) -> None:
        change = m.UserChange("register", Principal(bytes([number]) * 32), 10)
        await self.ask(
            lambda tables: users.change_users(tables, (change,), lambda: Uid(bytes([number]) * 8))
        )

    async def feed_seq(self) -> int:
        return (await self.ask(index_meta)).feed_seq


@asynccontextmanager
async def shared() -> AsyncIterator[tuple[Shared, trio.Nursery]]:
    database = Shared()
    run_alone(database.database, lambda tables: found(tables, OPTIONS, Principal(bytes(32)), 5))
    async with trio.open_nursery() as nursery:
        await nursery.start(database.repository.run)
        yield database, nursery
        nursery.cancel_scope.cancel()


async def two_heartbeats(world: Shared, nursery: trio.Nursery) -> tuple[Leader, Leader]:
    """Two nodes on one database; the first leads."""
    leaders = []
    for name in ("first", "second"):
        leader = Leader(world.node(name), name.encode(), alone=False)
        await nursery.start(leader.run)
        await nursery.start(Heartbeat(1.0).run, leader)
        leaders.append(leader)
    return leaders[0], leaders[1]


async def test_b38_one_of_two_heartbeats_stamps_and_the_other_follows_it(autojump_clock) -> None:
    async with shared() as (world, nursery):
        first, second = await two_heartbeats(world, nursery)
        await world.register(1)
        await trio.sleep(10 * LEASE_S)
        assert (first.leading, second.leading) == (True, False)
        assert await world.feed_seq() == 1
        world.held.add("first")
        await trio.sleep(3 * LEASE_S)
        assert second.leading
        await world.register(2)
        await trio.sleep(2)
        assert await world.feed_seq() == 2


async def test_b38_writes_of_the_old_leader_are_refused(autojump_clock) -> None:
    async with shared() as (world, nursery):
        first, second = await two_heartbeats(world, nursery)
        world.held.add("first")
        outcome: list[str] = []

        async def late() -> None:
            try:
                await first.transact(lambda tables: outcome.append("written"))
            except LostLeaseError:
                outcome.append("refused")

        nursery.start_soon(late)
        await trio.sleep(3 * LEASE_S)
        assert first.leading, "it was held up, and believes so still"
        world.held.clear()
        await trio.sleep(2)
        assert outcome == ["refused"]
        assert (first.leading, second.leading) == (False, True)
        # It watches, and takes over in turn.
        world.held.add("second")
        await trio.sleep(3 * LEASE_S)
        lease = await world.ask(look)
        assert first.leading
        assert lease is not None
        assert (lease.holder, lease.token) == (b"first", 3)


async def test_a_node_that_has_its_database_alone_leads_at_once(autojump_clock) -> None:
    async with shared() as (world, nursery):
        for token in (1, 2):
            started = trio.current_time()
            leader = Leader(world.node("restarted"), b"x", alone=True)
            await nursery.start(leader.run)
            assert leader.leading
            assert trio.current_time() == started
            lease = await world.ask(look)
            assert lease is not None
            assert lease.token == token


async def test_work_waits_until_the_node_leads(autojump_clock) -> None:
    async with shared() as (world, nursery):
        _, second = await two_heartbeats(world, nursery)
        with trio.move_on_after(5 * LEASE_S) as waiting:
            await second.transact(look)
        assert waiting.cancelled_caught


class Noting(Job):
    """Beats; fails when told to."""

    interval_s = 5.0

    def __init__(self, name: str, *errors: BaseException) -> None:
        self.name = name
        self.errors = list(errors)
        self.beats: list[float] = []

    @override
    async def beat(self, transact: Transact) -> None:
        self.beats.append(trio.current_time())
        if self.errors:
            raise self.errors.pop(0)


async def test_a_job_that_fails_stops_no_other_and_beats_again(autojump_clock) -> None:
    bad = Noting("bad", ValueError("a bug"), BusyError(), LostLeaseError(), ValueError("again"))
    good = Noting("good")
    async with shared() as (world, nursery):
        leader = Leader(world.node("a"), b"a", alone=True)
        await nursery.start(leader.run)
        upkeep = Upkeep([bad, good])
        nursery.start_soon(upkeep.run, leader)
        await trio.sleep(22)
    assert len(bad.beats) == len(good.beats) == 5
    assert upkeep.failures == {"bad": 2, "good": 0}


async def test_a_database_that_failed_ends_the_jobs(autojump_clock) -> None:
    async with shared() as (world, nursery):
        leader = Leader(world.node("a"), b"a", alone=True)
        await nursery.start(leader.run)
        with pytest.RaisesGroup(DatabaseFailedError):
            await Upkeep([Noting("x", DatabaseFailedError())]).run(leader)


async def test_an_index_that_stops_is_no_failure_of_a_job(autojump_clock, capsys) -> None:
    job = Noting("x", ShuttingDownError())
    async with shared() as (world, nursery):
        leader = Leader(world.node("a"), b"a", alone=True)
        await nursery.start(leader.run)
        upkeep = Upkeep([job])
        await upkeep.run(leader)
    assert (len(job.beats), upkeep.failures["x"]) == (1, 0)
    assert capsys.readouterr().out == ""


async def test_work_that_waits_is_done_slice_by_slice(autojump_clock) -> None:
    left = [3, 2, 1, 0]
    async with shared() as (world, nursery):
        leader = Leader(world.node("a"), b"a", alone=True)
        await nursery.start(leader.run)
        job = Drain("drain", 60.0, lambda _: bool(left.pop(0)))
        nursery.start_soon(Upkeep([job]).run, leader)
        await trio.sleep(1)
        assert left == []
