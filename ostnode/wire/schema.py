"""Messages to strict CBOR and back, driven by the dataclasses' annotations.

A message is a map of field name to value. A field that is None is left out, and only so; every
other field is written, defaults too, so that changing a default never changes the meaning of
what was sent or stored before. Unknown fields are refused. `Bounds` hold in both directions.

Types understood: int, bool, str, bytes and its fixed-length subclasses, messages, and
`tuple[X, ...]`, `Annotated[X, Bounds(…)]` and `X | None` of them. A class is compiled once, and
written in the order of its encoded names without a map in between. It must be bounded so that
no message of it can have more than CBOR_ITEMS_MAX items: the codec is not asked then.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sized
from dataclasses import MISSING, fields
from typing import (
    Annotated,
    Any,
    Final,
    NamedTuple,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from ostnode.codec import (
    CBOR_ITEMS_MAX,
    INTEGER_MAX,
    INTEGER_MIN,
    Value,
    array_head,
    decode,
    encoded_bool,
    encoded_bytes,
    encoded_int,
    encoded_text,
    map_head,
    within_limit,
)
from ostnode.errors import InvalidArgumentError
from ostnode.ids import FixedBytes
from ostnode.wire.fields import Bounds, Message

M = TypeVar("M", bound=Message)
S = TypeVar("S", str, bytes)

_Write = Callable[[Any], bytes]
_Parse = Callable[[object], object]
_REQUIRED: Final = object()
_Row: TypeAlias = tuple[bytes, str, _Write | None]
"""An entry in its place: the encoded name, the name, and how it is written if not given."""
_NOTHING: Final[Mapping[str, bytes]] = {}
_ANY_INT: Final = Bounds(INTEGER_MIN, INTEGER_MAX)
_ANY_LENGTH: Final = Bounds(0, INTEGER_MAX)
_BESIDE_MAX: Final = 64
"""Items that may stand beside a message's own in one encoding."""


def encode_message(message: Message, beside: Mapping[str, bytes] = _NOTHING) -> bytes:
    """The message as strict CBOR; raises InvalidArgumentError naming the bad field.

    `beside` are entries that stand among the fields, each encoded already.
    """
    return within_limit(_plan(type(message)).write(message, beside))


def decode_message(cls: type[M], data: bytes | bytearray | memoryview) -> M:
    """The message in strict CBOR; raises InvalidArgumentError naming the bad field."""
    return from_map(cls, decode(data))


def to_map(message: Message) -> dict[str, Value]:
    """The message as a map of plain values; raises InvalidArgumentError naming the bad field."""
    value = decode(encode_message(message))
    assert isinstance(value, dict)
    return value


def from_map(cls: type[M], value: object) -> M:
    """The message in a decoded map; raises InvalidArgumentError naming the bad field."""
    message = _plan(cls).parse(value)
    assert isinstance(message, cls)
    return message


class _Steps(NamedTuple):
    """How a value is checked and written, parsed and checked, and the most items inside it."""

    write: _Write
    parse: _Parse
    items_max: int = 0


class _Field(NamedTuple):
    """`default` is what an absent field means; _REQUIRED refuses absence."""

    name: str
    default: object
    parse: _Parse


class _Plan:
    """A compiled class."""

    def __init__(self, cls: type[Message]) -> None:
        self.cls = cls
        self.items_max = 0
        self._fields: tuple[_Field, ...] = ()
        self._writers: dict[str, _Write] = {}
        self._nullable: set[str] = set()
        self._rows: dict[tuple[str, ...], tuple[_Row, ...]] = {}
        """By the names that stand beside the fields, of which there are a few sets."""
        hints = get_type_hints(cls, include_extras=True)
        for field in fields(cls):  # type: ignore[arg-type]  # raises TypeError for no dataclass
            hint, nullable = _without_none(hints[field.name])
            default: object = None if nullable else _REQUIRED
            if field.default is not MISSING:
                default = field.default
            if nullable and default is not None:
                raise TypeError(f"{cls.__name__}.{field.name}: absent must mean None")
            if nullable:
                self._nullable.add(field.name)
            write, parse, items_max = _steps(hint)
            self.items_max += 1 + items_max
            self._fields += (_Field(field.name, default, parse),)
            self._writers[field.name] = write
        if self.items_max > CBOR_ITEMS_MAX - _BESIDE_MAX:
            raise TypeError(f"a {cls.__name__} can have {self.items_max} items")

    def write(self, message: object, beside: Mapping[str, bytes] = _NOTHING) -> bytes:
        if not isinstance(message, self.cls):
            raise InvalidArgumentError(
                f"expected {self.cls.__name__}, got {type(message).__name__}"
            )
        names = tuple(beside)
        rows = self._rows.get(names)
        if rows is None:
            rows = self._rows[names] = self._ordered(names)
        parts = [b""]
        name = ""
        try:
            for key, name, write in rows:
                if write is None:
                    parts += key, beside[name]
                    continue
                value = getattr(message, name)
                if value is not None or name not in self._nullable:
                    parts += key, write(value)
        except InvalidArgumentError as error:
            raise _within(name, error) from None
        parts[0] = map_head(len(parts) // 2)
        return b"".join(parts)

    def _ordered(self, beside: tuple[str, ...]) -> tuple[_Row, ...]:
        rows = [(encoded_text(name), name, self._writers.get(name)) for name in self._writers]
        rows += [(encoded_text(name), name, None) for name in beside]
        if len({name for _, name, _ in rows}) != len(rows):
            raise TypeError(f"a {self.cls.__name__} has fields of its own among {beside}")
        return tuple(sorted(rows))

    def parse(self, value: object) -> object:
        if not isinstance(value, dict):
            raise InvalidArgumentError(
                f"a {self.cls.__name__} is a map, not {type(value).__name__}"
            )
        arguments = []
        present = 0
        name = ""
        try:
            for name, default, parse in self._fields:
                if name in value:
                    present += 1
                    arguments.append(parse(value[name]))
                else:
                    arguments.append(_absent(default))
        except InvalidArgumentError as error:
            raise _within(name, error) from None
        if present != len(value):
            unknown = sorted(str(name)[:64] for name in value if name not in self._writers)
            raise InvalidArgumentError(f"a {self.cls.__name__} has no field {unknown[0]!r}")
        return self.cls(*arguments)


def _absent(default: object) -> object:
    if default is _REQUIRED:
        raise InvalidArgumentError("missing")
    return default


_PLANS: Final[dict[type[Message], _Plan]] = {}


def _plan(cls: type[Message]) -> _Plan:
    plan = _PLANS.get(cls)
    if plan is None:
        plan = _PLANS[cls] = _Plan(cls)
    return plan


def _without_none(hint: object) -> tuple[object, bool]:
    if get_origin(hint) in {Union, types.UnionType}:
        (inner,) = [part for part in get_args(hint) if part is not types.NoneType]
        return inner, True
    return hint, False


# --- types --------------------------------------------------------------------------------------


def _steps(hint: object) -> _Steps:
    bounds: Bounds | None = None
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)
        if not isinstance(bounds, Bounds):
            raise TypeError(f"unknown annotation {bounds!r}")
    if get_origin(hint) is tuple:
        element, _ = get_args(hint)
        return _tuple_steps(_steps(element), bounds or _ANY_LENGTH)
    if hint is int:
        return _int_steps(bounds or _ANY_INT)
    if hint is str:
        return _sized_steps(str, encoded_text, bounds or _ANY_LENGTH)
    if hint is bytes:
        return _sized_steps(bytes, encoded_bytes, bounds or _ANY_LENGTH)
    if bounds is None and isinstance(hint, type):
        return _unbounded_steps(hint)
    raise TypeError(f"a message cannot hold {hint!r}")


def _unbounded_steps(hint: type[object]) -> _Steps:
    if hint is bool:
        return _Steps(_written_bool, _checked_bool)
    if issubclass(hint, FixedBytes):
        return _fixed_steps(hint)
    if issubclass(hint, Message):
        plan = _plan(hint)
        return _Steps(plan.write, plan.parse, plan.items_max)
    raise TypeError(f"a message cannot hold {hint!r}")


def _checked_bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _unexpected(bool, value)


def _written_bool(value: object) -> bytes:
    return encoded_bool(_checked_bool(value))


def _int_steps(bounds: Bounds) -> _Steps:
    low, high = bounds.low, bounds.high

    def check(value: object) -> int:
        # bool is a subclass of int and must not pass for one.
        if not isinstance(value, int) or value is True or value is False:
            raise _unexpected(int, value)
        if not low <= value <= high:
            raise _outside("value", value, bounds)
        return value

    def write(value: object) -> bytes:
        return encoded_int(check(value))

    return _Steps(write, check)


def _sized_steps(kind: type[S], encoded: Callable[[S], bytes], bounds: Bounds) -> _Steps:
    low, high = bounds.low, bounds.high

    def check(value: object) -> S:
        if not isinstance(value, kind):
            raise _unexpected(kind, value)
        if not low <= len(value) <= high:
            raise _outside("length", len(value), bounds)
        return value

    def write(value: object) -> bytes:
        return encoded(check(value))

    return _Steps(write, check)


def _fixed_steps(kind: type[FixedBytes]) -> _Steps:
    length, make = kind.length, bytes.__new__

    def write(value: object) -> bytes:
        if isinstance(value, kind):
            return encoded_bytes(value)
        raise _unexpected(kind, value)

    def parse(value: object) -> object:
        if not isinstance(value, bytes):
            raise _unexpected(bytes, value)
        # Checked here, and made as the class makes it: a record holds four of these.
        return make(kind, value) if len(value) == length else kind(value)

    return _Steps(write, parse)


def _tuple_steps(element: _Steps, bounds: Bounds) -> _Steps:
    write_one, parse_one, items_max = element

    def write(value: object) -> bytes:
        if not isinstance(value, tuple):
            raise _unexpected(tuple, value)
        parts = [array_head(_checked_length(value, bounds))]
        try:
            # One by one: how many there are says which one was wrong.
            parts.extend(write_one(item) for item in value)
        except InvalidArgumentError as error:
            raise _within(f"[{len(parts) - 1}]", error) from None
        return b"".join(parts)

    def parse(value: object) -> object:
        if not isinstance(value, list):
            raise InvalidArgumentError(f"expected a list, got {type(value).__name__}")
        # Lengths first: an over-long list is refused before its elements are looked at.
        _checked_length(value, bounds)
        items: list[object] = []
        try:
            items.extend(parse_one(item) for item in value)
        except InvalidArgumentError as error:
            raise _within(f"[{len(items)}]", error) from None
        return tuple(items)

    return _Steps(write, parse, bounds.high * (1 + items_max))


def _checked_length(value: Sized, bounds: Bounds) -> int:
    if not bounds.low <= len(value) <= bounds.high:
        raise _outside("length", len(value), bounds)
    return len(value)


def _outside(what: str, size: int, bounds: Bounds) -> InvalidArgumentError:
    return InvalidArgumentError(f"{what} {size} is not in {bounds.low}..{bounds.high}")


def _unexpected(kind: type[object], value: object) -> InvalidArgumentError:
    return InvalidArgumentError(f"expected {kind.__name__}, got {type(value).__name__}")


def _within(place: str, error: InvalidArgumentError) -> InvalidArgumentError:
    return InvalidArgumentError(f"{place}: {error.message}")
