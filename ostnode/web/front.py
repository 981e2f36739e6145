"""The ASGI application of a listener: bare routes for bytes, Quart for everything else.

Quart buffers request bodies without backpressure and sends in small pieces, so bytes never go
through it. Whatever a request does, it is answered or its connection closes, and one log line
says so: never with a query, a token or an id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    HTTPScope,
    Scope,
)

from ostnode.config import HttpLimits
from ostnode.errors import InternalError, OstError, UnknownCallError
from ostnode.web.asgi import BodyCutError, WebRequest
from ostnode.web.gone import ClientGoneError, client_is_gone
from ostnode.web.problem import problem

Handler = Callable[[WebRequest], Awaitable[None]]
Match = Callable[[WebRequest], "Handler | None"]
"""Finds the handler of a bare route and sets the request's template."""

PREFLIGHT_MAX_AGE_S: Final = 7200
_METHODS: Final = b"GET, HEAD, POST, PUT, DELETE"
_ALLOW_HEADERS: Final = (
    b"Authorization, Content-Type, If-None-Match, If-Range, Range, Ost-Token, Ost-Grant, "
    b"Ost-Chunk-Index, Ost-Accessors, Ost-Ref, Ost-Filename, Ost-Expires-At"
)
_EXPOSE_HEADERS: Final = b"Accept-Ranges, Content-Disposition, Content-Range, ETag, Retry-After"
_log = structlog.get_logger(__name__)


class Front:
    """Routes one listener's requests; `limits` name the CORS origins.

    `json_app` gets what `match` finds no handler for; without one there is nothing else.
    """

    def __init__(self, match: Match, json_app: ASGIFramework | None, limits: HttpLimits) -> None:
        self._match = match
        self._json_app = json_app
        self._origins = frozenset(origin.encode() for origin in limits.cors_origins)

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve one request; nothing but ClientGoneError and Cancelled escapes."""
        assert scope["type"] == "http"  # the server speaks nothing else
        request = WebRequest(scope, receive, send)
        started = trio.current_time()
        try:
            await self._serve(request)
        except BodyCutError:
            pass  # the connection answers 400 or 408 and closes
        except OstError as error:
            await _refuse(request, error)
        except Exception as error:  # noqa: BLE001  logged, and answered without its cause
            if client_is_gone(error):
                raise ClientGoneError from None
            _log.exception("request_failed", method=request.method, path=request.template)
            await _refuse(request, InternalError())
        finally:
            _log.info(
                "request",
                method=request.method,
                path=request.template,
                status=request.status,
                bytes=request.sent,
                ms=round(1000 * (trio.current_time() - started), 1),
            )

    async def _serve(self, request: WebRequest) -> None:
        if self._origins:
            self._share(request)
            if request.method == "OPTIONS":
                await _answer_preflight(request)
                return
        handler = self._match(request)
        if handler is not None:
            await handler(request)
            return
        if self._json_app is None:
            raise UnknownCallError("there is no such route")
        # Werkzeug trips over some hosts (`..`), and no route depends on it.
        headers = [
            (b"host", b"node"),
            *((n, v) for n, v in request.scope["headers"] if n != b"host"),
        ]
        scope: HTTPScope = {**request.scope, "headers": headers}
        try:
            await self._json_app(scope, request.receive, request.relay)
        finally:
            request.template = scope["state"].get("template", "-")

    def _share(self, request: WebRequest) -> None:
        """Let pages of the configured origins, and no others, read the answer."""
        request.extra_headers.append((b"vary", b"Origin"))
        origin = request.headers.get(b"origin")
        if origin in self._origins:
            request.extra_headers += [
                (b"access-control-allow-origin", origin),
                (b"access-control-allow-credentials", b"true"),
                (b"access-control-expose-headers", _EXPOSE_HEADERS),
            ]


async def _answer_preflight(request: WebRequest) -> None:
    """One answer for every path: without the headers of `_share` a browser stops here."""
    request.template = "preflight"
    headers = [
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", _ALLOW_HEADERS),
        (b"access-control-max-age", b"%d" % PREFLIGHT_MAX_AGE_S),
    ]
    await request.answer(204, headers, b"")


async def _refuse(request: WebRequest, error: OstError) -> None:
    """Answer with a problem; an answer already begun ends short instead, never a complete lie."""
    if not request.status:
        told = problem(error)
        await request.answer(told.status, told.headers, told.body)
