"""Small numbers and common words in few bytes, for the rows that every blob has."""

from __future__ import annotations

from typing import Final

_CONTENT_TYPES: Final = (
    "application/octet-stream",
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/heic",
    "image/svg+xml",
    "video/mp4",
    "video/webm",
    "video/quicktime",
    "audio/mpeg",
    "audio/ogg",
    "audio/mp4",
    "audio/webm",
    "application/pdf",
    "application/zip",
    "application/json",
    "text/plain",
    "text/plain; charset=utf-8",
)
"""Their places are in the rows: another order is another layout (`lmdbindex.LAYOUT`)."""
_MORE: Final = 0x80
"""The bit that says that more bytes follow."""
_CODES: Final = {word: code for code, word in enumerate(_CONTENT_TYPES, start=1)}


def pack_number(number: int) -> bytes:
    """LEB128: seven bits a byte, the lowest first; 1 byte below 128."""
    packed = bytearray()
    while number >= _MORE:
        packed.append(number & 0x7F | _MORE)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def unpack_numbers(row: bytes, count: int, at: int = 0) -> tuple[list[int], int]:
    """`count` such numbers from `at`, and where they end; raises IndexError for a short row."""
    numbers = []
    for _ in range(count):
        number = shift = 0
        while (byte := row[at]) >= _MORE:
            number |= (byte & 0x7F) << shift
            shift, at = shift + 7, at + 1
        numbers.append(number | byte << shift)
        at += 1
    return numbers, at


def sortable(number: int) -> bytes:
    """A number in a key: its length in a byte, then as few bytes as it needs, the highest first.

    They sort as the numbers count, and none is the beginning of another.
    """
    length = (number.bit_length() + 7) // 8
    return bytes((length,)) + number.to_bytes(length, "big")


def sorted_number(key: bytes, at: int) -> tuple[int, int]:
    """The number at `at` in a key, and where it ends."""
    end = at + 1 + key[at]
    return int.from_bytes(key[at + 1 : end], "big"), end


def pack_content_type(word: str) -> bytes:
    """One byte for a common one; else zero, its length, and itself."""
    code = _CODES.get(word)
    if code is not None:
        return bytes((code,))
    text = word.encode()
    return b"\0" + pack_number(len(text)) + text


def unpack_content_type(row: bytes, at: int) -> tuple[str, int]:
    """The one at `at`, and where it ends."""
    if row[at]:
        return _CONTENT_TYPES[row[at] - 1], at + 1
    (length,), at = unpack_numbers(row, 1, at + 1)
    return row[at : at + length].decode(), at + length
