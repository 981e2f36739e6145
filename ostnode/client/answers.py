"""What a node answered: problem+json to typed errors, headers to values. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeVar
from urllib.parse import unquote

from ostnode.client.errors import BadAnswerError, UnreachableError
from ostnode.client.retry import parse_retry_after
from ostnode.errors import DetailValue, InvalidArgumentError, OstError, error_class
from ostnode.wire.fields import Message
from ostnode.wire.jsonmap import from_json

M = TypeVar("M", bound=Message)

_PROBLEM_MEMBERS: Final = frozenset({"type", "title", "status", "code", "retryable", "detail"})
_GATEWAY_STATUSES: Final = frozenset({408, 429, 502, 503, 504})
"""Without a problem body these come from something in front of the node, or its accept loop."""
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_NUMBER: Final = re.compile(r"[0-9]{1,19}")
_FILENAME: Final = re.compile(r"filename\*=UTF-8''([^;\s]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True, slots=True)
class Extent:
    """Which bytes [start, end) of a blob of `size` bytes an answer carries."""

    start: int
    end: int
    size: int

    @property
    def length(self) -> int:
        """How many bytes that is."""
        return self.end - self.start


def result_of(node: str, cls: type[M], answer: Answer) -> M:
    """The message in a successful answer; raises BadAnswerError."""
    content = b"{}" if answer.status == HTTPStatus.NO_CONTENT else answer.content
    try:
        return from_json(cls, json.loads(content))
    except (InvalidArgumentError, ValueError, RecursionError) as error:
        raise BadAnswerError(node, f"no {cls.__name__}: {error}") from None


def refusal_of(node: str, answer: Answer, now: float) -> Exception:
    """The error that an unsuccessful answer stands for: what the node raised, by its code."""
    retry_after_s = parse_retry_after(answer.headers.get("retry-after"), now)
    problem = _problem(answer)
    if problem is None:
        reason = f"HTTP status {answer.status}"
        if answer.status in _GATEWAY_STATUSES:
            return UnreachableError(node, reason, retry_after_s)
        return BadAnswerError(node, reason)
    details: dict[str, DetailValue] = {
        name: value
        for name, value in problem.items()
        if name not in _PROBLEM_MEMBERS and isinstance(value, int | str | bool)
    }
    if retry_after_s is not None:
        details["retry_after_s"] = int(-(-retry_after_s // 1))
    error = error_class(str(problem["code"]))(str(problem.get("detail", "")))
    error.details = details
    return error


def _problem(answer: Answer) -> dict[str, object] | None:
    """The RFC 9457 object of an answer, if it is one with a code."""
    if not answer.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        problem = json.loads(answer.content)
    except (ValueError, RecursionError):
        return None
    if isinstance(problem, dict) and isinstance(problem.get("code"), str):
        return problem
    return None


def code_of(error: Exception) -> str:
    """A failure's name for observers: the error table's code, or what the client calls it."""
    if isinstance(error, OstError):
        return error.code
    return "unreachable" if isinstance(error, UnreachableError) else "bad_answer"


def extent_of(
    node: str, status: int, headers: Mapping[str, str], range_start: int | None
) -> Extent:
    """Which bytes a successful answer carries.

    `range_start` is the first byte of the range that was asked for, None when the whole blob was.
    Raises BadAnswerError for an answer that is not to this question, or without a length.
    """
    length = headers.get("content-length", "")
    if range_start is None and status == HTTPStatus.OK and _NUMBER.fullmatch(length):
        return Extent(0, int(length), int(length))
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if range_start is not None and status == HTTPStatus.PARTIAL_CONTENT and match is not None:
        first, last, size = map(int, match.groups())
        if range_start == first <= last < size:
            return Extent(first, last + 1, size)
    raise BadAnswerError(node, f"status {status} without the bytes that were asked for")


def filename_of(headers: Mapping[str, str]) -> str | None:
    """The name in a Content-Disposition header, in the extended form of RFC 8187."""
    match = _FILENAME.search(headers.get("content-disposition", ""))
    return unquote(match.group(1)) if match else None
