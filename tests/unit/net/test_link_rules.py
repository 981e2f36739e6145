"""A link's rules on the stream: drain from either side, half-closing, silence, one writer."""

from __future__ import annotations

import contextlib
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ostnode.codec import encode
from ostnode.errors import BusyError, DrainingError, NotFoundError
from ostnode.net.link import open_link
from ostnode.net.memory import MemoryNetwork
from ostnode.net.session import LinkLimits
from ostnode.net.transport import LinkClosedError
from ostnode.wire import incoming as i
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply
from ostnode.wire.frames import BODY_BYTES_MAX, pack_frame
from tests.support.wire_peers import (
    ADDRESS,
    ALICE,
    BUCKET,
    INFO,
    LIMITS,
    PUSH,
    READ,
    SeededRng,
    accepter,
    dialler,
    feed,
    linked,
    served,
    verify,
    wire,
)


async def until_event(stream, connection):
    """The next events that the other side's bytes make."""
    events = []
    while not events:
        data = await stream.receive_some()
        events = feed(connection, data, end=not data)
    return events


@asynccontextmanager
async def a_raw_link(answer, **options):
    """A served bucket, and a proven peer that does as the test says."""
    async with served(answer, **options) as cluster:
        stream, connection = await cluster.network.connect(cluster.address), dialler()
        await stream.send_all(wire(connection.send_hello()))
        await until_event(stream, connection)
        await stream.send_all(wire(connection.send_proof()))
        await until_event(stream, connection)
        yield stream, connection, cluster


async def slowly(caller, request, body):
    await trio.sleep(5)
    return Reply(INFO)


async def never(caller, request, body):
    await trio.sleep_forever()


# --- drain --------------------------------------------------------------------------------------


async def test_b51_a_dialler_that_drains_gets_its_answers_and_the_link_ends(autojump_clock):
    async with a_raw_link(slowly) as (stream, connection, _):
        request_id, outgoing = connection.send_request(READ, 60_000)
        goodbye = wire(connection.send_goaway(DrainingError("enough")))
        # Said twice, as a peer may: one drain is enough.
        await stream.send_all(wire(outgoing) + goodbye + goodbye)
        start = trio.current_time()
        assert await until_event(stream, connection) == [i.Answered(request_id, Reply(INFO))]
        assert await until_event(stream, connection) == [i.Closed(clean=True)]
        assert trio.current_time() - start == pytest.approx(5 + LIMITS.linger_s, abs=0.1)


async def test_a_dialler_that_drains_may_still_cancel(autojump_clock):
    async with a_raw_link(never) as (stream, connection, _):
        request_id, outgoing = connection.send_request(READ, 60_000)
        goodbye = wire(connection.send_goaway(DrainingError()))
        await stream.send_all(wire(outgoing) + goodbye + wire(connection.send_cancel(request_id)))
        (event,) = await until_event(stream, connection)
        assert isinstance(event.outcome, BusyError)
        assert await until_event(stream, connection) == [i.Closed(clean=True)]


async def test_a_final_goodbye_of_a_dialler_cancels_what_it_asked(autojump_clock):
    ended = trio.Event()

    async def forever(caller, request, body):
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with a_raw_link(forever) as (stream, connection, _):
        await stream.send_all(wire(connection.send_request(READ, 60_000)[1]))
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(wire(connection.send_goaway(NotFoundError())))
        start = trio.current_time()
        assert await stream.receive_some() == b""
        await ended.wait()
        assert trio.current_time() == start


async def test_b51_a_drain_waits_for_deadlines_and_not_longer(autojump_clock):
    async with a_raw_link(never) as (stream, connection, cluster):
        _, outgoing = connection.send_request(READ, 7_000)
        await stream.send_all(wire(outgoing))
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        cluster.stopping.set()
        (goodbye,) = await until_event(stream, connection)
        assert (goodbye.error.code, goodbye.final) == ("shutting_down", False)
        (event,) = await until_event(stream, connection)
        assert isinstance(event.outcome, BusyError)
        assert trio.current_time() - start == pytest.approx(7, abs=0.1)
        assert await until_event(stream, connection) == [i.Closed(clean=True)]


# --- the end of one direction -------------------------------------------------------------------


async def test_b50_a_dialler_that_ends_its_side_ends_the_link(autojump_clock):
    """TLS knows no half-open streams: the end of one direction is the end, at once."""
    ended = trio.Event()

    async def forever(caller, request, body):
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with a_raw_link(forever) as (stream, connection, cluster):
        await stream.send_all(wire(connection.send_request(READ, 60_000)[1]))
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        await stream.send_eof()
        assert await stream.receive_some() == b""
        await ended.wait()
        assert trio.current_time() == start
        async with cluster.link() as link, trio.open_nursery() as nursery:
            nursery.start_soon(link.call, READ)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_b50_a_dialler_that_ends_its_side_within_a_frame_ends_the_link(autojump_clock):
    async with a_raw_link(never) as (stream, connection, cluster):
        outgoing = wire(connection.send_request(PUSH, 60_000, bytes(1000))[1])
        await stream.send_all(outgoing[:-1])
        await stream.send_eof()
        assert await stream.receive_some() == b""
        assert cluster.service.asked == []


@asynccontextmanager
async def a_raw_server(behave):
    """Alice's link to a server that shakes hands and then behaves as the test says."""
    network = MemoryNetwork()

    async def serve(stream):
        connection = accepter()
        for answer in (connection.send_hello, connection.send_proof):
            await until_event(stream, connection)
            await stream.send_all(wire(answer()))
        await behave(stream, connection)

    async with trio.open_nursery() as nursery:
        await nursery.start(network.serve, ADDRESS, serve)
        async with open_link(
            network, ADDRESS, signer=ALICE, verify=verify, expect=BUCKET.principal, rng=SeededRng()
        ) as link:
            yield link
        nursery.cancel_scope.cancel()


async def test_b50_an_accepter_that_ends_its_side_fails_calls_at_once(autojump_clock):
    async def end_it(stream, connection):
        await until_event(stream, connection)
        await stream.send_eof()
        await trio.sleep_forever()

    async with a_raw_server(end_it) as link:
        start = trio.current_time()
        for _ in range(2):
            with pytest.raises(LinkClosedError):
                await link.call(READ)
        assert trio.current_time() == start


async def test_an_accepter_that_drains_answers_and_hangs_up(autojump_clock):
    async def drain(stream, connection):
        (event,) = await until_event(stream, connection)
        await stream.send_all(wire(connection.send_goaway(DrainingError("moving"))))
        await trio.sleep(3)
        await stream.send_all(wire(connection.send_reply(event.id, Reply(INFO))))

    async with a_raw_server(drain) as link:
        assert (await link.call(READ)).message == INFO
        with pytest.raises(LinkClosedError, match="moving"):
            await link.call(READ)


# --- signs of life ------------------------------------------------------------------------------


async def test_b50_a_silent_dialler_is_noticed(autojump_clock):
    async with a_raw_link(never) as (stream, connection, _):
        start = trio.current_time()
        assert isinstance((await until_event(stream, connection))[0], i.PingReceived)
        assert trio.current_time() - start == pytest.approx(LIMITS.ping_interval_s, abs=0.1)
        assert await stream.receive_some() == b""
        assert trio.current_time() - start <= 3 * LIMITS.ping_interval_s


async def test_a_dialler_that_answers_pings_is_kept(autojump_clock):
    async with a_raw_link(slowly) as (stream, connection, _):
        for _ in range(20):
            (ping,) = await until_event(stream, connection)
            await stream.send_all(wire(connection.send_pong(ping.token)))
        _, outgoing = connection.send_request(READ, 60_000)
        await stream.send_all(wire(outgoing))
        assert isinstance((await until_event(stream, connection))[0], i.Answered)


async def test_a_ping_is_answered_though_every_handler_is_busy(autojump_clock):
    async with a_raw_link(never) as (stream, connection, _):
        for _ in range(4):
            await stream.send_all(wire(connection.send_request(READ, 60_000)[1]))
        start = trio.current_time()
        await stream.send_all(wire(connection.send_ping(7)))
        assert await until_event(stream, connection) == [i.PongReceived(7)]
        assert trio.current_time() == start


# --- the receiver enforces ----------------------------------------------------------------------


def request(number, body=b""):
    head = {"t": 4, "id": number, "call": 13, "ms": 60_000}
    return pack_frame(encode({**head, "m": {"grant": b"g", "chunk_index": 0}}), body) + body


@pytest.mark.parametrize(
    "frames",
    [[request(n) for n in range(1, 6)], [request(1, bytes(BODY_BYTES_MAX)), request(2, b"x")]],
    ids=["requests", "bytes"],
)  # fmt: skip
async def test_b47_who_ignores_the_window_is_cut_off(autojump_clock, frames):
    limits = LinkLimits(window_requests=4, window_bytes=BODY_BYTES_MAX)
    async with a_raw_link(never, limits=limits) as (stream, connection, cluster):
        await stream.send_all(b"".join(frames))
        (event,) = await until_event(stream, connection)
        assert isinstance(event, i.GoawayReceived)
        assert event.error.code == "busy"
        assert await stream.receive_some() == b""
        assert len(cluster.service.asked) < len(frames)


async def test_a_deadline_is_kept_though_the_caller_does_not_cancel(autojump_clock):
    async with a_raw_link(never) as (stream, connection, _):
        request_id, outgoing = connection.send_request(READ, 1500)
        start = trio.current_time()
        await stream.send_all(wire(outgoing))
        (event,) = await until_event(stream, connection)
        assert (event.id, event.outcome.code) == (request_id, "busy")
        assert trio.current_time() - start == pytest.approx(1.5, abs=0.01)


# --- one writer ---------------------------------------------------------------------------------


class OneWriter(trio.abc.HalfCloseableStream):
    """Remembers which tasks sent."""

    def __init__(self, inner, writers):
        self._inner = inner
        self._writers = writers

    async def send_all(self, data):
        self._writers.append(trio.lowlevel.current_task().name)
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None):
        return await self._inner.receive_some(max_bytes)

    async def send_eof(self):
        await self._inner.send_eof()

    async def aclose(self):
        await self._inner.aclose()


async def test_one_task_writes_however_much_is_said_at_once(autojump_clock, nursery):
    async def answer(caller, asked, body):
        await trio.sleep(0.01)
        return Reply(m.PushResult(len(body)))

    async with linked(answer) as (_, cluster):
        writers: list[str] = []

        async def watched(stream):
            await cluster.handler(OneWriter(stream, writers))

        cluster.address = await nursery.start(cluster.network.serve, "watched:1", watched)
        async with cluster.link() as link:
            handshake = len(writers)

            async def push_some(size):
                for _ in range(5):
                    with trio.move_on_after(60):
                        await link.call(PUSH, bytes(size))
                with contextlib.suppress(BusyError), trio.move_on_after(0.005):
                    await link.call(PUSH, bytes(size))

            async with trio.open_nursery() as calls:
                for number in range(20):
                    calls.start_soon(push_some, number * 1000)
            await trio.sleep(60)
            cluster.stopping.set()
            await link.wait_closed()
        assert len(writers) > handshake + 5
        (writer,) = set(writers[handshake:])
        assert writer.endswith("Session.write")
