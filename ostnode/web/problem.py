"""Refusals as problem+json (RFC 9457). Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from ostnode.errors import RETRY_AFTER_S, OstError
from ostnode.web.headers import HeaderList, json_headers

MEDIA_TYPE: Final = b"application/problem+json"


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer to a refused request."""

    status: int
    headers: HeaderList
    body: bytes


def problem(error: OstError) -> Problem:
    """The refusal's status, headers and body: `code` and `retryable` are what programs act on.

    The error's details stand beside them, as RFC 9457 §3.2 has extensions.
    """
    status = error.http_status
    members = {
        **error.details,
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": error.code,
        "retryable": error.retryable,
        "detail": error.message,
    }
    body = json.dumps(members, separators=(",", ":")).encode()
    return Problem(status, json_headers(MEDIA_TYPE, body) + _of_status(error), body)


def _of_status(error: OstError) -> HeaderList:
    """The headers that RFC 9110 wants with some statuses."""
    headers: HeaderList = []
    if error.retryable:
        seconds = error.details.get("retry_after_s", RETRY_AFTER_S)
        headers.append((b"retry-after", str(seconds).encode()))
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"OST"))
    if error.http_status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append((b"allow", str(error.details.get("allow", "")).encode()))
    if error.http_status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        headers.append((b"content-range", b"bytes */%d" % int(error.details.get("size", 0))))
    return headers
