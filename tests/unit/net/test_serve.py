"""The answering side against peers that break the rules: typed last words, bounded everything."""

from __future__ import annotations

import pytest
import structlog
import trio
import trio.testing

from ostnode.codec import encode
from ostnode.errors import BusyError, InternalError, NotFoundError, ShuttingDownError
from ostnode.net.intake import Intake
from ostnode.net.memory import PIPE_BYTES_MAX, memory_stream_pair
from ostnode.net.outlet import BODIES_AT_ONCE
from ostnode.net.serve import _Server
from ostnode.net.session import LinkLimits, Session
from ostnode.net.transport import LinkClosedError, StreamAbove
from ostnode.wire import incoming as i
from ostnode.wire import messages as m
from ostnode.wire.buffers import BodyBuffers
from ostnode.wire.calls import Reply
from ostnode.wire.frames import BODY_BYTES_MAX, pack_frame
from tests.support.wire_peers import (
    ADDRESS,
    ALICE,
    BLOB,
    GROUP,
    INFO,
    MALLORY,
    PUSH,
    READ,
    dialler,
    echo,
    feed,
    nobody_special,
    open_pair,
    served,
    wire,
)

LIMITS = LinkLimits(window_requests=4, queue_bytes_max=64 * 1024)


async def until_event(stream, connection):
    """The next events that the server's bytes make."""
    events = []
    while not events:
        data = await stream.receive_some()
        events = feed(connection, data, end=not data)
    return events


async def shake_hands(cluster):
    """A raw stream and its connection, proven."""
    stream = await cluster.network.connect(cluster.address)
    return stream, await prove(stream)


async def prove(stream):
    """The connection of a raw stream, proven."""
    connection = dialler()
    await stream.send_all(wire(connection.send_hello()))
    await until_event(stream, connection)
    await stream.send_all(wire(connection.send_proof()))
    await until_event(stream, connection)
    return connection


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (pack_frame(encode({"t": 99})), "invalid_argument"),
        (pack_frame(encode({"t": 1})), "invalid_argument"),
        (pack_frame(b"\xff"), "invalid_argument"),
        (b"\xff" * 8, "frame_too_large"),
        (pack_frame(encode({"t": 9, "token": 1}), b"x") + b"x", "invalid_argument"),
        (wire(dialler().send_hello()), "invalid_argument"),
    ],
)
async def test_b47_a_broken_rule_is_answered_with_a_typed_goodbye(autojump_clock, data, code):
    async with served() as cluster:
        stream, connection = await shake_hands(cluster)
        await stream.send_all(data)
        (event,) = await until_event(stream, connection)
        assert isinstance(event, i.GoawayReceived)
        assert event.final
        assert event.error.code == code
        assert await stream.receive_some() == b""


async def test_b47_a_ping_before_the_broken_rule_is_answered_by_the_goodbye_alone(autojump_clock):
    async with served() as cluster:
        stream, connection = await shake_hands(cluster)
        with structlog.testing.capture_logs() as logs:
            await stream.send_all(wire(connection.send_ping(7)) + b"\xff" * 8)
            (event,) = await until_event(stream, connection)
            assert await stream.receive_some() == b""
        assert isinstance(event, i.GoawayReceived)
        assert [entry["event"] for entry in logs] == ["peer broke the protocol"]


async def test_b47_goodbyes_without_end_are_one(autojump_clock, monkeypatch):
    drains = []

    async def drain(server):
        await trio.lowlevel.checkpoint()
        drains.append(server)

    monkeypatch.setattr(_Server, "_drain", drain)
    async with served() as cluster:
        stream, connection = await shake_hands(cluster)
        await stream.send_all(100 * wire(connection.send_goaway(ShuttingDownError())))
        await trio.testing.wait_all_tasks_blocked()
        assert len(drains) == 1


async def test_b47_the_goodbye_is_heard_though_more_was_being_sent(autojump_clock):
    async with served() as cluster:
        stream, connection = await shake_hands(cluster)
        prefix = (0).to_bytes(4, "big") + (BODY_BYTES_MAX + 1).to_bytes(4, "big")
        await stream.send_all(prefix + bytes(300_000))
        (event,) = await until_event(stream, connection)
        assert event.error.code == "frame_too_large"


class _Reset(StreamAbove, trio.abc.HalfCloseableStream):
    """Its peer resets the connection right after what it has sent."""

    async def send_eof(self):
        raise trio.BrokenResourceError


@pytest.mark.parametrize("proven", [False, True])
async def test_b47_a_peer_that_is_gone_before_the_goodbye_fails_nothing(autojump_clock, proven):
    async with served() as cluster:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster.handler, _Reset(theirs))
            connection = await prove(ours) if proven else dialler()
            await ours.send_all(b"\xff" * 8)
            (event,) = await until_event(ours, connection)
            assert isinstance(event, i.GoawayReceived)


async def test_b47_a_peer_that_never_stops_talking_is_dropped_after_the_goodbye(autojump_clock):
    async with served() as cluster:
        stream, _ = await shake_hands(cluster)
        start = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            while True:
                await stream.send_all(b"\xff" * 1000)
                await trio.sleep(0.01)
        assert trio.current_time() - start < 2


async def test_b47_a_wrong_proof_is_told_and_reaches_no_handler(autojump_clock):
    async with served() as cluster:
        stream = await cluster.network.connect(ADDRESS)
        connection = dialler(MALLORY, principal=READ.accessor)
        await stream.send_all(wire(connection.send_hello()))
        await until_event(stream, connection)
        await stream.send_all(wire(connection.send_proof()))
        (event,) = await until_event(stream, connection)
        assert event.error.code == "unauthenticated"
        assert cluster.service.asked == []


@pytest.mark.parametrize("said", [0, 1, 20])
async def test_b50_a_handshake_that_stalls_is_dropped(autojump_clock, said):
    async with served() as cluster:
        stream = await cluster.network.connect(ADDRESS)
        await stream.send_all(wire(dialler().send_hello())[:said])
        start = trio.current_time()
        assert await stream.receive_some() == b""
        assert trio.current_time() - start == pytest.approx(LinkLimits().handshake_s)


@pytest.mark.parametrize("hang_up_after", [0, 1], ids=["at once", "after the hello"])
async def test_hanging_up_in_the_handshake_is_no_error(autojump_clock, hang_up_after):
    async with served() as cluster:
        stream, connection = await cluster.network.connect(ADDRESS), dialler()
        if hang_up_after:
            await stream.send_all(wire(connection.send_hello()))
            await until_event(stream, connection)
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert cluster.network._open[ADDRESS] == []
        async with cluster.link() as link:
            await link.call(READ)


async def test_a_cable_cut_in_the_handshake_is_no_error(autojump_clock):
    async with served() as cluster:
        await cluster.network.connect(ADDRESS)
        await trio.testing.wait_all_tasks_blocked()
        cluster.network.sever(ADDRESS)
        async with cluster.link() as link:
            await link.call(READ)


async def test_events_that_the_state_table_forbids_are_bugs():
    await trio.lowlevel.checkpoint()
    session = Session(memory_stream_pair()[0], open_pair()[1], LIMITS)
    server = _Server(session, ALICE.principal, {}, nobody_special, LIMITS, Intake())
    with pytest.raises(AssertionError):
        server._dispatch(i.PongReceived(1), None)


async def test_a_goodbye_in_the_handshake_is_no_error(autojump_clock):
    async with served() as cluster:
        stream, connection = await cluster.network.connect(ADDRESS), dialler()
        await stream.send_all(wire(connection.send_goaway(NotFoundError())))
        assert await stream.receive_some() == b""


async def test_b50_a_dribbled_frame_is_dropped(autojump_clock):
    async with served() as cluster:
        stream, connection = await shake_hands(cluster)
        _, outgoing = connection.send_request(READ, 1000)
        start = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            for byte in wire(outgoing) * 10:
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)
        assert trio.current_time() - start < 60


async def test_b50_answers_that_nobody_reads_are_bounded_and_the_link_is_dropped(autojump_clock):
    asked = 0
    async with served(limits=LIMITS) as cluster:
        stream, _ = await shake_hands(cluster)
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            for request_id in range(1, 100_000):
                header = {"t": 4, "id": request_id, "call": 99, "ms": 1, "m": {}}
                await stream.send_all(pack_frame(encode(header)))
                asked = request_id
    # What the pipe and the queue hold, and no more, was answered: 70 bytes each.
    assert asked < 2 * (PIPE_BYTES_MAX + LIMITS.queue_bytes_max) / 70


async def test_b50_bodies_that_nobody_reads_are_not_made(autojump_clock):
    made = []

    async def serve(caller, request, body):
        await trio.lowlevel.checkpoint()
        made.append(request)
        return Reply(INFO, bytes(request.length))

    limits = LinkLimits(window_requests=32)
    async with served(serve, limits=limits) as cluster:
        stream, connection = await shake_hands(cluster)
        for _ in range(limits.window_requests):
            _, outgoing = connection.send_request(m.ReadBlob(GROUP, BLOB, 0, 1 << 20), 1000)
            await stream.send_all(wire(outgoing))
        await trio.testing.wait_all_tasks_blocked()
        queued = limits.queue_bytes_max // (1 << 20) + 2  # and the one that is being written
        assert len(made) <= BODIES_AT_ONCE + queued
        answers = 0
        while answers < limits.window_requests:
            answers += len(await until_event(stream, connection))
        assert len(made) == limits.window_requests


async def test_b50_pings_without_end_owe_one_pong(autojump_clock):
    async with served() as cluster:
        stream, connection = await shake_hands(cluster)
        await stream.send_all(b"".join(wire(connection.send_ping(n)) for n in range(1000)))
        await trio.testing.wait_all_tasks_blocked()
        pongs = feed(connection, await stream.receive_some())
        assert pongs[-1] == i.PongReceived(999)
        assert len(pongs) < 1000


async def test_readers_never_wait_on_handlers(autojump_clock):
    """A cancel overtakes the handler it is for, and a slow call does not hold up a quick one."""
    cancelled = []

    async def slow(caller, request, body):
        try:
            await trio.sleep(100)
        except trio.Cancelled:
            cancelled.append(request)
            raise

    async with served(slow) as cluster:
        stream, connection = await shake_hands(cluster)
        request_id, outgoing = connection.send_request(READ, 60_000)
        await stream.send_all(wire(outgoing))
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(wire(connection.send_cancel(request_id)))
        await stream.send_all(wire(connection.send_cancel(request_id + 5)))
        (event,) = await until_event(stream, connection)
        assert cancelled == [READ]
        assert event.id == request_id
        assert event.outcome.code == "busy"


async def test_a_handler_that_fails_while_it_is_cancelled_harms_nobody_else(autojump_clock):
    async def cleans_up_badly():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("the cleanup failed")

    async def with_tasks(caller, request, body):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cleans_up_badly)
            await trio.sleep_forever()

    async with served(with_tasks) as cluster, cluster.link() as link:
        with structlog.testing.capture_logs() as logs:
            with trio.move_on_after(1):
                await link.call(READ)
            await trio.testing.wait_all_tasks_blocked()
        cluster.service.answer = echo
        assert (await link.call(READ)).message == INFO
        assert [entry["event"] for entry in logs] == ["call failed"]


async def test_a_handler_with_tasks_that_is_cancelled_is_no_failure(autojump_clock):
    async def with_tasks(caller, request, body):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(trio.sleep_forever)

    async with served(with_tasks) as cluster, cluster.link() as link:
        with structlog.testing.capture_logs() as logs:
            with trio.move_on_after(1):
                await link.call(READ)
            await trio.testing.wait_all_tasks_blocked()
        assert logs == []


@pytest.mark.parametrize(
    "failure", [ValueError("it failed"), BaseExceptionGroup("", [ValueError()])]
)
async def test_a_handler_whose_tasks_fail_is_an_internal_error(autojump_clock, failure):
    async def with_tasks(caller, request, body):
        await trio.lowlevel.checkpoint()
        raise failure

    async with served(with_tasks) as cluster, cluster.link() as link:
        with pytest.raises(InternalError):
            await link.call(READ)


async def test_a_handler_that_fails_as_it_is_cancelled_is_cancelled_and_told_in_the_log(
    autojump_clock,
):
    async def fail_at_the_end():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("it failed")

    async def with_tasks(caller, request, body):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            nursery.start_soon(trio.sleep_forever)

    async with served(with_tasks) as cluster:
        stream, connection = await shake_hands(cluster)
        request_id, outgoing = connection.send_request(READ, 60_000)
        await stream.send_all(wire(outgoing))
        await trio.testing.wait_all_tasks_blocked()
        with structlog.testing.capture_logs() as logs:
            await stream.send_all(wire(connection.send_cancel(request_id)))
            (event,) = await until_event(stream, connection)
        assert isinstance(event.outcome, BusyError)
        assert [entry["event"] for entry in logs] == ["call failed"]


async def test_who_waits_for_a_request_keeps_no_body_of_the_last(autojump_clock):
    intake = Intake()
    async with served(intake=intake) as cluster, cluster.link() as link:
        await link.call(PUSH, bytes(1 << 20))
        cluster.service.asked.clear()
        await trio.testing.wait_all_tasks_blocked()
        assert intake.buffers._free_index(1 << 20) == 0


async def test_a_request_after_its_answer_was_cancelled_still_gets_one_answer(autojump_clock):
    async with served() as cluster:
        stream, connection = await shake_hands(cluster)
        request_id, outgoing = connection.send_request(PUSH, 1000, b"x")
        await stream.send_all(wire(outgoing))
        (event,) = await until_event(stream, connection)
        assert event.id == request_id
        await stream.send_all(wire(connection.send_cancel(request_id)))
        _, again = connection.send_request(READ, 1000)
        await stream.send_all(wire(again))
        (event,) = await until_event(stream, connection)
        assert event.outcome.message == INFO
        assert event.outcome.body == bytes(READ.length)


async def test_stopping_during_the_last_words_is_quiet(autojump_clock):
    async with served() as cluster:
        stream, _ = await shake_hands(cluster)
        await stream.send_all(b"\xff" * 8)
        await trio.testing.wait_all_tasks_blocked()
        cluster.stopping.set()
        await trio.sleep(5)
        with pytest.raises(LinkClosedError):
            async with cluster.link():
                pytest.fail("the link opened")


async def test_b51_stopping_does_not_wait_for_a_handshake(autojump_clock):
    async with served() as cluster:
        stream, connection = await cluster.network.connect(ADDRESS), dialler()
        await stream.send_all(wire(connection.send_hello()))
        await until_event(stream, connection)
        start = trio.current_time()
        cluster.stopping.set()
        assert await stream.receive_some() == b""
        assert trio.current_time() == start


async def test_an_answer_is_dropped_once_the_connection_is_over():
    """A handler may finish in the very turn in which the peer said goodbye."""
    ours, theirs = open_pair()
    feed(theirs, wire(ours.send_request(READ, 1000)[1]) + wire(ours.send_goaway(NotFoundError())))
    stream, _ = memory_stream_pair()
    session = Session(stream, theirs, LIMITS)
    server = _Server(session, ALICE.principal, {}, nobody_special, LIMITS, Intake())
    server._answer(1, NotFoundError())
    with trio.fail_after(1):
        await session.unsent.flushed()


async def test_last_words_on_a_stream_without_halves(autojump_clock, nursery):
    async with served() as cluster:

        async def whole(stream):
            await cluster.handler(StreamAbove(stream))

        cluster.address = await nursery.start(cluster.network.serve, "whole:1", whole)
        stream, connection = await shake_hands(cluster)
        await stream.send_all(b"\xff" * 8)
        (event,) = await until_event(stream, connection)
        assert event.error.code == "frame_too_large"


async def test_an_idle_link_lets_go_of_its_buffers(autojump_clock, monkeypatch):
    forgotten = []
    monkeypatch.setattr(BodyBuffers, "forget", lambda _: forgotten.append(1))
    async with served() as cluster, cluster.link() as link:
        await link.call(PUSH, bytes(1 << 20))
        assert forgotten == []
        await trio.sleep(100)
    assert forgotten
