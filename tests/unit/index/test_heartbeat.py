"""The heartbeat on its own: what it does when the database has no time for it."""

from __future__ import annotations

import trio

from ostnode.errors import BusyError
from ostnode.roles.index.heartbeat import Heartbeat


class BusyAtFirst:
    """A repository that refuses some calls, then stamps nothing."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.asked_at: list[float] = []

    async def transact(self, operation) -> int:
        await trio.lowlevel.checkpoint()
        self.asked_at.append(trio.current_time())
        if len(self.asked_at) <= self.refusals:
            raise BusyError
        return 0


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
