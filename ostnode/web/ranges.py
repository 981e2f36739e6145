"""Byte ranges and conditional requests (RFC 9110 §13, §14). Pure.

One range is served; several are answered with the whole blob, which §14.2 allows and which costs
an attacker's 4,000 ranges nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ostnode.errors import RangeNotSatisfiableError

_ONE_RANGE: Final = re.compile(rb"bytes=([0-9]{0,30})-([0-9]{0,30})", re.IGNORECASE)
_ETAG: Final = re.compile(rb'(?:W/)?("[^"]*")')


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [start, stop) of a blob."""

    start: int
    stop: int


def requested_span(
    value: bytes | None, if_range: bytes | None, etag: bytes, size: int
) -> Span | None:
    """The one range asked for, cut to the blob; None when the whole blob is to be sent.

    That is so without a Range header, with another unit, with several ranges, for anything
    malformed, and when If-Range names another representation. Raises RangeNotSatisfiableError
    for a range beyond the end.
    """
    if value is None or (if_range is not None and if_range != etag):
        return None
    match = _ONE_RANGE.fullmatch(value)
    if match is None:
        return None
    first, last = match.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None  # invalid, so ignored
    elif last:
        start, stop = max(0, size - int(last)), size
    else:
        return None
    if start >= stop:
        raise RangeNotSatisfiableError(f"the blob has {size} bytes", size=size)
    return Span(start, stop)


def not_modified(if_none_match: bytes | None, etag: bytes) -> bool:
    """Whether If-None-Match names the ETag (weakly compared) or anything at all."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == b"*" or etag in _ETAG.findall(if_none_match)
