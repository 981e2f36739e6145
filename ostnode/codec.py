"""Strict CBOR: one encoding per value, and nothing accepted but that encoding.

Accepted: 64-bit integers, byte strings, UTF-8 text, arrays, maps with text keys in the order of
their encodings without duplicates (RFC 8949 section 4.2.1), true, false, null. Refused: every
tag, floats, other simple values, indefinite lengths, non-shortest heads, trailing bytes, and
whatever is over the limits below. So `encode(decode(data)) == data` for all data accepted.

General decoders take far more than this under every option, and one has crashed the process on
hostile input; hence this small one. COSE needs integer keys and a tag in front of the whole: it
has its own entry points with the same limits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

from ostnode.errors import InvalidArgumentError

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[str, Value] | None"
CoseValue: TypeAlias = (
    "int | bytes | str | bool | list[CoseValue] | dict[int | str, CoseValue] | None"
)

CBOR_BYTES_MAX: Final = 64 * 1024
"""The whole encoding; also the limit of a frame's header, which is one CBOR map."""
CBOR_ITEMS_MAX: Final = 4096
"""Elements of arrays plus entries of maps, over the whole value. Bounds the memory of a decode:
an element of one byte becomes a Python object of fifty."""
CBOR_DEPTH_MAX: Final = 16
"""Arrays and maps inside each other; far below what Python's stack takes."""
INTEGER_MIN: Final = -(1 << 63)
INTEGER_MAX: Final = (1 << 64) - 1
COSE_SIGN1_TAG: Final = 18
"""RFC 9052 section 4.2."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(0, 256, 32)
"""Major types, where a head's first byte has them."""
_MAJOR: Final = 0xE0
_SIMPLE_VALUES: Final = {20: False, 21: True, 22: None}
_FALSE, _TRUE, _NULL = b"\xf4", b"\xf5", b"\xf6"
_IMMEDIATE: Final = 24
"""Arguments below this stand in the head's first byte; from here on it says how wide they are."""
_SHORT_TEXT_LAST: Final = _TEXT + _IMMEDIATE - 1
_ARGUMENTS: Final = {
    24: (struct.Struct(">B"), _IMMEDIATE),
    25: (struct.Struct(">H"), 1 << 8),
    26: (struct.Struct(">I"), 1 << 16),
    27: (struct.Struct(">Q"), 1 << 32),
}
"""What the first byte says: the argument that follows, and the least that needs such a width."""
_HEADS: Final = tuple(bytes((first,)) for first in range(256))
_HEAD_8, _HEAD_16, _HEAD_32, _HEAD_64 = (struct.Struct(f">B{width}") for width in "BHIQ")
_KEYS_REMEMBERED_MAX: Final = 64
"""Maps up to this size have their keys' order remembered: they are messages and claims."""


class _Budget:
    """What one value may still cost, and whether its maps may have integer keys."""

    __slots__ = ("integer_keys", "items")

    def __init__(self, *, integer_keys: bool) -> None:
        self.items = CBOR_ITEMS_MAX
        self.integer_keys = integer_keys

    def enter(self, items: int, depth: int) -> None:
        """Begin a container of so many items, where `depth` more may nest in each other."""
        if depth == 0:
            raise _refusal(f"it nests deeper than {CBOR_DEPTH_MAX}")
        if items > self.items:
            raise _refusal(f"more than {CBOR_ITEMS_MAX} items")
        self.items -= items


def _refusal(reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"not strict CBOR: {reason}")


# --- decoding -----------------------------------------------------------------------------------


def decode(data: bytes | bytearray | memoryview) -> Value:
    """The value of one strict encoding; raises InvalidArgumentError for anything else."""
    # Without integer keys there are text keys only.
    return _decoded(data, b"", integer_keys=False)  # type: ignore[return-value]


def decode_cose(data: bytes | bytearray | memoryview, *, tag: int | None = None) -> CoseValue:
    """Like `decode`, with integer keys allowed beside text.

    With `tag` the value must stand behind exactly that tag (COSE_SIGN1_TAG), which is not part
    of the result; no other tag is accepted anywhere.
    """
    return _decoded(data, b"" if tag is None else _head(_TAG, tag), integer_keys=True)


def _decoded(
    data: bytes | bytearray | memoryview, front: bytes, *, integer_keys: bool
) -> CoseValue:
    if len(data) > CBOR_BYTES_MAX:
        raise _refusal(f"{len(data)} bytes are over the limit of {CBOR_BYTES_MAX}")
    data = bytes(data)
    if not data.startswith(front):
        raise _refusal(f"it does not start with the tag {front.hex()}")
    budget = _Budget(integer_keys=integer_keys)
    try:
        value, end = _value(data, len(front), CBOR_DEPTH_MAX, budget)
    except (IndexError, struct.error):
        raise _refusal("it ends too early") from None
    if end > len(data):
        raise _refusal("it ends too early")
    if end < len(data):
        raise _refusal(f"{len(data) - end} bytes trail the value")
    return value


_Reader: TypeAlias = Callable[[bytes, int, int, int, _Budget], tuple[CoseValue, int]]
"""Reads the value behind one head: takes the data, where to go on, the head's argument, how many
more containers may nest in each other, and the budget; returns the value and where it ends.

Every frame and every record passes through these, so none looks whether the data is long enough:
a slice stops at the end, reading a byte behind it is an error of Python's, and a position that
has passed the end never comes back. `_decoded` turns each of these into a refusal.
"""


def _value(data: bytes, at: int, depth: int, budget: _Budget) -> tuple[CoseValue, int]:
    read, argument = _READERS[data[at]]
    return read(data, at + 1, argument, depth, budget)


def _unsigned(_data: bytes, at: int, number: int, _depth: int, _budget: _Budget) -> tuple[int, int]:
    return number, at


def _negative(_data: bytes, at: int, number: int, _depth: int, _budget: _Budget) -> tuple[int, int]:
    value = -1 - number
    if value < INTEGER_MIN:
        raise _refusal("an integer is outside 64 bits")
    return value, at


def _bytes(data: bytes, at: int, length: int, _depth: int, _budget: _Budget) -> tuple[bytes, int]:
    end = at + length
    return data[at:end], end


def _text(data: bytes, at: int, length: int, _depth: int, _budget: _Budget) -> tuple[str, int]:
    end = at + length
    return _unicode(data[at:end]), end


def _array(
    data: bytes, at: int, length: int, depth: int, budget: _Budget
) -> tuple[list[CoseValue], int]:
    budget.enter(length, depth)
    result = []
    for _ in range(length):
        # `_value`, without the call.
        read, argument = _READERS[data[at]]
        value, at = read(data, at + 1, argument, depth - 1, budget)
        result.append(value)
    return result, at


def _map(
    data: bytes, at: int, length: int, depth: int, budget: _Budget
) -> tuple[dict[int | str, CoseValue], int]:
    budget.enter(length, depth)
    result: dict[int | str, CoseValue] = {}
    last = b""
    for _ in range(length):
        start, first = at, data[at]
        key: int | str
        if _TEXT <= first <= _SHORT_TEXT_LAST:
            at += first - _TEXT + 1
            encoded = data[start:at]
            key = _short_text(encoded)
        else:
            key, at = _other_key(data, at, budget)
            encoded = data[start:at]
        if encoded <= last:
            raise _refusal("a map's keys are repeated or out of order")
        last = encoded
        read, argument = _READERS[data[at]]
        result[key], at = read(data, at + 1, argument, depth - 1, budget)
    return result, at


@lru_cache(maxsize=1024)
def _short_text(encoded: bytes) -> str:
    # Keys are field names: a few hundred, decoded over and over.
    return _unicode(encoded[1:])


def _other_key(data: bytes, at: int, budget: _Budget) -> tuple[int | str, int]:
    major = data[at] & _MAJOR
    if major == _TEXT or (budget.integer_keys and major in {_UNSIGNED, _NEGATIVE}):
        key, end = _value(data, at, 0, budget)
        assert isinstance(key, int | str)
        return key, end
    raise _refusal("a map's key has a wrong type")


def _unicode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _refusal("a text is not UTF-8") from None


def _no_tag(_data: bytes, _at: int, tag: int, _depth: int, _budget: _Budget) -> tuple[None, int]:
    raise _refusal(f"tag {tag} is not accepted")


def _simple(
    _data: bytes, at: int, number: int, _depth: int, _budget: _Budget
) -> tuple[bool | None, int]:
    if number in _SIMPLE_VALUES:
        return _SIMPLE_VALUES[number], at
    raise _refusal("floats and other simple values are not accepted")


def _reserved(
    _data: bytes, _at: int, _argument: int, _depth: int, _budget: _Budget
) -> tuple[None, int]:
    raise _refusal("indefinite lengths and reserved heads are not accepted")


def _wide(read_value: _Reader, layout: struct.Struct, least: int) -> _Reader:
    """The reader for heads whose argument follows the first byte."""
    unpack, width = layout.unpack_from, layout.size

    def read(
        data: bytes, at: int, _code: int, depth: int, budget: _Budget
    ) -> tuple[CoseValue, int]:
        (argument,) = unpack(data, at)
        if argument < least:
            raise _refusal("a head is not in its shortest form")
        return read_value(data, at + width, argument, depth, budget)

    return read


def _all_readers() -> tuple[tuple[_Reader, int], ...]:
    """For each first byte its reader, and the argument that stands in the byte itself."""
    by_major: dict[int, _Reader] = {
        _UNSIGNED: _unsigned,
        _NEGATIVE: _negative,
        _BYTES: _bytes,
        _TEXT: _text,
        _ARRAY: _array,
        _MAP: _map,
        _TAG: _no_tag,
        _SIMPLE: _simple,
    }
    readers: list[tuple[_Reader, int]] = []
    for first in range(256):
        read = by_major[first & _MAJOR]
        argument = first & ~_MAJOR
        if argument in _ARGUMENTS and read is not _simple:
            read = _wide(read, *_ARGUMENTS[argument])
        elif argument > max(_ARGUMENTS):
            read = _reserved
        readers.append((read, argument))
    return tuple(readers)


_READERS: Final = _all_readers()

# --- encoding -----------------------------------------------------------------------------------


def encode(value: object) -> bytes:
    """The one encoding of a value; tuples are arrays, subclasses of bytes and str count as such.

    Raises InvalidArgumentError for a value over the limits, TypeError for one that is no CBOR.
    """
    return within_limit(_encoded(value, CBOR_DEPTH_MAX, _Budget(integer_keys=False)))


def encode_cose(value: object, *, tag: int | None = None) -> bytes:
    """Like `encode`, with integer keys allowed beside text, behind `tag` if one is given."""
    front = b"" if tag is None else _head(_TAG, tag)
    return within_limit(front + _encoded(value, CBOR_DEPTH_MAX, _Budget(integer_keys=True)))


def within_limit(data: bytes) -> bytes:
    """The encoding given; raises InvalidArgumentError if it is over CBOR_BYTES_MAX."""
    if len(data) > CBOR_BYTES_MAX:
        raise InvalidArgumentError(
            f"{len(data)} bytes of CBOR are over the limit of {CBOR_BYTES_MAX}"
        )
    return data


def _encoded(value: object, depth: int, budget: _Budget) -> bytes:
    """One value; `depth` more containers may nest in each other."""
    if isinstance(value, str):
        return encoded_text(value)
    if isinstance(value, bytes):
        return encoded_bytes(value)
    if isinstance(value, bool):
        return encoded_bool(value)
    if isinstance(value, int):
        return encoded_int(value)
    if isinstance(value, dict):
        return _encoded_map(value, depth, budget)
    if isinstance(value, list | tuple):
        budget.enter(len(value), depth)
        return array_head(len(value)) + b"".join([
            _encoded(item, depth - 1, budget) for item in value
        ])
    if value is None:
        return _NULL
    raise TypeError(f"{type(value).__name__} has no strict CBOR")


def _encoded_map(entries: dict[object, object], depth: int, budget: _Budget) -> bytes:
    budget.enter(len(entries), depth)
    order = _in_order if len(entries) <= _KEYS_REMEMBERED_MAX else _in_order.__wrapped__
    parts = [map_head(len(entries))]
    for encoded, key in order(budget.integer_keys, *entries):
        parts.append(encoded)
        parts.append(_encoded(entries[key], depth - 1, budget))
    return b"".join(parts)


@lru_cache(maxsize=512, typed=True)  # typed: 1 and True are one key to a dict
def _in_order(integer_keys: bool, *keys: object) -> tuple[tuple[bytes, object], ...]:  # noqa: FBT001
    """A map's keys behind their encodings, in the order of these, which are never alike."""
    return tuple(sorted([(_encoded_key(key, integer_keys=integer_keys), key) for key in keys]))


def _encoded_key(key: object, *, integer_keys: bool) -> bytes:
    if isinstance(key, str):
        return encoded_text(key)
    if integer_keys and isinstance(key, int) and not isinstance(key, bool):
        return encoded_int(key)
    raise TypeError(f"a map's key cannot be {type(key).__name__}")


def encoded_int(value: int) -> bytes:
    """An integer; raises InvalidArgumentError if it has more than 64 bits."""
    if 0 <= value <= INTEGER_MAX:
        return _head(_UNSIGNED, value)
    if INTEGER_MIN <= value < 0:
        return _head(_NEGATIVE, -1 - value)
    raise InvalidArgumentError("an integer is outside 64 bits")


def encoded_bool(value: bool) -> bytes:  # noqa: FBT001 - a writer like the others
    """A truth value."""
    return _TRUE if value else _FALSE


def encoded_bytes(value: bytes) -> bytes:
    """A byte string."""
    return _head(_BYTES, len(value)) + value


def encoded_text(value: str) -> bytes:
    """A text; raises InvalidArgumentError if it has no UTF-8."""
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError("a text holds half of a surrogate pair") from None
    return _head(_TEXT, len(raw)) + raw


def array_head(length: int) -> bytes:
    """What stands before an array's elements."""
    return _head(_ARRAY, length)


def map_head(length: int) -> bytes:
    """What stands before a map's entries, which follow in the order of their keys' encodings."""
    return _head(_MAP, length)


def _head(major: int, argument: int) -> bytes:
    if argument < _IMMEDIATE:
        return _HEADS[major + argument]
    if argument < 1 << 8:
        return _HEAD_8.pack(major + 24, argument)
    if argument < 1 << 16:
        return _HEAD_16.pack(major + 25, argument)
    if argument < 1 << 32:
        return _HEAD_32.pack(major + 26, argument)
    return _HEAD_64.pack(major + 27, argument)
