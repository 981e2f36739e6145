"""Messages made from their annotations: fixed samples, values at every bound, and strategies."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Annotated, Union, get_args, get_origin, get_type_hints
from zlib import crc32

from hypothesis import strategies as st

from ostnode.wire import events
from ostnode.wire.calls import CALLS
from ostnode.wire.fields import Bounds, Message
from ostnode.wire.roster import Roster
from ostnode.wire.rotation import KeyChange
from ostnode.wire.schema import to_map

EVENTS: tuple[type[Message], ...] = get_args(events.OutboxEvent) + get_args(events.FeedEvent)
SIGNED: tuple[type[Message], ...] = (Roster, KeyChange)
"""The payloads of statements about the cluster."""
TEXT = "wählen Sie 水 "


def hints_of(cls: type[Message]) -> dict[str, tuple[Field[object], object, bool]]:
    """Each field with its type, without `| None`, and whether it has that."""
    assert is_dataclass(cls)
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: (field, *without_none(hints[field.name])) for field in fields(cls)}


def without_none(hint: object) -> tuple[object, bool]:
    """The type beside None, and whether None was there."""
    if get_origin(hint) in {Union, types.UnionType}:
        (inner,) = [part for part in get_args(hint) if part is not types.NoneType]
        return inner, True
    return hint, False


def unbounded(hint: object) -> tuple[object, Bounds | None]:
    """The type inside Annotated, and its bounds."""
    if get_origin(hint) is Annotated:
        inner, bounds = get_args(hint)
        return inner, bounds
    return hint, None


def message_classes() -> tuple[type[Message], ...]:
    """Every class that crosses the wire in calls, events and statements, and their parts."""
    found: dict[type[Message], None] = {}

    def add(hint: object) -> None:
        inner, _ = unbounded(without_none(hint)[0])
        if get_origin(inner) is tuple:
            add(get_args(inner)[0])
        elif isinstance(inner, type) and issubclass(inner, Message) and inner not in found:
            found[inner] = None
            for _, part, _ in hints_of(inner).values():
                add(part)

    for spec in CALLS:
        add(spec.request)
        add(spec.result)
    for other in EVENTS + SIGNED:
        add(other)
    return tuple(found)


def full(cls: type[Message]) -> Message:
    """Every field there, lists with two items, values that depend on the fields' names."""
    return cls(**{name: _full(name, hint) for name, (_, hint, _) in hints_of(cls).items()})


def _full(name: str, hint: object) -> object:
    inner, bounds = unbounded(hint)
    low, high = (0, 1 << 20) if bounds is None else (bounds.low, bounds.high)
    seed = crc32(name.encode())
    if get_origin(inner) is tuple:
        item = get_args(inner)[0]
        return tuple(_full(name + "'" * n, item) for n in range(max(low, min(2, high))))
    assert isinstance(inner, type)
    if issubclass(inner, Message):
        return full(inner)
    if inner is bool:
        return True
    if inner is int:
        return low + seed % (high - low + 1)
    if inner is str:
        return (TEXT + name)[: max(low, min(high, 24))]
    if inner is bytes:
        length = max(low, min(high, 24))
        return (seed.to_bytes(4, "big") * (length // 4 + 1))[:length]
    return inner((seed.to_bytes(4, "big") * 8)[: inner.length])


def least(cls: type[Message]) -> Message:
    """Every number, length and count as low as it may be, nothing there that need not be."""
    return cls(**{
        name: field.default if field.default is not MISSING else _least(hint, nullable)
        for name, (field, hint, nullable) in hints_of(cls).items()
    })


def _least(hint: object, nullable: bool) -> object:
    return None if nullable else _at(hint, high=False)


def _at(hint: object, *, high: bool) -> object:
    """The value of a type at one end of its bounds."""
    inner, bounds = unbounded(hint)
    if get_origin(inner) is tuple:
        assert bounds is not None
        item = _least(*without_none(get_args(inner)[0]))
        return (item,) * (bounds.high if high else bounds.low)
    assert isinstance(inner, type)
    if issubclass(inner, Message):
        return least(inner)
    if inner is bool:
        return high
    if bounds is None:
        return inner((b"\xff" if high else b"\x00") * inner.length)
    number = bounds.high if high else bounds.low
    if inner is int:
        return number
    return "水" * number if inner is str else b"\xff" * number


def at_bounds(cls: type[Message]) -> Iterator[Message]:
    """`least`, with each field in turn at either end of what it may be."""
    base = least(cls)
    for name, (_, hint, _) in hints_of(cls).items():
        for high in (False, True):
            yield replace(base, **{name: _at(hint, high=high)})


def messages(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Any message of the class; lists are short, so that it fits a frame."""
    return st.builds(
        cls,
        **{
            name: st.none() | _values(hint) if nullable else _values(hint)
            for name, (_, hint, nullable) in hints_of(cls).items()
        },
    )


def _values(hint: object) -> st.SearchStrategy[object]:
    inner, bounds = unbounded(hint)
    if get_origin(inner) is tuple:
        assert bounds is not None
        items = _values(get_args(inner)[0])
        most = min(bounds.high, bounds.low + 3)
        return st.lists(items, min_size=bounds.low, max_size=most).map(tuple)
    assert isinstance(inner, type)
    if issubclass(inner, Message):
        return messages(inner)
    if inner is bool:
        return st.booleans()
    if bounds is None:
        return st.binary(min_size=inner.length, max_size=inner.length).map(inner)
    if inner is int:
        return st.integers(bounds.low, bounds.high)
    most = min(bounds.high, bounds.low + 80)
    if inner is str:
        letters = st.characters(exclude_categories=["Cs"])
        return st.text(letters, min_size=bounds.low, max_size=most)
    return st.binary(min_size=bounds.low, max_size=most)


def told(value: object) -> object:
    """A message, or part of one, as JSON: bytes in hex, classes by name."""
    if isinstance(value, Message):
        assert is_dataclass(value)
        inner = {field.name: told(getattr(value, field.name)) for field in fields(value)}
        return {type(value).__name__: inner}
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, tuple | list):
        return [told(item) for item in value]
    assert value is None or isinstance(value, bool | int | str)
    return value


def outside_bounds(cls: type[Message]) -> Iterator[tuple[str, dict[str, object]]]:
    """Maps that are a message but for one field: what is wrong, and the map."""
    base = to_map(least(cls))
    yield "a field that there is not", {**base, "no_such_field": 0}
    for name, (field, hint, nullable) in hints_of(cls).items():
        if field.default is MISSING and not nullable:
            yield f"{name} is missing", {key: value for key, value in base.items() if key != name}
        for what, value in _outside(hint):
            yield f"{name} is {what}", {**base, name: value}


def _outside(hint: object) -> Iterator[tuple[str, object]]:
    yield "null", None
    inner, bounds = unbounded(hint)
    if get_origin(inner) is tuple:
        assert bounds is not None
        item = _plain(_at(get_args(inner)[0], high=False))
        yield from _around(bounds, lambda number: [item] * number)
        yield "a map", {}
        return
    assert isinstance(inner, type)
    if issubclass(inner, Message):
        yield "a list", []
        yield "a message with more", {**to_map(least(inner)), "no_such_field": 0}
        return
    if inner is not bool and issubclass(inner, bytes) and bounds is None:
        bounds = Bounds(inner.length, inner.length)
    yield from {bool: _not_bool, int: _not_int, str: _not_text}.get(inner, _not_bytes)(bounds)


def _plain(value: object) -> object:
    return to_map(value) if isinstance(value, Message) else value


def _around(bounds: Bounds, make: Callable[[int], object]) -> Iterator[tuple[str, object]]:
    if bounds.low > 0:
        yield f"under {bounds.low}", make(bounds.low - 1)
    yield f"over {bounds.high}", make(bounds.high + 1)


def _not_bool(_: Bounds | None) -> Iterator[tuple[str, object]]:
    yield "a number", 1


def _not_int(bounds: Bounds | None) -> Iterator[tuple[str, object]]:
    assert bounds is not None
    yield "under", bounds.low - 1
    yield "over", bounds.high + 1
    yield "true", True
    yield "text", "1"


def _not_text(bounds: Bounds | None) -> Iterator[tuple[str, object]]:
    assert bounds is not None
    yield from _around(bounds, lambda number: "水" * number)
    yield "bytes", b"x" * max(1, bounds.low)


def _not_bytes(bounds: Bounds | None) -> Iterator[tuple[str, object]]:
    assert bounds is not None
    yield from _around(bounds, lambda number: b"x" * number)
    yield "text", "x" * bounds.low
