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

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLE_VALUES: Final = {20: False, 21: True, 22: None}
_FALSE, _TRUE, _NULL = b"\xf4", b"\xf5", b"\xf6"
_IMMEDIATE: Final = 24
"""Arguments below this stand in the head's first byte; from here on it says how wide they are."""
_WIDEST: Final = 27
_WIDTHS: Final = ((24, 1), (25, 2), (26, 4), (27, 8))
"""What the first byte says, and how many bytes of argument follow."""
_SHORT_HEADS: Final = tuple(
    tuple(bytes((major << 5 | number,)) for number in range(_IMMEDIATE)) for major in range(8)
)


def decode(data: bytes | bytearray | memoryview) -> Value:
    """The value of one strict encoding; raises InvalidArgumentError for anything else."""
    decoder = _Decoder(data, integer_keys=False)
    value = decoder.value(CBOR_DEPTH_MAX)
    decoder.finish()
    # Without integer keys the decoder makes text keys only.
    return value  # type: ignore[return-value]


def encode(value: object) -> bytes:
    """The one encoding of a value; tuples are arrays, subclasses of bytes and str count as such.

    Raises InvalidArgumentError for a value over the limits, TypeError for one that is no CBOR.
    """
    return _encoded(value, integer_keys=False)


def decode_cose(data: bytes | bytearray | memoryview, *, tag: int | None = None) -> CoseValue:
    """Like `decode`, with integer keys allowed beside text.

    With `tag` the value must stand behind exactly that tag (COSE_SIGN1_TAG), which is not part
    of the result; no other tag is accepted anywhere.
    """
    decoder = _Decoder(data, integer_keys=True)
    if tag is not None:
        decoder.expect_tag(tag)
    value = decoder.value(CBOR_DEPTH_MAX)
    decoder.finish()
    return value


def encode_cose(value: object, *, tag: int | None = None) -> bytes:
    """Like `encode`, with integer keys allowed beside text, behind `tag` if one is given."""
    front = b"" if tag is None else _head(_TAG, tag)
    return front + _encoded(value, integer_keys=True)


class _Decoder:
    """One pass over the data; `_pos` is the next unread byte, `_items` what may still come."""

    __slots__ = ("_data", "_integer_keys", "_items", "_pos")

    def __init__(self, data: bytes | bytearray | memoryview, *, integer_keys: bool) -> None:
        if len(data) > CBOR_BYTES_MAX:
            raise _refusal(f"{len(data)} bytes are over the limit of {CBOR_BYTES_MAX}")
        self._data = bytes(data)
        self._pos = 0
        self._items = CBOR_ITEMS_MAX
        self._integer_keys = integer_keys

    def expect_tag(self, tag: int) -> None:
        """Consume the tag's head."""
        if self._next_head() != (_TAG, tag):
            raise _refusal(f"it does not start with tag {tag}")

    def finish(self) -> None:
        """Refuse trailing bytes."""
        if self._pos != len(self._data):
            raise _refusal(f"{len(self._data) - self._pos} bytes trail the value")

    def value(self, depth: int) -> CoseValue:
        """The next value; `depth` more containers may nest in each other."""
        major, number = self._next_head()
        if major == _UNSIGNED:
            return number
        if major == _TEXT:
            return self._text(number)
        if major == _BYTES:
            return self._take(number)
        if major == _MAP:
            return self._map(number, depth)
        if major == _ARRAY:
            self._enter(number, depth)
            return [self.value(depth - 1) for _ in range(number)]
        if major == _NEGATIVE:
            return _negative(number)
        if major == _SIMPLE:
            if number in _SIMPLE_VALUES:
                return _SIMPLE_VALUES[number]
            raise _refusal("floats and other simple values are not accepted")
        raise _refusal(f"tag {number} is not accepted")

    def _map(self, entries: int, depth: int) -> dict[int | str, CoseValue]:
        self._enter(entries, depth)
        result: dict[int | str, CoseValue] = {}
        last = b""
        for _ in range(entries):
            start = self._pos
            key = self._key()
            encoded = self._data[start : self._pos]
            if encoded <= last:
                raise _refusal("a map's keys are repeated or out of order")
            last = encoded
            result[key] = self.value(depth - 1)
        return result

    def _key(self) -> int | str:
        major, number = self._next_head()
        if major == _TEXT:
            return self._text(number)
        if self._integer_keys and major in {_UNSIGNED, _NEGATIVE}:
            return number if major == _UNSIGNED else _negative(number)
        raise _refusal("a map's key has a wrong type")

    def _enter(self, items: int, depth: int) -> None:
        if depth == 0:
            raise _refusal(f"it nests deeper than {CBOR_DEPTH_MAX}")
        if items > self._items:
            raise _refusal(f"more than {CBOR_ITEMS_MAX} items")
        self._items -= items

    def _text(self, length: int) -> str:
        raw = self._take(length)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise _refusal("a text is not UTF-8") from None

    def _take(self, length: int) -> bytes:
        start, self._pos = self._pos, self._pos + length
        if self._pos > len(self._data):
            raise _refusal("it ends too early")
        return self._data[start : self._pos]

    def _next_head(self) -> tuple[int, int]:
        """Major type and argument, which must be in its shortest form."""
        if self._pos == len(self._data):
            raise _refusal("it ends too early")
        first = self._data[self._pos]
        self._pos += 1
        major, number = first >> 5, first & 31
        if number < _IMMEDIATE:
            return major, number
        if number > _WIDEST:
            raise _refusal("indefinite lengths and reserved heads are not accepted")
        if major == _SIMPLE:
            raise _refusal("floats and other simple values are not accepted")
        width = 1 << (number - _IMMEDIATE)
        number = int.from_bytes(self._take(width), "big")
        if number < (_IMMEDIATE if width == 1 else 1 << (4 * width)):
            raise _refusal("a head is not in its shortest form")
        return major, number


def _refusal(reason: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"not strict CBOR: {reason}")


def _negative(number: int) -> int:
    value = -1 - number
    if value < INTEGER_MIN:
        raise _refusal("an integer is outside 64 bits")
    return value


def _encoded(value: object, *, integer_keys: bool) -> bytes:
    encoder = _Encoder(integer_keys=integer_keys)
    encoder.add(value, CBOR_DEPTH_MAX)
    data = b"".join(encoder.parts)
    if len(data) > CBOR_BYTES_MAX:
        raise InvalidArgumentError(
            f"{len(data)} bytes of CBOR are over the limit of {CBOR_BYTES_MAX}"
        )
    return data


class _Encoder:
    """Collects the parts of one encoding; measured as fast as a C encoder that sorts keys."""

    __slots__ = ("_integer_keys", "_items", "parts")

    def __init__(self, *, integer_keys: bool) -> None:
        self.parts: list[bytes] = []
        self._items = CBOR_ITEMS_MAX
        self._integer_keys = integer_keys

    def add(self, value: object, depth: int) -> None:
        """Append the encoding of `value`; `depth` more containers may nest in each other."""
        if isinstance(value, str):
            self.parts.append(_encoded_text(value))
        elif isinstance(value, bytes):
            self.parts += (_head(_BYTES, len(value)), value)
        elif isinstance(value, bool):
            self.parts.append(_TRUE if value else _FALSE)
        elif isinstance(value, int):
            self.parts.append(_encoded_int(value))
        elif isinstance(value, dict):
            self._add_map(value, depth)
        elif isinstance(value, list | tuple):
            self._enter(len(value), depth)
            self.parts.append(_head(_ARRAY, len(value)))
            for item in value:
                self.add(item, depth - 1)
        elif value is None:
            self.parts.append(_NULL)
        else:
            raise TypeError(f"{type(value).__name__} has no strict CBOR")

    def _add_map(self, entries: dict[object, object], depth: int) -> None:
        self._enter(len(entries), depth)
        self.parts.append(_head(_MAP, len(entries)))
        # Keys of different types never encode alike, so the sort never compares the values.
        for key, value in sorted([(self._key(key), value) for key, value in entries.items()]):
            self.parts.append(key)
            self.add(value, depth - 1)

    def _key(self, key: object) -> bytes:
        if isinstance(key, str):
            return _encoded_key(key)
        if self._integer_keys and isinstance(key, int) and not isinstance(key, bool):
            return _encoded_int(key)
        raise TypeError(f"a map's key cannot be {type(key).__name__}")

    def _enter(self, items: int, depth: int) -> None:
        if depth == 0:
            raise InvalidArgumentError(f"CBOR nests deeper than {CBOR_DEPTH_MAX}")
        self._items -= items
        if self._items < 0:
            raise InvalidArgumentError(f"more than {CBOR_ITEMS_MAX} items of CBOR")


def _encoded_text(text: str) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError("a text holds half of a surrogate pair") from None
    return _head(_TEXT, len(raw)) + raw


@lru_cache(maxsize=1024)
def _encoded_key(text: str) -> bytes:
    # Keys are field names: a few hundred, encoded over and over.
    return _encoded_text(text)


def _encoded_int(value: int) -> bytes:
    if not INTEGER_MIN <= value <= INTEGER_MAX:
        raise InvalidArgumentError("an integer is outside 64 bits")
    return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)


def _head(major: int, number: int) -> bytes:
    if number < _IMMEDIATE:
        return _SHORT_HEADS[major][number]
    code, width = next(row for row in _WIDTHS if number < 1 << 8 * row[1])
    return bytes((major << 5 | code,)) + number.to_bytes(width, "big")
