"""A second opinion on strict CBOR, written from the protocol's text and not from the codec.

The judge must not share the codec's mistakes, so nothing here is imported from it; the limits
are those of `docs/protocol.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

BYTES_MAX: Final = 65_536
ITEMS_MAX: Final = 4_096
DEPTH_MAX: Final = 16

Item: TypeAlias = "int | bytes | str | bool | list[Item] | dict[str, Item] | None"


class NotStrictError(ValueError):
    """The bytes are not strict CBOR."""


@dataclass(slots=True)
class _Open:
    """A container that is being filled. `key` is the one whose value comes next."""

    into: list[Item] | dict[str, Item]
    left: int
    key: str | None = None
    last: bytes = b""


def read_strict(data: bytes) -> Item:
    """The value of one strict encoding, read without recursion; raises NotStrictError."""
    if len(data) > BYTES_MAX:
        raise NotStrictError("too long")
    return _Reading(data).run()


class _Reading:
    """The containers that are open, the innermost last, and how many items they have taken."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._stack: list[_Open] = []
        self._items = 0

    def run(self) -> Item:
        at = 0
        while True:
            major, argument, start = _head(self._data, at)
            value, at = self._value(major, argument, start)
            top = self._stack[-1] if self._stack else None
            if top is not None and isinstance(top.into, dict) and top.key is None:
                _take_key(top, value, self._data[start:at])
                continue
            if top is not None:
                _put(top, value)
            if isinstance(value, list | dict):
                self._stack.append(_Open(value, argument))
            while self._stack and not self._stack[-1].left:
                value = self._stack.pop().into
            if not self._stack:
                break
        if at != len(self._data):
            raise NotStrictError("bytes trail the value")
        return value

    def _value(self, major: int, argument: int, start: int) -> tuple[Item, int]:
        """A value, containers still empty, and where the next one starts."""
        match major:
            case 0:
                return argument, start
            case 1 if argument < _NEGATIVE_END:
                return -1 - argument, start
            case 2 | 3:
                end = start + argument
                if end > len(self._data):
                    raise NotStrictError("cut short")
                raw = self._data[start:end]
                return (raw if major == _BYTES else _text(raw)), end
            case 4 | 5:
                self._items += argument
                if self._items > ITEMS_MAX or len(self._stack) >= DEPTH_MAX:
                    raise NotStrictError("too many items, or too deep")
                return ([] if major == _ARRAY else {}), start
            case 7 if argument in _SIMPLE:
                return _SIMPLE[argument], start
            case _:
                raise NotStrictError(f"major type {major} with {argument}")


_BYTES: Final = 2
_ARRAY: Final = 4
_NEGATIVE_END: Final = 1 << 63
_SIMPLE: Final[dict[int, bool | None]] = {20: False, 21: True, 22: None}
_SMALLEST: Final = {24: 24, 25: 256, 26: 65_536, 27: 4_294_967_296}
"""The least argument that may take each width."""


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Major type, argument, and where the content starts."""
    if at >= len(data):
        raise NotStrictError("cut short")
    major, low = divmod(data[at], 32)
    if low < 24:  # noqa: PLR2004
        return major, low, at + 1
    if low not in _SMALLEST or major == 7:  # noqa: PLR2004
        raise NotStrictError("indefinite, reserved, or a float")
    end = at + 1 + (1 << (low - 24))
    argument = int.from_bytes(data[at + 1 : end], "big")
    if end > len(data) or argument < _SMALLEST[low]:
        raise NotStrictError("cut short, or not the shortest form")
    return major, argument, end


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise NotStrictError("not UTF-8") from None


def _take_key(top: _Open, value: Item, content: bytes) -> None:
    """Note a map's key. In shortest form, length and then content is the order of encodings."""
    if not isinstance(value, str):
        raise NotStrictError("a key is no text")
    encoded = len(content).to_bytes(4, "big") + content
    if encoded <= top.last:
        raise NotStrictError("keys repeated or out of order")
    top.key, top.last = value, encoded


def _put(top: _Open, value: Item) -> None:
    if isinstance(top.into, dict):
        assert top.key is not None
        top.into[top.key] = value
        top.key = None
    else:
        top.into.append(value)
    top.left -= 1
