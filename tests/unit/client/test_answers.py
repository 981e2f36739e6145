from __future__ import annotations

import json

import pytest

from ostnode.client.answers import (
    Answer,
    Extent,
    code_of,
    extent_of,
    filename_of,
    refusal_of,
    result_of,
)
from ostnode.client.errors import BadAnswerError, UnreachableError
from ostnode.errors import AllowanceExceededError, BusyError, InternalError, NotFoundError
from ostnode.wire import messages as m

PROBLEM = {"content-type": "application/problem+json; charset=utf-8"}


def _refusal(status: int, body: object, headers: dict[str, str] | None = None) -> Exception:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = Answer(status, PROBLEM if headers is None else headers, content)
    return refusal_of("http://node", answer, now=0.0)


def test_a_problem_is_the_error_that_the_node_raised() -> None:
    error = _refusal(
        413,
        {
            "type": "about:blank",
            "title": "too much",
            "status": 413,
            "code": "allowance_exceeded",
            "retryable": False,
            "detail": "5 bytes too many",
            "limit": 10,
            "needed": 15,
            "odd": [1],
        },
    )
    assert isinstance(error, AllowanceExceededError)
    assert error.message == "5 bytes too many"
    assert error.details == {"limit": 10, "needed": 15}


def test_b12_retry_after_of_the_header_is_kept() -> None:
    error = _refusal(503, {"code": "busy"}, {**PROBLEM, "retry-after": "7"})
    assert isinstance(error, BusyError)
    assert error.details == {"retry_after_s": 7}


def test_an_unknown_code_is_an_internal_error() -> None:
    assert type(_refusal(500, {"code": "from_the_future"})) is InternalError


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (503, b"<html>", {"content-type": "text/html"}),
        (502, b"{", PROBLEM),
        (504, b"[]", PROBLEM),
        (429, b'{"code": 5}', PROBLEM),
        (408, b"[" * 100_000, PROBLEM),
    ],
)
def test_an_answer_in_the_nodes_place_means_unreachable(
    status: int, body: bytes, headers: dict[str, str]
) -> None:
    error = _refusal(status, body, headers | {"retry-after": "3"})
    assert isinstance(error, UnreachableError)
    assert error.retry_after_s == 3.0


@pytest.mark.parametrize("status", [301, 404, 418, 500])
def test_another_programs_refusal_is_a_bad_answer(status: int) -> None:
    assert isinstance(_refusal(status, b"hello", {}), BadAnswerError)


def test_a_result_is_a_message() -> None:
    answer = Answer(200, {}, b'{"limit": 1, "used": 2, "reserved": 3}')
    assert result_of("node", m.Allowance, answer) == m.Allowance(1, 2, 3)
    assert result_of("node", m.Ok, Answer(204, {}, b"")) == m.Ok()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"limit": 1}', b"\xff", b"[" * 100_000, b'{"limit": "x"}']
)
def test_a_malformed_result_is_a_bad_answer(content: bytes) -> None:
    with pytest.raises(BadAnswerError, match="Allowance"):
        result_of("node", m.Allowance, Answer(200, {}, content))


def test_no_content_where_a_result_is_due_is_a_bad_answer() -> None:
    with pytest.raises(BadAnswerError):
        result_of("node", m.Allowance, Answer(204, {}, b""))


def test_failures_have_names() -> None:
    errors = [NotFoundError(), UnreachableError("n", "r"), BadAnswerError("n", "r")]
    assert [code_of(error) for error in errors] == ["not_found", "unreachable", "bad_answer"]


def test_an_extent_is_what_was_asked_for() -> None:
    whole = {"content-length": "7"}
    part = {"content-length": "2", "content-range": "bytes 3-4/7"}
    assert extent_of("node", 200, whole, None) == Extent(0, 7, 7)
    assert extent_of("node", 206, part, 3) == Extent(3, 5, 7)
    assert extent_of("node", 206, part, 3).length == 2


@pytest.mark.parametrize(
    ("status", "headers", "start"),
    [
        (200, {}, None),
        (200, {"content-length": "-1"}, None),
        (200, {"content-length": "7"}, 3),
        (206, {"content-range": "bytes 3-4/7"}, None),
        (206, {"content-range": "bytes 3-4/7"}, 2),
        (206, {"content-range": "bytes 3-4/*"}, 3),
        (206, {"content-range": "bytes 3-2/7"}, 3),
        (206, {"content-range": "bytes 3-7/7"}, 3),
        (206, {}, 3),
        (204, {}, None),
    ],
)
def test_other_bytes_than_asked_for_are_a_bad_answer(
    status: int, headers: dict[str, str], start: int | None
) -> None:
    with pytest.raises(BadAnswerError):
        extent_of("node", status, headers, start)


def test_a_filename_is_read_in_its_extended_form() -> None:
    assert filename_of({"content-disposition": "inline; filename*=UTF-8''k%C3%A4se.png"}) == (
        "käse.png"
    )
    assert filename_of({"content-disposition": "attachment"}) is None
    assert filename_of({}) is None
