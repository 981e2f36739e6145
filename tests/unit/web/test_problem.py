"""Refusals as problem+json."""

from __future__ import annotations

import json

import pytest

from ostnode.errors import (
    AllowanceExceededError,
    BusyError,
    MethodNotAllowedError,
    OstError,
    RangeNotSatisfiableError,
    UnauthenticatedError,
    all_errors,
)
from ostnode.web.problem import problem


@pytest.mark.parametrize("cls", all_errors(), ids=lambda cls: cls.code)
def test_every_error_of_the_table_has_its_status_and_code(cls: type[OstError]) -> None:
    told = problem(cls("why"))
    body = json.loads(told.body)
    headers = dict(told.headers)
    assert told.status == body["status"] == cls.http_status
    assert (body["code"], body["detail"], body["retryable"]) == (cls.code, "why", cls.retryable)
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"content-length"] == b"%d" % len(told.body)
    assert (b"retry-after" in headers) == cls.retryable


def test_details_stand_beside_the_members_and_never_replace_them() -> None:
    body = json.loads(problem(AllowanceExceededError("no", limit=5, code="ok", status=1)).body)
    assert (body["limit"], body["code"], body["status"]) == (5, "allowance_exceeded", 413)


def test_statuses_carry_the_headers_they_must() -> None:
    def headers(error: OstError) -> dict[bytes, bytes]:
        return dict(problem(error).headers)

    assert headers(BusyError(retry_after_s=7))[b"retry-after"] == b"7"
    assert headers(BusyError())[b"retry-after"] == b"1"
    assert headers(UnauthenticatedError())[b"www-authenticate"] == b"OST"
    assert headers(MethodNotAllowedError(allow="GET"))[b"allow"] == b"GET"
    assert headers(RangeNotSatisfiableError(size=9))[b"content-range"] == b"bytes */9"
