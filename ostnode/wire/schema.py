"""Messages to CBOR maps and back, driven by the dataclasses' annotations.

A message is a map of field name to value. A field that is None is left out, and only so; every
other field is written, defaults too, so that changing a default never changes the meaning of
what was sent or stored before. Unknown fields are refused. `Bounds` hold in both directions.

Types understood: int, bool, str, bytes and its fixed-length subclasses, messages, and
`tuple[X, ...]`, `Annotated[X, Bounds(…)]` and `X | None` of them. A class is compiled once.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from ostnode.codec import decode, encode
from ostnode.errors import InvalidArgumentError
from ostnode.wire.fields import Bounds, Message

M = TypeVar("M", bound=Message)

_Step = Callable[[object], object]
_REQUIRED: Final = object()


def to_map(message: Message) -> dict[str, object]:
    """The message as a map of plain values; raises InvalidArgumentError naming the bad field."""
    return _plan(type(message)).build(message)


def from_map(cls: type[M], value: object) -> M:
    """The message in a decoded map; raises InvalidArgumentError naming the bad field."""
    message = _plan(cls).parse(value)
    assert isinstance(message, cls)
    return message


def encode_message(message: Message) -> bytes:
    """The message as strict CBOR."""
    return encode(to_map(message))


def decode_message(cls: type[M], data: bytes | bytearray | memoryview) -> M:
    """The message in strict CBOR; raises InvalidArgumentError."""
    return from_map(cls, decode(data))


@dataclass(frozen=True, slots=True)
class _Field:
    """`default` is what an absent field means; _REQUIRED refuses absence."""

    name: str
    default: object
    build: _Step
    parse: _Step


@dataclass(frozen=True, slots=True)
class _Plan:
    """A compiled class."""

    cls: type[Message]
    fields: tuple[_Field, ...]
    names: frozenset[str]

    @property
    def label(self) -> str:
        return self.cls.__name__

    def build(self, message: object) -> dict[str, object]:
        if not isinstance(message, self.cls):
            raise InvalidArgumentError(f"expected {self.label}, got {type(message).__name__}")
        result: dict[str, object] = {}
        for field in self.fields:
            value = getattr(message, field.name)
            if value is None and field.default is None:
                continue
            try:
                result[field.name] = field.build(value)
            except InvalidArgumentError as error:
                raise _within(field.name, error) from None
        return result

    def parse(self, value: object) -> object:
        if not isinstance(value, Mapping):
            raise InvalidArgumentError(f"a {self.label} is a map, not {type(value).__name__}")
        arguments = {}
        present = 0
        for field in self.fields:
            if field.name in value:
                present += 1
                try:
                    arguments[field.name] = field.parse(value[field.name])
                except InvalidArgumentError as error:
                    raise _within(field.name, error) from None
            elif field.default is _REQUIRED:
                raise InvalidArgumentError(f"{field.name}: missing")
            else:
                arguments[field.name] = field.default
        if present != len(value):
            unknown = sorted(str(name)[:64] for name in value if name not in self.names)
            raise InvalidArgumentError(f"a {self.label} has no field {unknown[0]!r}")
        return self.cls(**arguments)


def _within(place: str, error: InvalidArgumentError) -> InvalidArgumentError:
    return InvalidArgumentError(f"{place}: {error.message}")


_PLANS: Final[dict[type[Message], _Plan]] = {}


def _plan(cls: type[Message]) -> _Plan:
    plan = _PLANS.get(cls)
    if plan is None:
        plan = _PLANS[cls] = _compile(cls)
    return plan


def _compile(cls: type[Message]) -> _Plan:
    hints = get_type_hints(cls, include_extras=True)
    compiled = []
    for field in fields(cls):  # type: ignore[arg-type]  # raises TypeError for no dataclass
        hint, nullable = _without_none(hints[field.name])
        build, parse = _steps(hint)
        default: object = None if nullable else _REQUIRED
        if field.default is not MISSING:
            default = field.default
        if nullable and default is not None:
            raise TypeError(f"{cls.__name__}.{field.name}: absent must mean None")
        compiled.append(_Field(field.name, default, build, parse))
    names = frozenset(field.name for field in compiled)
    return _Plan(cls, tuple(compiled), names)


def _without_none(hint: object) -> tuple[object, bool]:
    if get_origin(hint) in {Union, types.UnionType}:
        (inner,) = [part for part in get_args(hint) if part is not types.NoneType]
        return inner, True
    return hint, False


def _steps(hint: object) -> tuple[_Step, _Step]:
    """How a value of this type is built for the codec, and parsed from what it decoded."""
    if get_origin(hint) is Annotated:
        inner, bounds = get_args(hint)
        return _bounded(*_steps(inner), bounds)
    if get_origin(hint) is tuple:
        element, _ = get_args(hint)
        return _tuple_steps(*_steps(element))
    if not isinstance(hint, type):
        raise TypeError(f"a message cannot hold {hint!r}")
    if issubclass(hint, Message):
        plan = _plan(hint)
        return plan.build, plan.parse
    if issubclass(hint, bytes) and hint is not bytes:
        return _exact(hint), _fixed(hint)
    if hint in {int, bool, str, bytes}:
        return _exact(hint), _exact(hint)
    raise TypeError(f"a message cannot hold {hint!r}")


def _exact(kind: type[object]) -> _Step:
    label = kind.__name__

    def check(value: object) -> object:
        # bool is a subclass of int and must not pass for one.
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        raise InvalidArgumentError(f"expected {label}, got {type(value).__name__}")

    return check


def _fixed(kind: type[bytes]) -> _Step:
    def parse(value: object) -> object:
        if isinstance(value, bytes):
            return kind(value)
        raise InvalidArgumentError(f"expected bytes, got {type(value).__name__}")

    return parse


def _tuple_steps(build_one: _Step, parse_one: _Step) -> tuple[_Step, _Step]:
    def each(values: Iterable[object], step: _Step) -> list[object]:
        result = []
        for index, item in enumerate(values):
            try:
                result.append(step(item))
            except InvalidArgumentError as error:
                raise _within(f"[{index}]", error) from None
        return result

    def build(value: object) -> object:
        if isinstance(value, tuple):
            return each(value, build_one)
        raise InvalidArgumentError(f"expected tuple, got {type(value).__name__}")

    def parse(value: object) -> object:
        if isinstance(value, list):
            return tuple(each(value, parse_one))
        raise InvalidArgumentError(f"expected a list, got {type(value).__name__}")

    return build, parse


def _bounded(build: _Step, parse: _Step, bounds: object) -> tuple[_Step, _Step]:
    if not isinstance(bounds, Bounds):
        raise TypeError(f"unknown annotation {bounds!r}")
    low, high = bounds.low, bounds.high

    def check(value: object) -> None:
        if isinstance(value, int):
            what, size = "value", value
        else:
            assert isinstance(value, Sized)
            what, size = "length", len(value)
        if not low <= size <= high:
            raise InvalidArgumentError(f"{what} {size} is not in {low}..{high}")

    def build_checked(value: object) -> object:
        built = build(value)
        check(built)
        return built

    def parse_checked(value: object) -> object:
        # Lengths first: an over-long list is refused before its elements are looked at.
        if isinstance(value, list):
            check(value)
            return parse(value)
        parsed = parse(value)
        check(parsed)
        return parsed

    return build_checked, parse_checked
