"""Streams between nodes: the Network seam, and TCP."""

from __future__ import annotations

import errno
import os
import socket
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeAlias

import structlog
import trio
from typing_extensions import override

from ostnode.addresses import is_loopback
from ostnode.errors import InvalidArgumentError
from ostnode.ids import Principal

Handler: TypeAlias = Callable[[trio.abc.Stream], Awaitable[None]]
"""Serves one accepted connection; the stream is closed when it returns."""
Piece: TypeAlias = bytes | bytearray | memoryview

PEERS_MAX: Final = 256
"""Connections that one listener takes, unless it is told otherwise."""
PORT_MAX: Final = 0xFFFF
_SEND_LOW_WATER_BYTES: Final = 512 * 1024
"""TCP_NOTSENT_LOWAT. Trio's 16 KiB wakes the writer 64 times for one chunk of 1 MiB."""
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class LinkClosedError(Exception):
    """A peer could not be reached, or its connection ended; trying again may succeed.

    A request in flight may or may not have been carried out.
    """


class StreamAbove(trio.abc.Stream):
    """Passes everything on to the stream below; whoever inherits changes what it is there for."""

    def __init__(self, below: trio.abc.Stream) -> None:
        self._below = below

    @override
    async def send_all(self, data: Piece) -> None:
        await self._below.send_all(data)

    @override
    async def wait_send_all_might_not_block(self) -> None:
        await self._below.wait_send_all_might_not_block()

    @override
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._below.receive_some(max_bytes)

    @override
    async def aclose(self) -> None:
        await self._below.aclose()


class SecureStream(trio.abc.HalfCloseableStream):
    """An encrypted stream, which proofs of identity are bound to."""

    @abstractmethod
    async def secure(self, expect: Principal | None) -> bytes:
        """Shake hands; returns what proofs are bound to, the same bytes on both sides.

        A dialler's `expect` is pinned. Raises LinkClosedError, and UnauthenticatedError if
        somebody else is there.
        """

    @abstractmethod
    async def receive_into(self, buffer: memoryview) -> int:
        """Receive at least one byte into `buffer`; 0 is the end of the stream."""

    @abstractmethod
    async def send_pieces(self, pieces: Sequence[Piece]) -> None:
        """Send the pieces in order."""


class Network(Protocol):
    """Where streams come from: TCP, or memory in tests and the simulator."""

    async def connect(self, address: str) -> trio.abc.Stream:
        """A stream to whoever serves `address`; raises LinkClosedError."""
        ...

    async def serve(
        self,
        address: str,
        handler: Handler,
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run `handler` for every connection to `address`, until cancelled.

        Starts with the address bound (port 0 asks for any). A handler's failure is logged and
        ends its own connection. Raises OSError if the address cannot be bound.
        """
        ...


class TcpNetwork(Network):
    """Plain TCP, for loopback.

    The peer protocol proves both principals but hides nothing, so any other address is refused
    unless `loopback_only` is False because something above encrypts. More than `connections_max`
    at once are closed as they arrive. A peer that acknowledges nothing for `user_timeout_ms` is
    gone (TCP_USER_TIMEOUT), even if it keeps its socket open without reading.
    """

    def __init__(
        self,
        *,
        connections_max: int = PEERS_MAX,
        user_timeout_ms: int = 30_000,
        loopback_only: bool = True,
    ) -> None:
        self._connections_max = connections_max
        self._user_timeout_ms = user_timeout_ms
        self._loopback_only = loopback_only

    @override
    async def connect(self, address: str) -> trio.abc.Stream:
        host, port = self._allowed(address)
        try:
            stream = await trio.open_tcp_stream(host, port)
        except (OSError, UnicodeError) as error:  # a name that IDNA refuses
            raise LinkClosedError(f"cannot connect to {address}: {error}") from error
        self._tune(stream)
        return stream

    @override
    async def serve(
        self,
        address: str,
        handler: Handler,
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        host, port = self._allowed(address)
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except UnicodeError as error:
            raise OSError(errno.EADDRNOTAVAIL, f"{host!r} is no name of a host") from error
        open_connections = 0

        async def serve_one(stream: trio.SocketStream) -> None:
            nonlocal open_connections
            if open_connections >= self._connections_max:
                log.warning("connection refused", address=address, limit=self._connections_max)
                await trio.aclose_forcefully(stream)
                return
            open_connections += 1
            try:
                self._tune(stream)
                await guarded(handler, stream)
            finally:
                open_connections -= 1

        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, serve_one, listeners)
            task_status.started(_bound_address(listeners[0]))

    def _allowed(self, address: str) -> tuple[str, int]:
        host, port = split_address(address)
        if self._loopback_only and not is_loopback(host):
            raise InvalidArgumentError(f"plain TCP is for loopback only, not for {address}")
        return host, port

    def _tune(self, stream: trio.SocketStream) -> None:
        # TCP_NODELAY is Trio's default.
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._user_timeout_ms)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _SEND_LOW_WATER_BYTES)
        except OSError:
            # EINVAL on a socket that its peer has reset already: the first read will tell.
            log.debug("socket options not set")


async def guarded(handler: Handler, stream: trio.abc.Stream) -> None:
    """Run one connection's handler; whatever it raises stays inside this connection."""
    try:
        await handler(stream)
    except Exception:
        log.exception("connection handler failed")
    finally:
        await trio.aclose_forcefully(stream)


async def secured(stream: trio.abc.Stream, expect: Principal | None = None) -> bytes:
    """Have an encrypted stream shake hands; returns its binding, which is empty in plain text.

    Raises LinkClosedError, and UnauthenticatedError if `expect` is given and somebody else is
    there.
    """
    return await stream.secure(expect) if isinstance(stream, SecureStream) else b""


async def receive_into(stream: trio.abc.Stream, buffer: memoryview) -> int:
    """Receive at least one byte into `buffer`; 0 is the end of the stream.

    From a socket without a copy. Raises LinkClosedError if the stream broke.
    """
    try:
        if isinstance(stream, trio.SocketStream):
            return await _receive_into(stream.socket, buffer)
        if isinstance(stream, SecureStream):
            return await stream.receive_into(buffer)
        data = await stream.receive_some(len(buffer))
    except _BROKEN as error:
        raise _broke(error) from error
    buffer[: len(data)] = data
    return len(data)


async def send_pieces(stream: trio.abc.Stream, pieces: Sequence[Piece]) -> None:
    """Send the pieces in order; to a socket in one system call as long as it takes them.

    Only one task may send on a stream. Raises LinkClosedError if the stream broke.
    """
    try:
        if isinstance(stream, trio.SocketStream):
            await _send_gathered(stream.socket, pieces)
        elif isinstance(stream, SecureStream):
            await stream.send_pieces(pieces)
        else:
            await stream.send_all(b"".join(pieces))
    except _BROKEN as error:
        raise _broke(error) from error


async def end_sending(stream: trio.abc.Stream) -> None:
    """Say that nothing more comes, if the stream can; raises LinkClosedError if it broke."""
    if not isinstance(stream, trio.abc.HalfCloseableStream):
        return
    try:
        await stream.send_eof()
    except _BROKEN as error:
        raise _broke(error) from error


def send_now(stream: trio.abc.Stream, pieces: Sequence[Piece]) -> Sequence[Piece]:
    """Send as much as goes without waiting; returns what is left, which may be all of it.

    Only whoever may call `send_pieces` may call this; that is also who learns of a broken stream.
    """
    if not isinstance(stream, trio.SocketStream):
        return pieces
    try:
        sent = os.writev(stream.socket.fileno(), pieces)
    except OSError:
        return pieces
    return _after(pieces, sent)


def _broke(error: Exception) -> LinkClosedError:
    return LinkClosedError(f"the connection broke: {str(error) or error.__cause__}")


async def _receive_into(below: trio.socket.SocketType, buffer: memoryview) -> int:
    # The system's own calls: Trio's around them cost more than a small frame itself.
    while True:
        try:
            count = os.readv(below.fileno(), (buffer,))
        except BlockingIOError:
            await trio.lowlevel.wait_readable(below)
        else:
            await trio.lowlevel.checkpoint()
            return count


async def _send_gathered(below: trio.socket.SocketType, pieces: Sequence[Piece]) -> None:
    left = pieces
    while left:
        try:
            left = _after(left, os.writev(below.fileno(), left))
        except BlockingIOError:
            await trio.lowlevel.wait_writable(below)


def _after(pieces: Sequence[Piece], sent: int) -> Sequence[Piece]:
    """What is left of the pieces behind so many bytes."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return ()


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`; raises InvalidArgumentError."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= PORT_MAX):
        raise InvalidArgumentError(f"not an address of the form host:port: {address!r}")
    return host, int(port)


def _bound_address(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
