"""The heartbeat on its own: what it does when the database has no time for it."""

from __future__ import annotations

import pytest
import trio

from ostnode.errors import BusyError, InternalError, ShuttingDownError
from ostnode.roles.index.core.feed import STAMPS_MAX
from ostnode.roles.index.database.engine import DatabaseFailedError
from ostnode.roles.index.heartbeat import Heartbeat


class BusyAtFirst:
    """A repository that refuses some calls, then stamps what it is given."""

    def __init__(self, refusals: int, stamps: tuple[int, ...] = ()) -> None:
        self.refusals = refusals
        self.stamps = list(stamps)
        self.asked_at: list[float] = []

    async def transact(self, operation) -> int:
        await trio.lowlevel.checkpoint()
        self.asked_at.append(trio.current_time())
        if len(self.asked_at) <= self.refusals:
            raise BusyError
        return self.stamps.pop(0) if self.stamps else 0


async def test_a_busy_database_is_asked_again_at_the_next_push(autojump_clock) -> None:
    heartbeat, repository = Heartbeat(push_interval_s=2), BusyAtFirst(refusals=2)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(heartbeat.run, repository)
        heartbeat.urge()
        await trio.sleep(7)
        nursery.cancel_scope.cancel()
    assert [at - started for at in repository.asked_at] == [0, 2, 4, 6]


async def test_urgency_does_not_wait_for_the_push(autojump_clock) -> None:
    heartbeat, repository = Heartbeat(push_interval_s=10), BusyAtFirst(refusals=0)
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(heartbeat.run, repository)
        for _ in range(3):
            await trio.sleep(1)
            heartbeat.urge()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert [round(at - started, 6) for at in repository.asked_at] == [0, 1, 2, 3, 10]


async def test_a_long_backlog_is_stamped_in_one_go(autojump_clock) -> None:
    heartbeat = Heartbeat(push_interval_s=10)
    repository = BusyAtFirst(refusals=0, stamps=(STAMPS_MAX, STAMPS_MAX, 1))
    news = heartbeat.news
    async with trio.open_nursery() as nursery:
        await nursery.start(heartbeat.run, repository)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(repository.asked_at) == 3
    assert news.is_set()
    assert not heartbeat.news.is_set()


class Broken(BusyAtFirst):
    """One that meets a row it cannot read, then is well."""

    async def transact(self, operation) -> int:
        if not self.asked_at:
            self.asked_at.append(trio.current_time())
            raise InternalError("a row that nobody can read")
        return await super().transact(operation)


async def test_a_failure_to_stamp_is_counted_and_tried_again(autojump_clock, capsys) -> None:
    heartbeat, repository = Heartbeat(push_interval_s=2), Broken(refusals=0, stamps=(1,))
    started, news = trio.current_time(), heartbeat.news
    async with trio.open_nursery() as nursery:
        await nursery.start(heartbeat.run, repository)
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert [at - started for at in repository.asked_at] == [0, 2]
    assert heartbeat.failures == 1
    assert news.is_set()
    assert "feed_not_stamped" in capsys.readouterr().out


@pytest.mark.parametrize("error", [DatabaseFailedError(), ShuttingDownError()])
async def test_the_heartbeat_ends_with_the_database(error: Exception, autojump_clock) -> None:
    class Ended(BusyAtFirst):
        async def transact(self, operation) -> int:
            await trio.lowlevel.checkpoint()
            raise error

    heartbeat = Heartbeat(push_interval_s=2)
    try:
        with trio.fail_after(1):
            await heartbeat.run(Ended(refusals=0))
    except DatabaseFailedError:
        assert isinstance(error, DatabaseFailedError)
    else:
        assert isinstance(error, ShuttingDownError)
    assert heartbeat.failures == 0
