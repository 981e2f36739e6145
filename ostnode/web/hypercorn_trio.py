"""hypercorn's HTTP/1.1 on Trio, with its connection handling replaced: with `connection`, the
only module that knows hypercorn's inner classes (pinned below 0.19).

hypercorn's parser glue (`H11Protocol`), ASGI state machine (`HTTPStream`) and configuration are
used as they are. What is replaced, and why (each was reproduced with hypercorn 0.18):

- A connection is one task. hypercorn starts an idle timer and an application task per request and
  passes bodies through a channel: half the cost of a small request, and the reason that quart-trio
  leaves connections open (its nursery cancels the task that would have closed them). Here the
  application runs inside the connection's task and pulls the body from the socket when it asks for
  it, so backpressure is TCP's own, and what ends a connection is not cancelled with a request.
- Every wait for the client has a deadline: hypercorn shields `send_all` without one, and has none
  for heads and bodies that trickle in.
- Head and body leave in one send (three otherwise), large bodies without being copied.
- h2c, HTTP/2 by prior knowledge and WebSockets are not there: any client could end hypercorn
  0.18's whole Trio server by cutting an HTTP/2 connection. Heads are checked by `heads`.
- An unread body is drained, within bounds, so that the client sees the refusal, not a broken pipe.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, cast

import h11
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Event as IoEvent
from hypercorn.protocol.events import Body, EndBody, Event, Request, Response
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    HTTPScope,
    Scope,
)
from typing_extensions import override

from ostnode.config import HttpLimits
from ostnode.web.bodies import BODY_EXTENSION, RequestBody, Source
from ostnode.web.gone import ClientGoneError, client_is_gone
from ostnode.web.heads import body_length, check_framing, head_end, refuse
from ostnode.wire.buffers import Buffer

RECEIVE_HEAD_BYTES: Final = 1 << 14
LINGER_S: Final = 2.0
LAST_WAIT_S: Final = 0.5
"""How long a connection may wait for its request when the server is about to stop."""

Send = Callable[[ASGISendEvent | None], Awaitable[None]]
_log = structlog.get_logger(__name__)


class Wire(Source, Protocol):
    """What `Exchanges` need of their connection."""

    app: AppWrapper
    config: Config
    context: WorkerContext

    @property
    def draining(self) -> bool:
        """Whether answers must say `Connection: close`."""
        ...

    def waits(self) -> None:
        """There is no request in hand: the connection may be closed to make room."""
        ...

    def works(self) -> None:
        """There is one."""
        ...

    def addresses(self) -> tuple[tuple[str, int] | None, tuple[str, int] | None]:
        """The client's and our own address; None on Unix sockets."""
        ...

    async def protocol_send(self, event: IoEvent) -> None:
        """What hypercorn sends by itself: error answers and 100 Continue."""
        ...

    async def send_parts(self, parts: Sequence[bytes]) -> None:
        """Send all of it, in this order; raises ClientGoneError."""
        ...

    async def finish_sending(self) -> None:
        """Tell the client that nothing more comes; raises ClientGoneError."""
        ...


class _InlineTasks(TaskGroup):
    """Hands the application back to the caller instead of starting a task for it."""

    def __init__(self) -> None:
        super().__init__()
        self.scope: HTTPScope
        self.send: Send

    @override
    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: Send
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        self.scope, self.send = cast("HTTPScope", scope), send
        return _discard


async def _discard(_event: ASGIReceiveEvent) -> None:
    """The application pulls its events."""


class _Stream(HTTPStream):
    """Takes bodies as any buffer: hypercorn copies what is not bytes."""

    @override
    async def app_send(self, message: ASGISendEvent | None) -> None:
        if message is not None and message["type"] == "http.response.body":
            body = cast("Buffer", message["body"])
            if not isinstance(body, bytes) and self.state is ASGIHTTPState.RESPONSE:
                await self.send(Body(stream_id=self.stream_id, data=cast("bytes", body)))
                message = {**message, "body": b""}
        await super().app_send(message)


class Exchanges(H11Protocol):
    """One connection's requests, one after the other."""

    def __init__(self, wire: Wire, limits: HttpLimits) -> None:
        client, server = wire.addresses()
        self._tasks = _InlineTasks()
        super().__init__(
            wire.app,
            wire.config,
            wire.context,
            self._tasks,
            ConnectionState({}),
            ssl=False,
            client=client,
            server=server,
            send=wire.protocol_send,
        )
        self._wire = wire
        self._limits = limits
        self._buffer = bytearray()  # received and not yet consumed
        self._unsent: list[bytes] = []
        self._parser: h11.Connection  # a new one per request
        self._body: RequestBody
        self._told_end = False

    async def serve_one(self) -> bool:
        """Read one request, answer it; False when no other can follow on this connection."""
        self.connection = self._parser = h11.Connection(
            h11.SERVER, max_incomplete_event_size=self._limits.header_bytes_max
        )
        try:
            request = await self._read_request()
        except h11.RemoteProtocolError as error:
            await self._send_error_response(error.error_status_hint)
            return False
        if request is None:
            return False
        self._wire.works()
        await self._answer(request)
        self.keep_alive_requests += 1
        return await self._finish()

    async def _read_request(self) -> h11.Request | None:
        """The next request, its body still unread; None when there will be none."""
        end = await self._read_head()
        if not end:
            return None
        head = bytes(self._buffer[:end])
        del self._buffer[:end]
        check_framing(head)
        self._parser.receive_data(head)
        request = self._parser.next_event()
        assert isinstance(request, h11.Request)  # what a whole head is, or h11 raises
        length = body_length(request)
        self._body = RequestBody(self._wire, self._limits, self._parser, length, self._buffer)
        return request

    async def _read_head(self) -> int:
        """Receive until a whole head is buffered: its length, or 0 when none will come."""
        limits, searched = self._limits, 0
        idle = self.keep_alive_requests and not self._buffer
        wait = limits.keep_alive if idle else limits.header_timeout
        if self._wire.draining:
            wait = LAST_WAIT_S
        deadline = trio.current_time() + wait
        self._wire.waits()
        while True:
            end = head_end(self._buffer, searched, limits.header_bytes_max)
            if end:
                return end
            searched = len(self._buffer)
            data = await self._wire.receive(RECEIVE_HEAD_BYTES, deadline)
            if data is None and searched:
                raise refuse("the request's head took too long", 408)
            if not data:
                return 0
            if not searched:
                # From its first byte on, trickling does not move a head's deadline.
                deadline = trio.current_time() + limits.header_timeout
            self._buffer += data

    async def _answer(self, request: h11.Request) -> None:
        """Run the application on one request; afterwards there is an answer or the client left."""
        self._told_end = False
        self.stream = _Stream(
            self.app,
            self.config,
            self.context,
            self._tasks,
            ssl=self.ssl,
            client=self.client,
            server=self.server,
            send=self.stream_send,
            stream_id=STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self._tasks.scope["extensions"][BODY_EXTENSION] = {"reader": self}
        try:
            await self.app(
                self._tasks.scope, self._receive, self._tasks.send, _no_threads, _no_threads
            )
        except Exception as error:  # noqa: BLE001  logged, and answered with 500
            if client_is_gone(error):
                raise ClientGoneError from None
            _log.exception("application_failed", method=request.method.decode())
        if self._parser.our_state is h11.SEND_RESPONSE:
            await self._send_error_response(self._body.failure or 500)

    async def _receive(self) -> ASGIReceiveEvent:
        """The application's `receive`."""
        if self._told_end:
            # A client that leaves shows when it is sent to; waiting for it here as well would
            # cancel the handlers of clients that half-close.
            await trio.sleep_forever()
        await self._ask_for_body()
        data = await self._body.read()
        if self._body.failure:
            return {"type": "http.disconnect"}
        self._told_end = self._body.whole
        return {"type": "http.request", "body": data, "more_body": not self._body.whole}

    async def read_into(self, view: memoryview) -> int:
        """`BodyReader`: the body for applications that have a buffer of its size."""
        await self._ask_for_body()
        return await self._body.read_into(view)

    async def _ask_for_body(self) -> None:
        """Say 100 Continue to a client that waits for it."""
        if self._parser.they_are_waiting_for_100_continue:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    @override
    async def stream_send(self, event: Event) -> None:
        """Send what the ASGI state machine decided, the head together with the first bytes."""
        if isinstance(event, Response):
            headers = [*event.headers, *self.config.response_headers("h11")]
            if self._must_close():
                headers.append((b"connection", b"close"))
            self._take(h11.Response(status_code=event.status_code, headers=headers))
        elif isinstance(event, Body):
            self._take(h11.Data(data=event.data))
            await self._flush()
        elif isinstance(event, EndBody):
            self._take(h11.EndOfMessage())
            await self._flush()

    def _take(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        parts = self._parser.send_with_data_passthrough(event) or []
        self._unsent += [part for part in parts if part]

    async def _flush(self) -> None:
        if self._unsent:
            parts, self._unsent = self._unsent, []
            await self._wire.send_parts(parts)

    def _must_close(self) -> bool:
        """Whether no request can follow this answer; asked before its head is written."""
        return (
            self._wire.draining
            or self.keep_alive_requests + 1 >= self.config.keep_alive_max_requests
            or not self._body.fits(self._limits.drain_max)
            # It may send the body or not, now that it got its answer: nobody can know.
            or self._parser.they_are_waiting_for_100_continue
        )

    async def _finish(self) -> bool:
        """Get rid of an unread body; whether the connection can carry another request."""
        reusable = self._parser.our_state is h11.DONE
        if not self._body.whole:
            if not reusable:
                await self._wire.finish_sending()
            with trio.move_on_after(LINGER_S):
                await self._body.drain(self._limits.drain_max)
        return reusable and self._body.whole


async def _no_threads(*_args: object) -> None:
    """Stand in for the threads of WSGI applications; there are none here."""
