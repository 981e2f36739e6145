"""Frames cut off a buffer, by the letter of the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ostnode.fuzz import spec
from ostnode.fuzz.strictcbor import Item, NotStrictError, read_strict

_PREFIX_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame; `size` with its prefix."""

    header: bytes
    body: bytes
    size: int


def cut_frame(buffer: bytearray, *, greeting: bool) -> Frame | None:
    """The frame at the front of the buffer, left there; None while it is not whole.

    Raises NotStrictError for lengths over the limits, which are lower while `greeting`.
    """
    if len(buffer) < _PREFIX_BYTES:
        return None
    header_bytes = int.from_bytes(buffer[:4], "big")
    body_bytes = int.from_bytes(buffer[4:_PREFIX_BYTES], "big")
    header_max = spec.GREETING_HEADER_MAX if greeting else spec.HEADER_MAX
    if header_bytes > header_max or body_bytes > (0 if greeting else spec.BODY_MAX):
        raise NotStrictError("the frame is over its limits")
    middle = _PREFIX_BYTES + header_bytes
    size = middle + body_bytes
    if len(buffer) < size:
        return None
    return Frame(bytes(buffer[_PREFIX_BYTES:middle]), bytes(buffer[middle:size]), size)


def header_of(frame: Frame) -> dict[str, Item] | None:
    """The header's map, anew each time; None when it is none."""
    try:
        header = read_strict(frame.header)
    except NotStrictError:
        return None
    return header if isinstance(header, dict) else None
