"""One accepted socket: timed reads and sends, under hypercorn's `TCPServer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, cast

import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Event as IoEvent
from hypercorn.events import RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework
from hypercorn.utils import parse_socket_addr, wrap_app
from typing_extensions import override

from ostnode.config import HttpLimits
from ostnode.web.gone import ClientGoneError
from ostnode.web.hypercorn_trio import Exchanges, Wire
from ostnode.web.pacing import send_patience

JOIN_BYTES_MAX: Final = 1 << 16
"""Up to here copying head and body together is cheaper than handing the kernel two buffers."""
_log = structlog.get_logger(__name__)


class Attendance(Protocol):
    """The server's view of its connections; every method is synchronous."""

    @property
    def draining(self) -> bool:
        """Answers say `Connection: close` from now on."""
        ...

    def waits(self, connection: Connection) -> None:
        """The connection waits for a request: it may be closed to make room."""
        ...

    def works(self, connection: Connection) -> None:
        """The connection has a request."""
        ...


class Connection(TCPServer, Wire):
    """One accepted socket: timed reads and sends under `Exchanges`."""

    def __init__(
        self,
        app: ASGIFramework,
        config: Config,
        limits: HttpLimits,
        attendance: Attendance,
        stream: trio.SocketStream,
    ) -> None:
        wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
        # Annotated as TLS there, used for both.
        tls = cast("trio.SSLStream[trio.SocketStream]", stream)
        super().__init__(wrapped, config, WorkerContext(None), {}, tls)
        self.plain = stream
        self._limits = limits
        self._attendance = attendance
        self._waiting = trio.CancelScope()

    @override
    async def run(self) -> None:
        """Serve the connection until either side is done with it; never raises but Cancelled."""
        try:
            exchanges = Exchanges(self, self._limits)
            while await exchanges.serve_one():
                pass
        except OSError:
            pass  # the client left
        except Exception:  # noqa: BLE001  one connection's bug ends one connection
            _log.exception("connection_failed")
        finally:
            await trio.aclose_forcefully(self.plain)

    @property
    @override
    def draining(self) -> bool:
        return self._attendance.draining

    @override
    def waits(self) -> None:
        self._attendance.waits(self)

    @override
    def works(self) -> None:
        self._attendance.works(self)

    @override
    def addresses(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        sock = self.plain.socket
        return (
            parse_socket_addr(sock.family, sock.getpeername()),
            parse_socket_addr(sock.family, sock.getsockname()),
        )

    @override
    async def receive(self, size: int, deadline: float) -> bytes | None:
        """At most `size` bytes; b"" at the end or when broken, None when the deadline passed."""
        with trio.CancelScope(deadline=deadline) as self._waiting:
            try:
                return bytes(await self.plain.receive_some(size))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return b""
        return None

    @override
    async def receive_into(self, buffer: memoryview, deadline: float) -> int | None:
        """The same into a buffer: how many bytes, 0 or None."""
        with trio.CancelScope(deadline=deadline) as self._waiting:
            try:
                return await self.plain.socket.recv_into(buffer)
            except (OSError, trio.ClosedResourceError):
                return 0
        return None

    def stop_waiting(self) -> None:
        """End a wait for a request: the connection then closes."""
        self._waiting.cancel()

    def abort(self) -> None:
        """Close the socket at once, under whatever uses it."""
        self.plain.socket.close()

    @override
    async def protocol_send(self, event: IoEvent) -> None:
        """What hypercorn sends by itself: error answers and 100 Continue."""
        assert isinstance(event, RawData)
        await self.send_parts([event.data])

    @override
    async def send_parts(self, parts: Sequence[bytes]) -> None:
        """Send all of it within the client's patience, whole even if the caller is cancelled.

        A cancelled send leaves an unknown amount sent, and quart-trio cancels the sender of the
        last bytes: hence the shield, which the deadline bounds. Raises ClientGoneError.
        """
        size = sum(map(len, parts))
        limits = self._limits
        patience = send_patience(size, timeout=limits.send_timeout, rate=limits.body_rate_min)
        with trio.move_on_after(patience, shield=True):
            try:
                async with self.send_lock:
                    await self._send_all(parts, size)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                raise ClientGoneError("the connection broke") from None
            return
        raise ClientGoneError("the client does not read")

    async def _send_all(self, parts: Sequence[bytes], size: int) -> None:
        if size <= JOIN_BYTES_MAX:
            await self.plain.send_all(b"".join(parts))
            return
        sent = await self.plain.socket.sendmsg(parts) if len(parts) > 1 else 0
        for part in parts:
            if sent < len(part):
                await self.plain.send_all(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    @override
    async def finish_sending(self) -> None:
        """Tell the client that nothing more comes; what it still sends can be read."""
        try:
            await self.plain.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise ClientGoneError("the connection broke") from None
