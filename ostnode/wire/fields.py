"""Field types of messages: limits, and the bases that schema and registry look for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from ostnode.ids import REF_ID_BYTES_MAX, SIZE_MAX, Principal


@dataclass(frozen=True, slots=True)
class Bounds:
    """Inclusive limits: of an int's value, or of the length of bytes, text or a tuple."""

    low: int
    high: int


ACCESSORS_MAX: Final = 64
BATCH_ITEMS_MAX: Final = 500
TOKEN_BYTES_MAX: Final = 1024
READ_BYTES_MAX: Final = 1 << 20
FILENAME_CHARS_MAX: Final = 255
ZONE_CHARS_MAX: Final = 32

Amount = Annotated[int, Bounds(0, SIZE_MAX)]
Chunk = Annotated[int, Bounds(0, (1 << 32) - 1)]
RefId = Annotated[bytes, Bounds(0, REF_ID_BYTES_MAX)]
Token = Annotated[bytes, Bounds(1, TOKEN_BYTES_MAX)]
EventBytes = Annotated[bytes, Bounds(1, 2048)]
Address = Annotated[str, Bounds(0, 255)]
Zone = Annotated[str, Bounds(0, ZONE_CHARS_MAX)]
ShortText = Annotated[str, Bounds(0, 64)]
MessageText = Annotated[str, Bounds(0, 500)]
ContentType = Annotated[str, Bounds(0, 255)]
Filename = Annotated[str, Bounds(1, FILENAME_CHARS_MAX)]
Accessors = Annotated[tuple[Principal, ...], Bounds(0, ACCESSORS_MAX)]


class Message:
    """Base of everything that crosses the wire as one CBOR map."""

    __slots__ = ()


class Request(Message):
    """Base of every call's request."""

    __slots__ = ()
