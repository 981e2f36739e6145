"""Many links at once: what they bring is bounded together, and everybody is answered."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ostnode.errors import BusyError
from ostnode.net.intake import Intake
from ostnode.net.outlet import Outlet
from ostnode.net.serve import INTAKE_S
from ostnode.net.session import LinkLimits
from ostnode.net.workers import Workers
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply
from ostnode.wire.frames import BODY_BYTES_MAX
from tests.support.tlskit import RawPeer
from tests.support.wire_peers import (
    BLOB,
    GROUP,
    INFO,
    PUSH,
    READ,
    dialler,
    echo,
    linked,
    served,
    wire,
)

MIB = 1 << 20
BODY = bytes(MIB)
READ_MIB = m.ReadBlob(GROUP, BLOB, 0, MIB)


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


class Peer(RawPeer):
    """A raw dialler that reads when it is told."""

    async def ask(self, request):
        await self.stream.send_all(wire(self.connection.send_request(request, 60_000)[1]))

    async def count_answers(self, count):
        answers = 0
        while answers < count:
            answers += len(await self.next_events())
        return answers


async def opened(cluster):
    peer = Peer(await cluster.network.connect(cluster.address), dialler())
    await peer.open()
    return peer


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


async def push_little(link, outcomes, body=b"x" * 100):
    try:
        await link.call(PUSH, body)
    except BusyError:
        outcomes.append("busy")
    else:
        outcomes.append("pushed")


async def test_b50_a_link_waits_for_room_once_and_not_for_every_request_of_its_window(
    autojump_clock,
):
    """Small bodies arrive at once: all the while nothing more is received."""
    intake, outcomes = Intake(MIB), []
    await intake.take(MIB)
    async with linked(intake=intake) as (link, _):
        started = trio.current_time()
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(32):
                    nursery.start_soon(push_little, link, outcomes)
            assert trio.current_time() - started == pytest.approx(INTAKE_S)
        assert outcomes == ["busy"] * 64
        intake.give(MIB)
        await push_little(link, outcomes)
        await intake.take(MIB)
        await trio.sleep(INTAKE_S)
        await push_little(link, outcomes)
        assert outcomes[64:] == ["pushed", "busy"]
        assert trio.current_time() - started == pytest.approx(3 * INTAKE_S)


async def test_b50_a_link_that_waits_for_room_all_through_its_window_is_not_silent(autojump_clock):
    """Room comes late for each: nothing is received for longer than a link may be silent."""
    slow, outcomes = Slow(INTAKE_S - 0.1), []
    async with linked(slow, intake=Intake(1)) as (link, _):
        async with trio.open_nursery() as calls:
            for _ in range(30):
                calls.start_soon(push_little, link, outcomes, b"x")
        assert outcomes == ["pushed"] * 30
        assert trio.current_time() > 20 * INTAKE_S
        assert (await link.call(READ)).message


async def test_a_deadline_counts_from_when_the_request_had_come(autojump_clock):
    """Not from when there was room for its body."""
    intake, began = Intake(MIB), []
    await intake.take(MIB)

    async def note(caller, request, body):
        began.append(trio.current_effective_deadline() - trio.current_time())
        return await echo(caller, request, body)

    async with linked(note, intake=intake) as (link, _), trio.open_nursery() as nursery:

        async def ask(seconds, outcomes):
            with trio.move_on_after(seconds):
                await push_little(link, outcomes)

        nursery.start_soon(ask, 0.1, [])
        nursery.start_soon(ask, 30, [])
        await trio.sleep(1)
        intake.give(MIB)
    assert began == [pytest.approx(29, abs=0.01)]


async def test_b50_answers_that_nobody_reads_are_bounded_over_all_links(autojump_clock):
    made, outlet = [], Outlet(8 * MIB)

    async def give(caller, request, body):
        await trio.lowlevel.checkpoint()
        made.append(request)
        return Reply(INFO, bytes(request.length))

    async with served(give, outlet=outlet) as cluster:
        deaf = [await opened(cluster) for _ in range(16)]
        for peer in deaf:
            for _ in range(8):
                await peer.ask(READ_MIB)
        await trio.testing.wait_all_tasks_blocked()
        # Each has one in its pipe, and what there is room for together goes to some of them.
        assert len(deaf) + 1 <= len(made) <= len(deaf) + 8
        assert outlet.held <= (len(deaf) + 8) * MIB
        async with cluster.link() as link:
            for _ in range(3):
                assert len((await link.call(READ_MIB)).body) == MIB
        for peer in deaf:
            assert await peer.count_answers(8) == 8
        for peer in deaf:
            await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert outlet.held == 0


async def test_b50_links_that_end_leave_nothing_held(autojump_clock):
    outlet = Outlet()

    async def give(caller, request, body):
        await trio.sleep(5 if len(body) else 0)
        return Reply(INFO, bytes(MIB))

    async with served(give, outlet=outlet) as cluster:
        peer = await opened(cluster)
        for _ in range(8):
            await peer.ask(READ_MIB)
        await trio.testing.wait_all_tasks_blocked()
        assert outlet.held > 2 * MIB
        await peer.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert outlet.held == 0
