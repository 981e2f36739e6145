"""The shapes of messages, read off the annotations: to judge a message, and to make bad ones.

A second reading of the same annotations as `ostnode.wire.schema`, which it does not use.
"""

from __future__ import annotations

import types
from collections.abc import Sized
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Final, Union, get_args, get_origin, get_type_hints

from ostnode.wire.fields import Bounds, Message


@dataclass(frozen=True, slots=True)
class Shape:
    """One field's: `kind` is int, bool, text, bytes, list or map.

    `low` and `high` bound an int's value or anything else's length; -1 where nothing does.
    """

    kind: str
    low: int = -1
    high: int = -1
    optional: bool = False
    inner: Shape | None = None
    message: type[Message] | None = None


_SHAPES: Final[dict[type[Message], dict[str, Shape]]] = {}


def shape_of(message: type[Message]) -> dict[str, Shape]:
    """Every field's shape, by name."""
    known = _SHAPES.get(message)
    if known is not None:
        return known
    hints = get_type_hints(message, include_extras=True)
    shapes = {}
    for field in fields(message):  # type: ignore[arg-type]  # every message is a dataclass
        shape = _shape(hints[field.name])
        optional = shape.optional or field.default is not MISSING
        shapes[field.name] = _with(shape, optional=optional)
    _SHAPES[message] = shapes
    return shapes


def fits(message: type[Message], value: object) -> bool:
    """Whether a decoded map is such a message."""
    shapes = shape_of(message)
    if not isinstance(value, dict) or not value.keys() <= shapes.keys():
        return False
    return all(
        _fits(shape, value[name]) if name in value else shape.optional
        for name, shape in shapes.items()
    )


def _fits(shape: Shape, value: object) -> bool:
    if shape.message is not None:
        return fits(shape.message, value)
    if shape.kind == "bool":
        return isinstance(value, bool)
    if shape.kind == "int":
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return shape.low <= value <= shape.high if shape.high >= 0 else True
    if not isinstance(value, _SIZED[shape.kind]):
        return False
    assert isinstance(value, Sized)
    if shape.high >= 0 and not shape.low <= len(value) <= shape.high:
        return False
    inner = shape.inner
    if inner is None:
        return True
    assert isinstance(value, list)
    return all(_fits(inner, item) for item in value)


_SIZED: Final[dict[str, type]] = {"text": str, "bytes": bytes, "list": list}


def _with(shape: Shape, *, optional: bool) -> Shape:
    return Shape(shape.kind, shape.low, shape.high, optional, shape.inner, shape.message)


def _shape(hint: object) -> Shape:
    origin, args = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        (inner,) = [arg for arg in args if arg is not types.NoneType]
        return _with(_shape(inner), optional=True)
    if origin is Annotated:
        shape, bounds = _shape(args[0]), args[1]
        assert isinstance(bounds, Bounds)
        return Shape(shape.kind, bounds.low, bounds.high, inner=shape.inner, message=shape.message)
    if origin is tuple:
        return Shape("list", inner=_shape(args[0]))
    assert isinstance(hint, type)
    if issubclass(hint, Message):
        return Shape("map", message=hint)
    if issubclass(hint, bytes):
        length: int = getattr(hint, "length", -1)
        return Shape("bytes", length, length)
    return Shape({bool: "bool", int: "int", str: "text"}[hint])
