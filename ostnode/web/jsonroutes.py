"""Calls as JSON routes: one table per role, served by quart-trio.

A route's path, query, token and JSON body together are the fields of its request message; its
answer is the result message. Who may call what stands in `wire.calls`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from quart import current_app, request
from quart.typing import ResponseTypes
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from ostnode.config import HttpLimits
from ostnode.errors import (
    FrameTooLargeError,
    InvalidArgumentError,
    MethodNotAllowedError,
    OstError,
    UnknownCallError,
    UnsupportedMediaTypeError,
)
from ostnode.web.problem import problem
from ostnode.web.sessions import LoginRequest, Sessions
from ostnode.wire import messages as m
from ostnode.wire.calls import Service, authorise, call_of
from ostnode.wire.fields import Message, Request
from ostnode.wire.jsonmap import Json, from_json, to_json

Fields = dict[str, Json]
Answer = tuple[bytes, int, dict[str, str]]
LOGIN_BYTES_MAX: Final = 4096
"""A statement has at most 1366 characters."""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _as_they_are(fields: Fields) -> Fields:
    return fields


def _whole(message: Message) -> Message:
    return message


@dataclass(frozen=True, slots=True)
class Route:
    """One JSON route of a call; `body` says that it takes a JSON object.

    `shape` turns the fields of path, query and body into those of `request`; `result` turns the
    reply into what is told, and may raise it. Ok is answered with 204, all else with `status`.
    """

    method: str
    rule: str
    request: type[Request]
    body: bool = False
    status: int = 200
    shape: Callable[[Fields], Fields] = _as_they_are
    result: Callable[[Message], Message] = _whole


def json_app(
    name: str, routes: Sequence[Route], service: Service, sessions: Sessions, limits: HttpLimits
) -> QuartTrio:
    """A Quart application of these routes and POST /v1/session."""
    app = QuartTrio(name, static_folder=None)
    app.url_map.merge_slashes = False  # one path, one route: no redirects
    app.config.update(
        # A timeout would cut answers silently; deadlines are the connection's.
        BODY_TIMEOUT=None,
        RESPONSE_TIMEOUT=None,
        MAX_CONTENT_LENGTH=limits.request_body_max,
        PROVIDE_AUTOMATIC_OPTIONS=False,
        # What is no refusal goes up to the front, which logs it and answers.
        PROPAGATE_EXCEPTIONS=True,
    )
    app.register_error_handler(OstError, _on_refusal)
    app.register_error_handler(HTTPException, _on_http_exception)

    async def open_session() -> Answer:
        _note_template("/v1/session")
        # Anybody may ask; what is held for them must be small.
        chunked = "Transfer-Encoding" in request.headers
        if chunked or (request.content_length or 0) > LOGIN_BYTES_MAX:
            raise FrameTooLargeError(f"a login has a Content-Length of at most {LOGIN_BYTES_MAX}")
        asked = from_json(LoginRequest, await _json_body())
        return _answer(sessions.log_in(asked, request.headers.get("Origin", "")), 200)

    app.add_url_rule("/v1/session", view_func=open_session, methods=["POST"])
    for route in routes:
        endpoint, view = f"{route.method} {route.rule}", _view(route, service, sessions)
        app.add_url_rule(route.rule, endpoint, view, methods=[route.method])
    return app


def _view(route: Route, service: Service, sessions: Sessions) -> Callable[..., Awaitable[Answer]]:
    async def view(**path: str) -> Answer:
        _note_template(route.rule)
        headers = request.headers
        caller = sessions.caller(headers.get("Authorization"), headers.get("Origin", ""))
        authorise(call_of(route.request), caller)
        given: Fields = dict(request.args.items())
        if "Ost-Token" in headers:
            given["token"] = headers["Ost-Token"]
        if route.body:
            given |= await _json_body()
        asked = from_json(route.request, route.shape({**given, **path}))
        reply = await service.handle(caller, asked)
        return _answer(route.result(reply.message), route.status)

    return view


async def _json_body() -> Fields:
    """The request's JSON object; raises InvalidArgumentError or UnsupportedMediaTypeError."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaTypeError("send application/json")
    try:
        body = json.loads(await request.get_data())
    except (ValueError, RecursionError):
        raise InvalidArgumentError("the body is not JSON") from None
    if not isinstance(body, dict):
        raise InvalidArgumentError("the body must be a JSON object")
    return body


def _note_template(rule: str) -> None:
    """Tell the front what to log in place of the path."""
    request.scope["state"]["template"] = rule


def _answer(message: Message, status: int) -> Answer:
    if isinstance(message, m.Ok):
        return b"", 204, _HEADERS
    body = json.dumps(to_json(message), separators=(",", ":")).encode()
    return body, status, {"Content-Type": "application/json", **_HEADERS}


def _told(error: OstError) -> Answer:
    told = problem(error)
    return told.body, told.status, {name.decode(): value.decode() for name, value in told.headers}


def _not_routed(error: HTTPException) -> Answer:
    """Werkzeug's own refusals, in the words of the error table."""
    if isinstance(error, MethodNotAllowed):
        allow = ", ".join(sorted(error.valid_methods or ()))
        return _told(MethodNotAllowedError("not with this method", allow=allow))
    if isinstance(error, RequestEntityTooLarge):
        return _told(FrameTooLargeError("the body is too large for this route"))
    return _told(UnknownCallError("there is no such route"))


async def _on_refusal(error: OstError) -> ResponseTypes:
    return await current_app.make_response(_told(error))


async def _on_http_exception(error: HTTPException) -> ResponseTypes:
    return await current_app.make_response(_not_routed(error))
