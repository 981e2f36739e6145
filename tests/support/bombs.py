"""Small inputs that cost a careless parser much: time, memory, or its stack."""

from __future__ import annotations

from typing import Final

from ostnode.codec import CBOR_BYTES_MAX, CBOR_DEPTH_MAX, CBOR_ITEMS_MAX, encode, encode_cose
from tests.vectors.cbor_cases import INVALID_CBOR

_HALF: Final = CBOR_ITEMS_MAX // 2
_INTEGER_HASH: Final = (1 << 61) - 1
"""Integers that are equal modulo this have the same hash in CPython."""


def _array(count: int) -> bytes:
    return b"\x9a" + count.to_bytes(4, "big")


def _padded(head: bytes, item: bytes) -> bytes:
    """The head, and items up to the limit in bytes."""
    return head + item * ((CBOR_BYTES_MAX - len(head)) // len(item))


def _map_of(keys: list[bytes]) -> bytes:
    return b"\xb9" + len(keys).to_bytes(2, "big") + b"".join(key + b"\x00" for key in sorted(keys))


def _colliding() -> bytes:
    """Integer keys in few buckets: the same hash, or the same low bits of it."""
    numbers = {n * _INTEGER_HASH for n in range(1, 8)} | {n << 40 for n in range(1, _HALF)}
    return encode_cose(dict.fromkeys(numbers, 0))


DEEP_AND_WIDE: Final = _array(_HALF) + b"\x80" * (_HALF - 1) + b"\x81" * 14 + b"\x80"

BOMBS: Final[dict[str, bytes]] = {
    "levels of arrays": b"\x81" * CBOR_BYTES_MAX,
    "levels of maps": _padded(b"", b"\xa1\x61a"),
    "levels of indefinite arrays": b"\x9f" * CBOR_BYTES_MAX,
    "levels of tags": b"\xc1" * CBOR_BYTES_MAX,
    "levels of shared values": _padded(b"", b"\xd8\x1c\x81"),
    "a value that holds itself": b"\xd8\x1c\x81" + b"\xd8\x1d\x00",
    "values that double": b"\xd8\x1c\x82" * 40 + b"\x00" + b"\xd8\x1d\x00" * 40,
    "empty arrays": _padded(_array(CBOR_BYTES_MAX - 5), b"\x80"),
    "as many empty arrays as may be": b"\x99\x10\x00" + b"\x80" * CBOR_ITEMS_MAX,
    "one empty array too many": b"\x99\x10\x01" + b"\x80" * (CBOR_ITEMS_MAX + 1),
    "empty arrays without an array": b"\x80" * CBOR_BYTES_MAX,
    "8 MiB of empty arrays": b"\x80" * (8 << 20),
    "zeros": bytes(CBOR_BYTES_MAX),
    "an array of 2^32 - 1": _array(0xFFFFFFFF) + bytes(1000),
    "an array of 2^64 - 1": b"\x9b" + b"\xff" * 8,
    "a map of 2^64 - 1": b"\xbb" + b"\xff" * 8,
    "bytes of 2^64 - 1": b"\x5b" + b"\xff" * 8,
    "text of 2^64 - 1": b"\x7b" + b"\xff" * 8,
    "long integers": b"\x99\x10\x00" + (b"\x1b" + b"\xff" * 8) * CBOR_ITEMS_MAX,
    "short texts": b"\x99\x10\x00" + b"\x61x" * CBOR_ITEMS_MAX,
    "texts as long as may be": b"\x99\x10\x00" + (b"\x6e" + b"x" * 14) * CBOR_ITEMS_MAX,
    "one long text": b"\x79\xff\xfd" + b"x" * (CBOR_BYTES_MAX - 3),
    "one long text, wrong at its end": b"\x79\xff\xfd" + b"x" * (CBOR_BYTES_MAX - 4) + b"\xff",
    "one long text of wide characters": b"\x79\xff\xfc" + "𐅑".encode() * 0x3FFF,
    "keys as many as may be": _map_of([encode(f"{n:04x}") for n in range(CBOR_ITEMS_MAX)]),
    "keys that begin alike": _map_of([encode("k" * 9 + f"{n:03x}") for n in range(CBOR_ITEMS_MAX)]),
    "keys in falling order": b"\xb9\x10\x00"
    + b"".join(encode(f"{n:04x}") + b"\x00" for n in reversed(range(CBOR_ITEMS_MAX))),
    "one key again and again": b"\xb9\x10\x00" + b"\x61a\x00" * CBOR_ITEMS_MAX,
    "one long key": b"\xa1\x79\xff\xf0" + b"k" * 0xFFF0 + b"\x00",
    "integer keys that collide": _colliding(),
    "many arrays of 16 levels": b"\x98\xf0" + (b"\x81" * (CBOR_DEPTH_MAX - 1) + b"\x00") * 240,
    "wide and then deep": DEEP_AND_WIDE,
    "a bignum of 64 KiB": b"\xc2\x59\xff\xf0" + b"\xff" * 0xFFF0,
    "a fraction with a vast exponent": b"\xc4\x82\x1b" + b"\x7f" * 8 + b"\x01",
    "a regular expression that backtracks": b"\xd8\x23" + encode("(a+)+$" * 8),
    "bytes in pieces": _padded(b"\x5f", b"\x41x"),
    "random heads": bytes((n * 197 + n // 7) % 256 for n in range(CBOR_BYTES_MAX)),
    **INVALID_CBOR,
}
