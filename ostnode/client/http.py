"""HTTP exchanges on one bounded connection pool; httpx2 stays behind this module.

Every wait has a deadline, kept by a cancel scope around the whole exchange: httpx2's own timeouts
are off, they restart with every byte and a trickle would outlast them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlencode

import httpx2
import trio
from typing_extensions import override

from ostnode import __version__
from ostnode.client.answers import Answer, refusal_of
from ostnode.client.errors import BadAnswerError, UnreachableError
from ostnode.client.routes import JSON_TYPE, HttpCall
from ostnode.env import Clock
from ostnode.errors import InvalidArgumentError
from ostnode.wire.buffers import Buffer

Transport = httpx2.AsyncBaseTransport
"""What a pool sends through; tests stand in for the network with one of their own."""

ANSWER_BYTES_MAX: Final = 1 << 20
"""The largest JSON answer; what a node sends cannot grow the client."""
SEND_BYTES: Final = 256 << 10
"""A chunk goes to the socket in pieces of this size, because h11 copies each."""
KEEP_ALIVE_S: Final = 4
"""Idle connections go before servers close them (hypercorn: 5 s): requests meet fewer closing."""
CLOSE_DEADLINE_S: Final = 2
_BUFFERED_PIECES_MAX: Final = 16
"""httpcore2 buffers at most 100 KiB of a connection, in pieces of up to 64 KiB."""
_USER_AGENT: Final = f"ostnode/{__version__}"


class Body:
    """An open answer. Whoever has it must close it."""

    def __init__(self, node: str, response: httpx2.Response, stall_deadline_s: float) -> None:
        self.status = response.status_code
        self.success = response.is_success
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._node = node
        self._response = response
        self._pieces = response.aiter_raw()
        self._stall_deadline_s = stall_deadline_s
        self._suspended = False

    async def receive(self) -> bytes:
        """The next piece (tens of KiB), b"" at the end.

        Raises UnreachableError when the connection breaks or is silent for too long.
        """
        self._suspended = False
        try:
            with trio.fail_after(self._stall_deadline_s):
                piece = await anext(self._pieces, b"")
        except httpx2.TransportError as error:
            raise UnreachableError(self._node, _reason(error)) from error
        except trio.TooSlowError:
            reason = f"silent for {self._stall_deadline_s:g} s"
            raise UnreachableError(self._node, reason) from None
        self._suspended = bool(piece)
        return piece

    async def receive_all(self) -> bytes:
        """The whole body, at most ANSWER_BYTES_MAX; raises BadAnswerError beyond."""
        content = bytearray()
        while piece := await self.receive():
            content += piece
            if len(content) > ANSWER_BYTES_MAX:
                raise BadAnswerError(self._node, f"over {ANSWER_BYTES_MAX} bytes of answer")
        return bytes(content)

    async def aclose(self) -> None:
        """Give the connection back, or cut it when the body is not finished."""
        with trio.move_on_after(CLOSE_DEADLINE_S, shield=True):
            await self._response.aclose()
            for _ in range(_BUFFERED_PIECES_MAX):
                # httpx2 nests async generators; one that is dropped half-way makes Trio warn.
                # On the closed connection they run to their end: what was buffered, then an error.
                if not self._suspended:
                    break
                self._suspended = bool(await self._drain())

    async def _drain(self) -> bytes:
        try:
            return await anext(self._pieces, b"")
        except (httpx2.TransportError, httpx2.StreamError):
            return b""


class Http:
    """The pool. `exchange` answers whole, `open` streams."""

    def __init__(self, client: httpx2.AsyncClient, clock: Clock, stall_deadline_s: float) -> None:
        self._client = client
        self._clock = clock
        self._stall_deadline_s = stall_deadline_s

    async def exchange(
        self,
        node: str,
        call: HttpCall,
        *,
        session: str = "",
        body: Buffer = b"",
        deadline_s: float,
    ) -> Answer:
        """One request to the node at a base URL, and its whole answer.

        Raises the OstError that the node refused with, UnreachableError or BadAnswerError.
        """
        request = self._request(node, call, session, body)
        with trio.move_on_after(deadline_s):
            return await self._answer(node, await self._send(node, request))
        raise UnreachableError(node, f"no answer within {deadline_s:g} s")

    async def open(self, node: str, call: HttpCall, *, session: str, deadline_s: float) -> Body:
        """One request; the body of its answer is left to be received. Raises like `exchange`."""
        request = self._request(node, call, session, b"")
        with trio.move_on_after(deadline_s):
            body = await self._send(node, request)
            if body.success:
                return body
            await self._answer(node, body)
        raise UnreachableError(node, f"no answer within {deadline_s:g} s")

    async def _answer(self, node: str, body: Body) -> Answer:
        try:
            answer = Answer(body.status, body.headers, await body.receive_all())
        finally:
            await body.aclose()
        if not body.success:
            raise refusal_of(node, answer, self._clock.now())
        return answer

    async def _send(self, node: str, request: httpx2.Request) -> Body:
        try:
            response = await self._client.send(request, stream=True)
        except (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol) as error:
            raise InvalidArgumentError(f"cannot be sent: {error}") from None
        except httpx2.TransportError as error:
            raise UnreachableError(node, _reason(error)) from error
        return Body(node, response, self._stall_deadline_s)

    def _request(self, node: str, call: HttpCall, session: str, body: Buffer) -> httpx2.Request:
        headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity", **call.headers}
        if session:
            headers["Authorization"] = f"OST {session}"
        if call.json is not None:
            body = json.dumps(call.json).encode()
            headers["Content-Type"] = JSON_TYPE
        if body or call.method == "POST":
            headers["Content-Length"] = str(len(body))
        query = f"?{urlencode(call.query)}" if call.query else ""
        try:
            url = httpx2.URL(node + call.path + query)
            headers["Host"] = url.netloc.decode("ascii")
            return httpx2.Request(call.method, url, headers=headers, stream=_Upload(body))
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise InvalidArgumentError(f"cannot be sent to {node}: {error}") from None


class _Upload(httpx2.AsyncByteStream):
    """A request's body: pieces of the caller's buffer, which may change once it is answered.

    An iterator and no generator: a server may answer early, and a generator dropped half-way
    makes Trio warn.
    """

    def __init__(self, body: Buffer) -> None:
        self._rest = memoryview(body)

    @override
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            raise StopAsyncIteration
        piece, self._rest = bytes(self._rest[:SEND_BYTES]), self._rest[SEND_BYTES:]
        return piece


def _reason(error: httpx2.TransportError) -> str:
    return str(error) or type(error).__name__


@asynccontextmanager
async def open_http(
    clock: Clock,
    *,
    connections_max: int,
    stall_deadline_s: float,
    transport: Transport | None = None,
) -> AsyncIterator[Http]:
    """A pool of at most `connections_max` connections, closed with the block.

    Only the arguments say where it talks to: proxies and credentials in the environment are not
    looked at. `transport` stands in for the network in tests.
    """
    limits = httpx2.Limits(
        max_connections=connections_max,
        max_keepalive_connections=connections_max,
        keepalive_expiry=KEEP_ALIVE_S,
    )
    client = httpx2.AsyncClient(
        timeout=httpx2.Timeout(None),  # deadlines are kept outside
        limits=limits,
        trust_env=False,
        follow_redirects=False,
        transport=transport,
    )
    try:
        yield Http(client, clock, stall_deadline_s)
    finally:
        with trio.move_on_after(CLOSE_DEADLINE_S, shield=True):
            await client.aclose()
