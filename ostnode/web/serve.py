"""Listening sockets, the number of connections, and stopping without a failed request."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import structlog
import trio
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework
from hypercorn.utils import repr_socket_addr
from typing_extensions import override

from ostnode.config import HttpLimits
from ostnode.web.connection import Attendance, Connection
from ostnode.web.hypercorn_trio import LAST_WAIT_S

BACKLOG: Final = 1024
REQUESTS_PER_CONNECTION_MAX: Final = 10_000
DRAIN_S: Final = LAST_WAIT_S
"""Long enough for every busy keep-alive client to be told `Connection: close`: clients that find
a closed connection instead count it as a failed request (24 in 9,800; none in 18,700 with this)."""
_OVERLOADED: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)
_log = structlog.get_logger(__name__)


class Connections(Attendance):
    """Who is connected, up to `connections_max`.

    At the limit the connection that has waited longest for a request, or dawdled longest over
    its head, makes room; when all have requests in hand the newcomer is told 503.
    """

    def __init__(self, connections_max: int) -> None:
        self._max = connections_max
        self._draining = False
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}  # in the order they began to wait

    @property
    @override
    def draining(self) -> bool:
        return self._draining

    def __len__(self) -> int:
        return len(self._open)

    @override
    def waits(self, connection: Connection) -> None:
        self._waiting[connection] = None

    @override
    def works(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)

    async def serve(self, connection: Connection) -> None:
        """Run an accepted connection to its end."""
        if len(self._open) >= self._max and not self._make_room():
            await _turn_away(connection.plain)
            return
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)
            self._waiting.pop(connection, None)

    async def drain(self) -> None:
        """Make every answer its connection's last; in the end close those that asked nothing.

        Connections that come during the drain wait only LAST_WAIT_S for their one request.
        """
        self._draining = True
        idle = list(self._waiting)
        await trio.sleep(DRAIN_S)
        for connection in idle:
            if connection in self._waiting:
                connection.stop_waiting()

    def abort_all(self) -> None:
        """Close every socket at once, under shielded sends as well."""
        for connection in self._open:
            connection.abort()

    def _make_room(self) -> bool:
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        del self._waiting[oldest]
        oldest.stop_waiting()
        return True


async def serve_http(
    app: ASGIFramework,
    address: str,
    limits: HttpLimits,
    *,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application on `address` (`host:port`, `[v6]:port`, `unix:path`, `fd://n`).

    Starts with the bound address. When `stop` is set, answers say `Connection: close` for
    DRAIN_S, then the listener closes, requests in hand are answered, and this returns. When
    cancelled, everything is closed at once. Raises OSError when the address cannot be bound.
    """
    stop = trio.Event() if stop is None else stop
    config = _config(address)
    connections = Connections(limits.connections_max)
    (sock,) = config.create_sockets().insecure_sockets
    bound = repr_socket_addr(sock.family, sock.getsockname())
    handler = partial(_serve_stream, app, config, limits, connections)
    async with trio.open_nursery() as closing:
        closing.start_soon(_abort_when_cancelled, connections)
        async with trio.open_nursery() as handlers:
            with _listening(sock, limits) as (listener, accept_rest):
                async with trio.open_nursery() as accepting:
                    serve = partial(trio.serve_listeners, handler_nursery=handlers)
                    accepting.start_soon(serve, handler, [listener])
                    task_status.started(bound)
                    await stop.wait()
                    await connections.drain()
                    accepting.cancel_scope.cancel()
                for stream in accept_rest():
                    handlers.start_soon(handler, stream)
            _log.info("http_draining", address=bound, in_hand=len(connections))
        closing.cancel_scope.cancel()


def _config(address: str) -> Config:
    config = Config()
    config.bind = [address]
    config.errorlog = None  # requests are logged by the application, without their queries
    config.include_server_header = False
    config.keep_alive_max_requests = REQUESTS_PER_CONNECTION_MAX
    return config


@contextmanager
def _listening(
    sock: socket.socket, limits: HttpLimits
) -> Iterator[tuple[trio.SocketListener, Callable[[], list[trio.SocketStream]]]]:
    """A bound socket, listening until the block ends, and a way to accept what is in its queue.

    Closing a listener resets the connections that the kernel has accepted and we have not: one
    request in a few thousand while busy clients reconnect. Trio's loop closes the listener it is
    given, so that is a duplicate, and the rest of the queue is taken just before the end.
    """
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        # Inherited by accepted sockets: a peer that acknowledges nothing for this long is cut by
        # the kernel, in whatever state the connection is.
        user_timeout_ms = int(limits.send_timeout * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
    sock.listen(BACKLOG)

    def accept_rest() -> list[trio.SocketStream]:
        streams = []
        with suppress(OSError):  # BlockingIOError: the queue is empty
            while True:
                accepted, _ = sock.accept()
                streams.append(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))
        sock.close()
        return streams

    with sock:
        yield trio.SocketListener(trio.socket.from_stdlib_socket(sock.dup())), accept_rest


async def _serve_stream(
    app: ASGIFramework,
    config: Config,
    limits: HttpLimits,
    connections: Connections,
    stream: trio.SocketStream,
) -> None:
    await connections.serve(Connection(app, config, limits, connections, stream))


async def _turn_away(stream: trio.SocketStream) -> None:
    with trio.move_on_after(1), suppress(trio.BrokenResourceError):
        await stream.send_all(_OVERLOADED)
        await stream.send_eof()
    await trio.aclose_forcefully(stream)


async def _abort_when_cancelled(connections: Connections) -> None:
    try:
        await trio.sleep_forever()
    finally:
        connections.abort_all()
