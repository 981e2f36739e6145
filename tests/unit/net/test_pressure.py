"""Many links at once: what they bring is bounded together, and everybody is answered."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ostnode.errors import BusyError
from ostnode.net.intake import Intake
from ostnode.net.serve import INTAKE_S
from ostnode.net.session import LinkLimits
from ostnode.net.workers import Workers
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply
from ostnode.wire.frames import BODY_BYTES_MAX
from tests.support.tlskit import RawPeer
from tests.support.wire_peers import PUSH, READ, dialler, echo, linked, served

MIB = 1 << 20
BODY = bytes(MIB)


class Slow:
    """Takes a while over every body, and counts those that it has at a time."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.bodies = self.most = self.served = 0

    async def __call__(self, caller, request, body):
        if isinstance(request, m.ReadBlob):
            return await echo(caller, request, body)
        self.bodies += 1
        self.most = max(self.most, self.bodies)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.bodies -= 1
        self.served += 1
        return Reply(m.PushResult(0))


async def push(link, outcomes):
    try:
        outcomes.append((await link.call(PUSH, BODY)).message)
    except BusyError as error:
        outcomes.append(error)


async def test_b50_bodies_of_all_links_together_are_bounded_and_all_are_served(autojump_clock):
    slow, intake, outcomes = Slow(0.1), Intake(3 * MIB), []
    async with served(slow, intake=intake) as cluster, trio.open_nursery() as nursery:
        for _ in range(4):
            link = await nursery.start(keep, cluster)
            for _ in range(8):
                nursery.start_soon(push, link, outcomes)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert outcomes == [m.PushResult(0)] * 32
    assert slow.most == 3
    assert intake.held == 0


async def keep(cluster, *, task_status):
    async with cluster.link() as link:
        task_status.started(link)
        await trio.sleep_forever()


async def test_b50_what_finds_no_room_in_time_is_told_so_and_the_link_lives(autojump_clock):
    slow, intake, outcomes = Slow(60), Intake(MIB), []
    async with (
        served(slow, intake=intake) as cluster,
        cluster.link() as first,
        cluster.link() as second,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push, first, [])
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(8):
                nursery.start_soon(push, second, outcomes)
            await trio.sleep(1)
            assert (await first.call(READ)).message
            await trio.sleep(8 * INTAKE_S)
            assert len(outcomes) == 8
        assert all(isinstance(outcome, BusyError) for outcome in outcomes)
        assert outcomes[0].retryable
        assert (await second.call(READ)).message
        assert (await second.call(PUSH, BODY)).message == m.PushResult(0)
    assert slow.most == 1


@pytest.mark.parametrize("moment", [0.5, 1.5])
async def test_b50_links_that_end_leave_no_room_taken(autojump_clock, moment):
    """Whether their bodies were served, waited for a worker, or waited for room."""
    slow, intake = Slow(1), Intake(2 * MIB)
    async with served(slow, intake=intake, limits=LinkLimits(window_requests=4)) as cluster:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                link = await nursery.start(keep, cluster)
                for _ in range(4):
                    nursery.start_soon(push, link, [])
            await trio.sleep(moment)
            assert intake.held == 2 * MIB
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
        assert intake.held == 0


async def test_b50_requests_that_nobody_began_to_serve_leave_no_room_taken(
    autojump_clock, monkeypatch
):
    monkeypatch.setattr(Workers, "serve", lambda *_: None)
    intake = Intake()
    async with served(intake=intake) as cluster:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push, await nursery.start(keep, cluster), [])
            await trio.sleep(1)
            assert intake.held == MIB
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
        assert intake.held == 0


async def test_b47_a_body_that_dribbles_takes_no_room_from_the_others(autojump_clock):
    intake = Intake(BODY_BYTES_MAX)
    async with served(Slow(0), intake=intake) as cluster:
        peer = RawPeer(await cluster.network.connect(cluster.address), dialler())
        await peer.open()
        _, (head, body) = peer.connection.send_request(PUSH, 60_000, BODY)
        await peer.stream.send_all(head + bytes(body[:1000]))
        await trio.sleep(1)
        assert intake.held == 0
        async with cluster.link() as link:
            assert (await link.call(PUSH, BODY)).message == m.PushResult(0)


async def test_b50_a_link_that_waits_for_room_all_through_its_window_is_not_silent(autojump_clock):
    """Small bodies arrive at once: all the while nothing more is received."""
    intake, outcomes = Intake(MIB), []
    await intake.take(MIB)
    async with linked(intake=intake) as (link, _):

        async def push_little() -> None:
            with pytest.raises(BusyError):
                await link.call(PUSH, b"x" * 100)
            outcomes.append("busy")

        async with trio.open_nursery() as nursery:
            for _ in range(32):
                nursery.start_soon(push_little)
        assert len(outcomes) == 32
        assert (await link.call(READ)).message
