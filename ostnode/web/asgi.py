"""One HTTP request of a bare ASGI route: what it says, its body, and its answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Final, cast
from urllib.parse import parse_qs

from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
    HTTPScope,
)

from ostnode.errors import InvalidArgumentError
from ostnode.identity.statements import decode_text
from ostnode.web.bodies import BODY_EXTENSION, BodyReader
from ostnode.web.headers import HeaderList, json_headers
from ostnode.web.sessions import Sessions
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import Caller

QUERY_FIELDS_MAX: Final = 16


class BodyCutError(Exception):
    """The body ended early or did not arrive in time; there is nobody left to answer."""


class WebRequest:
    """A thin view of an ASGI scope; header names are lower-case bytes."""

    def __init__(
        self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        self.scope = scope
        self.method = scope["method"]
        self.path = scope["raw_path"].decode("ascii")
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.status = 0
        """What was answered; 0 before the answer's head."""
        self.sent = 0
        """Bytes of body answered so far."""
        self.extra_headers: HeaderList = []
        """Added to the answer's head whoever makes it (CORS)."""
        self.template = "-"
        """The route's template, for the log."""
        self.receive = receive
        self._send = send

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The query's fields; raises InvalidArgumentError when one is repeated or it is absurd."""
        text = self.scope["query_string"].decode("ascii")
        try:
            fields = parse_qs(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
        except ValueError:
            raise InvalidArgumentError("the query has too many fields") from None
        for name, values in fields.items():
            if len(values) > 1:
                raise InvalidArgumentError(f"{name} stands twice in the query")
        return {name: values[0] for name, values in fields.items()}

    def token(self) -> bytes:
        """The access token of the query or the Ost-Token header; b"" without one.

        Raises TokenInvalidError for text that is no token.
        """
        header = self.headers.get(b"ost-token")
        text = header.decode("latin-1") if header is not None else self.query.get("token", "")
        return decode_text(text)

    def caller(self, sessions: Sessions) -> Caller:
        """Who sends this; nobody without a session. Raises what `Sessions.caller` does."""
        authorization = self.headers.get(b"authorization")
        text = None if authorization is None else authorization.decode("latin-1")
        return sessions.caller(text, self.headers.get(b"origin", b"").decode("latin-1"))

    def content_length(self) -> int | None:
        """The announced length of the body; None when it is chunked or not announced."""
        value = self.headers.get(b"content-length")
        return None if value is None else int(value)

    async def read_into(self, buffer: bytearray) -> None:
        """Fill `buffer` with the next bytes of a body of known length; raises BodyCutError."""
        reader: BodyReader = self.scope["extensions"][BODY_EXTENSION]["reader"]
        view = memoryview(buffer)
        while view:
            received = await reader.read_into(view)
            if not received:
                raise BodyCutError
            view = view[received:]

    async def answer(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> None:
        """A whole answer; `headers` say its length."""
        await self.start(status, headers)
        await self.send(body, more=False)

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The answer's head; it leaves with the first bytes of the body."""
        self.status = status
        start: HTTPResponseStartEvent = {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, *self.extra_headers],
        }
        await self._send(start)

    async def send(self, data: Buffer, *, more: bool) -> None:
        """The next bytes of the body."""
        self.sent += len(data)
        body: HTTPResponseBodyEvent = {
            "type": "http.response.body",
            "body": cast("bytes", data),  # any buffer will do, says `hypercorn_trio`
            "more_body": more,
        }
        await self._send(body)

    async def relay(self, message: ASGISendEvent) -> None:
        """Pass on what another ASGI application sends."""
        if message["type"] == "http.response.start":
            await self.start(message["status"], message["headers"])
        elif message["type"] == "http.response.body":
            await self.send(message["body"], more=message["more_body"])


async def answer_json(request: WebRequest, status: int, value: object) -> None:
    """A whole answer of JSON that nobody stores."""
    body = json.dumps(value, separators=(",", ":")).encode()
    await request.answer(status, json_headers(b"application/json", body), body)
