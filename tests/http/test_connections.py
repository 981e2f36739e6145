"""The HTTP server's connections: how they end, who may hold them, what is refused."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from functools import partial

import h11
import pytest
import structlog
import trio

from ostnode.config import HttpLimits
from ostnode.web.hypercorn_trio import Exchanges
from ostnode.web.serve import serve_http
from tests.support.webkit import QUICK, exchange, raw, read_all, read_answer, serving

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def limits(**changes: float) -> HttpLimits:
    return QUICK.model_copy(update=changes)


async def reply(send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def echo(scope, receive, send) -> None:
    """Answers with the request's body."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    await reply(send, body)


async def deaf(scope, receive, send) -> None:
    """Refuses without reading the body."""
    await reply(send, b"no", 403)


async def huge(scope, receive, send) -> None:
    """Sends without end."""
    headers = [(b"content-length", b"1000000000000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while True:
        await send({"type": "http.response.body", "body": bytes(1 << 18), "more_body": True})


# --- ordinary life ------------------------------------------------------------------------------


async def test_a_connection_carries_one_request_after_the_other() -> None:
    async with serving(echo) as port, raw(port) as stream:
        for body in (b"", b"a", b"b" * 100_000):
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            await stream.send_all(head + body)
            head, answered = await read_answer(stream)
            assert head.startswith(b"HTTP/1.1 200")
            assert answered == body


async def test_pipelined_requests_are_answered_in_order() -> None:
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    chunked = (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nccc\r\n0\r\n\r\n"
    )
    async with serving(echo) as port:
        answer = await exchange(port, post + b"aaa" + post + b"bbb" + chunked + CLOSE)
    bodies = [part[-3:] for part in answer.split(b"HTTP/1.1 200")[1:]]
    assert bodies[:3] == [b"aaa", b"bbb", b"ccc"]
    assert len(bodies) == 4


async def test_requests_arrive_byte_by_byte() -> None:
    whole = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
    async with serving(echo) as port:
        answer = await exchange(port, *(whole[i : i + 1] for i in range(len(whole))))
    assert answer.endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize("request_", [CLOSE, b"GET / HTTP/1.0\r\n\r\n"])
async def test_connections_close_when_they_should(request_: bytes) -> None:
    async with serving(echo) as port:
        answer = await exchange(port, request_)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer.lower()


async def test_a_chunked_body_is_read_and_its_trailing_bytes_are_the_next_request() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(echo) as port:
        answer = await exchange(port, head, b"4\r\nab", b"cd\r\n2;x=y\r\nef\r\n0\r\n\r\n" + CLOSE)
    assert b"abcdef" in answer
    assert answer.count(b"HTTP/1.1 200") == 2


async def test_100_continue_is_said_when_the_body_is_wanted_and_only_then() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    async with serving(echo) as port, raw(port) as stream:
        await stream.send_all(head)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"abc")
        assert (await read_answer(stream))[1] == b"abc"
    async with serving(deaf) as port:
        answer = await exchange(port, head)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"connection: close" in answer.lower()


async def test_b50_a_client_that_half_closes_gets_its_answer() -> None:
    async def slow(scope, receive, send) -> None:
        await trio.sleep(0.05)
        await echo(scope, receive, send)

    async with serving(slow) as port, raw(port) as stream:
        await stream.send_all(GET)
        await stream.send_eof()
        assert (await read_all(stream)).startswith(b"HTTP/1.1 200")


async def test_large_answers_arrive_whole_though_head_and_body_leave_together() -> None:
    body = bytes(range(256)) * 12_000

    async def large(scope, receive, send) -> None:
        await reply(send, body)

    async with serving(large) as port, raw(port) as stream:
        for _ in range(2):
            await stream.send_all(GET)
            assert (await read_answer(stream))[1] == body


# --- refusals -----------------------------------------------------------------------------------

BODY_HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (BODY_HEAD + b"Content-Length: 4, 4\r\n\r\nabcd", 400),
        (BODY_HEAD + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (BODY_HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (BODY_HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (BODY_HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (BODY_HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcdXX0\r\n\r\n", 400),
        (BODY_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"A" * 40_000, 431),
    ],
)
async def test_what_could_be_smuggled_is_refused_and_the_connection_closes(
    bad: bytes, status: int
) -> None:
    async with serving(echo) as port:
        answer = await exchange(port, bad)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in answer.lower()
    assert answer.count(b"HTTP/1.1") == 1


async def test_h2c_and_websocket_upgrades_are_answered_in_http_1() -> None:
    async with serving(echo) as port:
        for upgrade in (b"h2c", b"websocket"):
            request = (
                b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: %b\r\n"
                b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nSec-WebSocket-Key: eA==\r\n\r\n" % upgrade
            )
            assert (await exchange(port, request)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("size", [10, 1 << 19, 3 << 20])
async def test_a_refused_body_is_drained_so_that_the_refusal_is_seen(size: int) -> None:
    head = BODY_HEAD + b"Content-Length: %d\r\n\r\n" % size

    async with serving(deaf, limits(drain_max=1 << 20)) as port, raw(port) as stream:

        async def send() -> None:
            try:
                await stream.send_all(head + bytes(size))
            except trio.BrokenResourceError:
                assert size > 1 << 20

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            answer, _ = await read_answer(stream)
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert (b"connection: close" in answer.lower()) == (size > 1 << 20)
        if size <= 1 << 20:
            await stream.send_all(GET)
            assert (await read_answer(stream))[0].startswith(b"HTTP/1.1 403 ")


async def test_a_failing_application_is_a_500_and_a_cut_connection_if_it_had_begun() -> None:
    async def fails(scope, receive, send) -> None:
        if scope["path"] == "/late":
            headers = [(b"content-length", b"10")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"12345", "more_body": True})
        raise RuntimeError("boom")

    async with serving(fails) as port:
        assert (await exchange(port, GET)).startswith(b"HTTP/1.1 500 ")
        cut = await exchange(port, GET.replace(b"/ ", b"/late "))
        assert cut.endswith(b"\r\n\r\n12345")


async def test_one_connections_bug_ends_one_connection(monkeypatch) -> None:
    async with serving(echo) as port:
        with monkeypatch.context() as patch, structlog.testing.capture_logs() as lines:
            patch.setattr(Exchanges, "serve_one", None)
            assert await exchange(port, CLOSE) == b""
        assert [line["event"] for line in lines] == ["connection_failed"]
        assert (await exchange(port, CLOSE)).startswith(b"HTTP/1.1 200")


async def into_buffer(scope, receive, send) -> None:
    """Reads the body by the extension, then answers."""
    buffer = bytearray(10)
    view = memoryview(buffer)
    reader = scope["extensions"]["ostnode.body"]["reader"]
    while received := await reader.read_into(view):
        view = view[received:]
    if not view:
        await reply(send, buffer)


@pytest.mark.parametrize("app", [echo, into_buffer])
async def test_a_client_that_resets_in_the_middle_of_its_body_is_gone(app) -> None:
    ended = trio.Event()

    async def watch(scope, receive, send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            ended.set()

    reset = struct.pack("ii", 1, 0)
    with structlog.testing.capture_logs() as lines:
        async with serving(watch) as port, raw(port) as stream:
            await stream.send_all(BODY_HEAD + b"Content-Length: 10\r\n\r\nabc")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            await stream.aclose()
            with trio.fail_after(2):
                await ended.wait()
    assert lines == []


async def test_a_body_goes_into_the_applications_buffer() -> None:
    head = BODY_HEAD + b"Content-Length: 10\r\nConnection: close\r\n\r\n"
    async with serving(into_buffer) as port:
        assert (await exchange(port, head + b"0123456789")).endswith(b"\r\n\r\n0123456789")
        assert (await exchange(port, head, b"01234", b"56789")).endswith(b"\r\n\r\n0123456789")
        expecting = head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        async with raw(port) as stream:
            await stream.send_all(expecting)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await stream.send_all(b"0123456789")
            assert (await read_all(stream)).endswith(b"\r\n\r\n0123456789")


# --- clients that take their time ----------------------------------------------------------------


async def test_a_slow_head_is_ended_at_its_deadline_however_it_trickles() -> None:
    async with serving(echo, limits(header_timeout=0.3)) as port, raw(port) as stream:
        started = trio.current_time()

        async def trickle() -> None:
            try:
                for byte in GET * 9:
                    await stream.send_all(bytes([byte]) if byte not in b"\r\n" else b"x")
                    await trio.sleep(0.02)
            except trio.BrokenResourceError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 408 ")
            assert 0.2 < trio.current_time() - started < 2
            nursery.cancel_scope.cancel()


async def test_a_later_head_has_the_same_deadline_from_its_first_byte_on() -> None:
    changed = limits(header_timeout=0.2, keep_alive=5)
    async with serving(echo, changed) as port, raw(port) as stream:
        await stream.send_all(GET)
        await read_answer(stream)
        await trio.sleep(0.3)
        await stream.send_all(GET[:5])
        with trio.fail_after(1):
            assert (await read_all(stream)).startswith(b"HTTP/1.1 408 ")


async def test_idle_connections_are_closed_without_a_word() -> None:
    async with serving(echo, limits(keep_alive=0.1, header_timeout=0.1)) as port:
        assert await exchange(port) == b""
        async with raw(port) as stream:
            await stream.send_all(GET)
            await read_answer(stream)
            assert await read_all(stream) == b""


async def test_an_endless_slow_body_ends_at_its_deadline() -> None:
    head = BODY_HEAD + b"Content-Length: 1000000\r\n\r\n"
    async with serving(echo, limits(body_grace=0.2, body_rate_min=1 << 20)) as port:
        assert (await exchange(port, head + b"abc")).startswith(b"HTTP/1.1 408 ")


async def test_a_body_cut_short_is_never_taken_for_whole() -> None:
    seen = []

    async def watch(scope, receive, send) -> None:
        while True:
            message = await receive()
            seen.append(message["type"])
            if message["type"] == "http.disconnect":
                return

    async with serving(watch) as port, raw(port) as stream:
        await stream.send_all(BODY_HEAD + b"Content-Length: 10\r\n\r\nabc")
        await stream.send_eof()
        assert (await read_all(stream)).startswith(b"HTTP/1.1 400 ")
    assert seen[-1] == "http.disconnect"


async def test_b50_a_reader_that_does_not_read_is_cut_and_its_application_stops() -> None:
    stopped = trio.Event()

    async def watched(scope, receive, send) -> None:
        try:
            await huge(scope, receive, send)
        finally:
            stopped.set()

    slow = limits(send_timeout=0.2, body_rate_min=1 << 24)
    async with serving(watched, slow) as port, raw(port) as stream:
        await stream.send_all(GET)
        with trio.fail_after(5):
            await stopped.wait()


async def test_b50_a_reader_that_reads_too_slowly_is_cut() -> None:
    stopped = trio.Event()

    async def watched(scope, receive, send) -> None:
        try:
            await huge(scope, receive, send)
        finally:
            stopped.set()

    async def drip(stream: trio.SocketStream) -> None:
        while True:  # enough for the kernel, which sees progress
            await stream.receive_some(1 << 14)
            await trio.sleep(0.05)

    slow = limits(send_timeout=0.4, body_rate_min=1 << 24)
    async with serving(watched, slow) as port, raw(port) as stream:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        await stream.send_all(GET)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, stream)
            with trio.fail_after(5):
                await stopped.wait()
            nursery.cancel_scope.cancel()


async def test_a_client_that_leaves_stops_its_download() -> None:
    stopped = trio.Event()

    async def watched(scope, receive, send) -> None:
        try:
            await huge(scope, receive, send)
        finally:
            stopped.set()

    async with serving(watched) as port:
        async with raw(port) as stream:
            await stream.send_all(GET)
            await stream.receive_some()
        with trio.fail_after(5):
            await stopped.wait()


async def test_the_kernel_cuts_peers_that_acknowledge_nothing() -> None:
    connection = None

    async def look(scope, receive, send) -> None:
        nonlocal connection
        connection = scope["client"]
        await reply(send, b"")

    listening = limits(send_timeout=3)
    sockets = []
    real = socket.socket.setsockopt

    def spy(self, *args) -> None:
        sockets.append(args)
        real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "setsockopt", spy)
        async with serving(look, listening) as port:
            await exchange(port, CLOSE)
    assert (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 3000) in sockets
    assert connection is not None


# --- many connections ----------------------------------------------------------------------------


async def test_b50_at_the_limit_those_who_only_wait_make_room() -> None:
    async with serving(echo, limits(connections_max=4)) as port, trio.open_nursery() as nursery:
        idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(4)]
        for stream in idle[1:]:
            await stream.send_all(b"GET / HT")  # dawdles over its head
        await trio.testing.wait_all_tasks_blocked(0.05)
        for _ in range(6):
            assert (await exchange(port, CLOSE)).startswith(b"HTTP/1.1 200")
        for stream in idle:
            nursery.start_soon(stream.aclose)


async def test_b50_when_everybody_is_busy_a_newcomer_is_told_to_come_back() -> None:
    release = trio.Event()

    async def busy(scope, receive, send) -> None:
        await release.wait()
        await reply(send, b"done")

    async with (
        serving(busy, limits(connections_max=2)) as port,
        raw(port) as first,
        raw(port) as second,
    ):
        await first.send_all(CLOSE)
        await second.send_all(CLOSE)
        await trio.sleep(0.05)
        refused = await exchange(port)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in refused
        release.set()
        assert (await read_all(first)).endswith(b"done")
        assert (await read_all(second)).endswith(b"done")
        assert (await exchange(port, CLOSE)).endswith(b"done")


@pytest.mark.slow
async def test_b50_an_honest_client_is_served_among_a_thousand_slow_ones() -> None:
    slow_body = BODY_HEAD + b"Content-Length: 1000\r\n\r\nabc"
    async with serving(echo, limits(connections_max=700)) as port:
        streams = []
        for number in range(1000):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            streams.append(stream)
            await stream.send_all(slow_body if number % 2 else b"GET / HTTP/1.1\r\nHo")
        for _ in range(5):
            with trio.fail_after(2):
                assert (await exchange(port, CLOSE)).startswith(b"HTTP/1.1 200")
        for stream in streams:
            await trio.aclose_forcefully(stream)


# --- stopping -----------------------------------------------------------------------------------


@asynccontextmanager
async def stoppable(app, changed: HttpLimits = QUICK):
    """The port, the event that stops the server, and the event that says it has."""
    stop, stopped = trio.Event(), trio.Event()

    async def serve(*, task_status) -> None:
        async with trio.open_nursery() as inner:
            start = partial(serve_http, app, "127.0.0.1:0", changed, stop=stop)
            task_status.started(await inner.start(start))
        stopped.set()

    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve)
        yield int(address.rpartition(":")[2]), stop, stopped
        nursery.cancel_scope.cancel()


async def test_b51_stopping_answers_what_is_in_hand_and_says_close() -> None:
    release = trio.Event()

    async def held(scope, receive, send) -> None:
        if scope["path"] == "/held":
            await release.wait()
        await reply(send, b"done")

    async with stoppable(held) as (port, stop, stopped), raw(port) as busy, raw(port) as idle:
        await busy.send_all(GET.replace(b"/ ", b"/held "))
        await idle.send_all(GET)
        await read_answer(idle)
        stop.set()
        await trio.sleep(0.05)
        head, _ = await read_answer_to(idle, GET)
        assert b"connection: close" in head.lower()
        assert b"connection: close" in (await exchange(port, GET)).lower()
        await trio.sleep(0.6)
        with pytest.raises(OSError, match=r"all attempts|refused"):
            await trio.open_tcp_stream("127.0.0.1", port)
        assert not stopped.is_set()
        release.set()
        assert (await read_all(busy)).endswith(b"done")
        with trio.fail_after(2):
            await stopped.wait()


async def read_answer_to(stream: trio.SocketStream, request: bytes) -> tuple[bytes, bytes]:
    await stream.send_all(request)
    return await read_answer(stream)


async def test_b51_stopping_does_not_wait_for_idle_connections() -> None:
    async with stoppable(echo) as (port, stop, stopped), raw(port) as idle, raw(port) as silent:
        await idle.send_all(GET)
        await read_answer(idle)
        stop.set()
        with trio.fail_after(2):
            await stopped.wait()
        assert await read_all(idle) == await read_all(silent) == b""


async def test_b51_stopping_waits_only_briefly_for_connections_that_come_late() -> None:
    async with stoppable(echo) as (port, stop, stopped):
        stop.set()
        await trio.sleep(0.3)
        async with raw(port) as late:
            with trio.fail_after(2):
                await stopped.wait()
            assert await read_all(late) == b""


async def test_b51_no_request_fails_while_the_server_stops() -> None:
    answered = 0

    async def client(port: int) -> None:
        nonlocal answered
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                return
            async with stream:
                last = False
                while not last:
                    await stream.send_all(GET)
                    head, _ = await read_answer(stream)
                    assert head.startswith(b"HTTP/1.1 200")
                    answered += 1
                    last = b"connection: close" in head.lower()

    async with stoppable(echo) as (port, stop, stopped), trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(client, port)
        await trio.sleep(0.1)
        stop.set()
        with trio.fail_after(3):
            await stopped.wait()
    assert answered > 100


async def test_cancelling_closes_everything_at_once_even_stuck_sends() -> None:
    sending = trio.Event()

    async def stuck(scope, receive, send) -> None:
        sending.set()
        await huge(scope, receive, send)

    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            start = partial(serve_http, stuck, "127.0.0.1:0", HttpLimits())
            address = await nursery.start(start)
            async with raw(int(address.rpartition(":")[2])) as stream:
                await stream.send_all(GET)
                await sending.wait()
                await trio.sleep(0.1)
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await read_all(stream)


# hypercorn leaves the socket that it could not bind to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_address_in_use_is_an_oserror_of_the_start() -> None:
    async with serving(echo) as port:
        with pytest.raises(OSError, match="in use"):
            await serve_http(echo, f"127.0.0.1:{port}", QUICK)


async def test_a_unix_socket_can_be_served(tmp_path) -> None:
    path = tmp_path / "http"
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_http, echo, f"unix:{path}", QUICK))
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(CLOSE)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()


async def test_answers_are_wellformed_for_a_strict_parser() -> None:
    async with serving(echo) as port:
        answer = await exchange(port, CLOSE)
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    parser.receive_data(answer)
    response = parser.next_event()
    assert isinstance(response, h11.Response)
    names = [name for name, _ in response.headers]
    assert sorted(names) == sorted(set(names))
    assert b"date" in names
    assert b"server" not in names
