"""Cancelling a caller, anywhere: the link lives, the window is whole, nothing is left running."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel
import trio.testing

from ostnode.errors import NotFoundError
from ostnode.net.session import LinkLimits
from ostnode.net.transport import LinkClosedError
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply
from ostnode.wire.frames import BODY_BYTES_MAX
from ostnode.wire.incoming import Answered
from tests.support.wire_peers import PUSH, READ, linked, served


async def test_a_cancelled_call_stops_its_handler_and_frees_its_place(autojump_clock):
    running = 0

    async def forever(caller, request, body):
        nonlocal running
        running += 1
        try:
            if request == READ:
                await trio.sleep_forever()
        finally:
            running -= 1
        return Reply(m.PushResult(0))

    async with linked(forever, limits=LinkLimits(window_requests=2)) as (link, _):
        for _ in range(10):
            # No deadline: only the cancel frame can tell the server.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.call, READ)
                await trio.testing.wait_all_tasks_blocked()
                assert running == 1
                nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert running == 0
        assert (await link.call(PUSH)).message == m.PushResult(0)


async def test_a_caller_cancelled_while_it_waits_for_the_window(autojump_clock):
    async def slow(caller, request, body):
        await trio.sleep(10)
        return Reply(m.PushResult(0))

    limits = LinkLimits(window_requests=1)
    async with linked(slow, limits=limits) as (link, cluster), trio.open_nursery() as nursery:
        nursery.start_soon(link.call, PUSH)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as waiting:
            for _ in range(3):
                waiting.start_soon(link.call, PUSH)
            await trio.sleep(1)
            waiting.cancel_scope.cancel()
        await link.call(PUSH)
        assert len(cluster.service.asked) == 2


async def test_a_caller_cancelled_while_its_body_is_on_the_way(autojump_clock):
    """The stream is not left in the middle of a frame: the next call works."""
    async with linked() as (link, cluster):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.call, PUSH, bytes(1 << 20))
            for _ in range(2):
                await trio.lowlevel.checkpoint()
            assert link._session.unsent.queued
            nursery.cancel_scope.cancel()
        assert (await link.call(PUSH, b"next")).message == m.PushResult(4)
        # The cancellation may come before the first has begun.
        assert cluster.service.asked[-1][-1] == b"next"


@pytest.mark.parametrize("cancel", [True, False])
async def test_a_caller_that_is_over_already_asks_for_nothing(autojump_clock, cancel):
    async with linked() as (link, cluster):
        with trio.move_on_after(0) as scope:
            if cancel:
                scope.cancel()
            await link.call(PUSH)
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert cluster.service.asked == []
        _, outgoing = link._connection.send_request(PUSH, 1000)
        assert outgoing
        assert link._connection._last_id == 1


async def test_an_answer_that_arrives_with_the_cancellation_breaks_nothing(autojump_clock):
    async with linked() as (link, _):
        for _ in range(50):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(link.call, READ)
                    for _ in range(5):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            await link.call(READ)


async def test_an_answer_in_the_turn_of_the_cancellation_needs_no_cancel_frame(autojump_clock):
    cancelled = []

    async def forever(caller, request, body):
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append(request)

    async with linked(forever) as (link, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.call, READ)
            await trio.testing.wait_all_tasks_blocked()
            (request_id,) = link._pending
            nursery.cancel_scope.cancel()
            link._handle(Answered(request_id, NotFoundError()))
        await trio.testing.wait_all_tasks_blocked()
        assert cancelled == []


@pytest.mark.parametrize("after_s", [0, 0.001, 1, 5, 9.9])
async def test_opening_can_be_cancelled_at_any_time(autojump_clock, after_s):
    async def stalls(stream):
        await stream.receive_some()
        await trio.sleep_forever()

    async with served() as cluster:
        await cluster.nursery.start(cluster.network.serve, "stalls:1", stalls)
        cluster.address = "stalls:1"
        with trio.move_on_after(after_s) as scope:
            async with cluster.link():
                pytest.fail("the link opened")
        assert scope.cancelled_caught


async def test_cancelling_the_block_closes_the_link_on_both_sides(autojump_clock):
    async def forever(caller, request, body):
        await trio.sleep_forever()

    async with served(forever) as cluster:
        with trio.move_on_after(1) as scope:
            async with cluster.link() as link:
                await link.call(READ)
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(LinkClosedError):
            await link.call(READ)
        assert cluster.network._open[cluster.address] == []


async def test_a_server_cancelled_with_a_call_in_flight_ends_the_callers_link(
    autojump_clock, nursery
):
    async def forever(caller, request, body):
        await trio.sleep_forever()

    outcome = []

    async def call(link):
        try:
            await link.call(PUSH, bytes(BODY_BYTES_MAX))
        except LinkClosedError as error:
            outcome.append(error)

    async with served(forever) as cluster, cluster.link() as link:
        nursery.start_soon(call, link)
        await trio.sleep(1)
        cluster.nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert len(outcome) == 1
