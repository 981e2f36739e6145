"""Messages made from the schema's annotations: good ones, and ones with one thing wrong."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Final

from ostnode.fuzz.making.material import INTERESTING, Material
from ostnode.fuzz.shapes import Shape, shape_of
from ostnode.wire import messages as m
from ostnode.wire.calls import CALLS, CallSpec
from ostnode.wire.fields import Message

LIST_MAX: Final = 3
TEXT_MAX: Final = 40_000
_WRONG: Final[tuple[object, ...]] = (
    None,
    True,
    0,
    -1,
    -(1 << 63),
    (1 << 64) - 1,
    "",
    "x",
    b"",
    b"\xff" * 33,
    [],
    {},
    [[]],
    {"": 0},
)
"""Of every type, for fields of another."""
_OPS: Final = ("register", "update", "delete", "drop")


def any_call(rng: Random) -> CallSpec:
    """Uploads and references more often than the rest: most decisions are there."""
    favoured = [call for call in CALLS if call.request in {m.PushChunk, m.AddReference, m.Allocate}]
    return rng.choice([*CALLS, *favoured, *favoured])


def good_message(rng: Random, message: type[Message], material: Material) -> dict[str, object]:
    """A message that fits its shape, about things that are there as often as not."""
    result = {}
    for name, shape in shape_of(message).items():
        if shape.optional and rng.random() < 0.5:  # noqa: PLR2004
            continue
        result[name] = _value(rng, name, shape, material)
    return result


def bad_message(rng: Random, message: type[Message], material: Material) -> dict[str, object]:
    """A message with one thing wrong: a bound overstepped, a type, a field too many or few."""
    result = good_message(rng, message, material)
    shapes = shape_of(message)
    if not shapes or rng.random() < 0.1:  # noqa: PLR2004
        result[rng.choice(("zz", "t", "id", "x" * 70))] = rng.choice(_WRONG)
        return result
    name = rng.choice(sorted(shapes))
    shape = shapes[name]
    what = rng.random()
    if what < 0.1:  # noqa: PLR2004
        result.pop(name, None)
    elif what < 0.3:  # noqa: PLR2004
        result[name] = rng.choice(_WRONG)
    else:
        result[name] = _overstepped(rng, name, shape, material)
    return result


def overstepping(rng: Random, call: CallSpec, material: Material) -> dict[str, object]:
    """A message whose one fault is a bound that is overstepped by one, where it has any."""
    result = good_message(rng, call.request, material)
    paths = list(_bounded(call.request))
    if paths:
        _overstep(rng, result, call.request, rng.choice(paths), material)
    return result


def _bounded(message: type[Message]) -> Iterator[tuple[str, ...]]:
    """The paths of all fields with bounds; through lists as well."""
    for name, shape in shape_of(message).items():
        if shape.high >= 0:
            yield (name,)
        inner = shape.message or (shape.inner.message if shape.inner is not None else None)
        if inner is not None:
            yield from ((name, *rest) for rest in _bounded(inner))


def _overstep(
    rng: Random,
    value: dict[str, object],
    message: type[Message],
    path: tuple[str, ...],
    material: Material,
) -> None:
    name, *rest = path
    shape = shape_of(message)[name]
    if not rest:
        value[name] = _beyond(rng, name, shape, material)
        return
    inner = shape.message or (shape.inner.message if shape.inner is not None else None)
    assert inner is not None
    child = good_message(rng, inner, material)
    _overstep(rng, child, inner, tuple(rest), material)
    value[name] = child if shape.message is not None else [child]


def _beyond(rng: Random, name: str, shape: Shape, material: Material) -> object:
    """One more, or one less, than the bounds allow."""
    size = rng.choice([each for each in (shape.low - 1, shape.high + 1) if each >= 0])
    match shape.kind:
        case "int":
            return size
        case "text":
            return "x" * min(size, TEXT_MAX)
        case "list":
            assert shape.inner is not None
            return [_value(rng, name, shape.inner, material)] * size
        case _:
            return bytes(min(size, TEXT_MAX))


def _value(rng: Random, name: str, shape: Shape, material: Material) -> object:
    if shape.message is not None:
        return good_message(rng, shape.message, material)
    match shape.kind:
        case "bool":
            return rng.random() < 0.5  # noqa: PLR2004
        case "int":
            return _number(rng, name, shape)
        case "text":
            return _text(rng, name, shape)
        case "bytes":
            return _bytes(rng, name, shape, material)
        case _:
            assert shape.inner is not None
            count = rng.randint(max(0, shape.low), LIST_MAX)
            return [_value(rng, name, shape.inner, material) for _ in range(count)]


def _number(rng: Random, name: str, shape: Shape) -> int:
    if name == "wait_ms" and rng.random() < 0.5:  # noqa: PLR2004
        return 0
    inside = [number for number in INTERESTING if shape.low <= number <= shape.high]
    return rng.choice([*inside, shape.low, shape.high])


def _text(rng: Random, name: str, shape: Shape) -> str:
    if name == "op":
        return rng.choice(_OPS)
    choices = ["", "refuse", "text/plain", "http://x.test", "a\x00b", "\u202e", "é" * 8]
    choices.append("x" * min(max(shape.high, 0), 600))
    fitting = [text for text in choices if shape.low <= len(text) <= shape.high]
    return rng.choice(fitting or ["x" * shape.low])


def _bytes(rng: Random, name: str, shape: Shape, material: Material) -> bytes:
    if shape.low == shape.high == 32:  # noqa: PLR2004
        blob = "blob" in name
        return bytes(rng.choice(material.blobs)) if blob else material.principal(rng)
    if shape.low == shape.high == 8:  # noqa: PLR2004
        return rng.choice([*map(bytes, material.uids.values()), rng.randbytes(8)])
    if name == "grant":
        return bytes(rng.choice(material.grants))
    if name == "token":
        return rng.choice([b"", *map(bytes, material.tokens)]) or b"\x00" * max(shape.low, 0)
    if name == "ref_id":
        return rng.choice([b"", b"\x01", b"\x02" * 16])
    length = rng.choice([max(shape.low, 0), min(max(shape.high, 0), 64)])
    return rng.randbytes(length)


def _overstepped(rng: Random, name: str, shape: Shape, material: Material) -> object:
    """A value of the right type, just outside its bounds where there are any."""
    if shape.message is not None:
        return bad_message(rng, shape.message, material)
    low, high = shape.low, shape.high
    match shape.kind:
        case "int":
            outside = [number for number in (low - 1, high + 1) if -(1 << 63) <= number < 1 << 64]
            return rng.choice([*outside, (1 << 64) - 1, -1])
        case "text" if high >= 0:
            return rng.choice(["x" * (high + 1), "é" * (high + 1), "x" * max(0, low - 1)])
        case "bytes" if high >= 0:
            return bytes(rng.choice([high + 1, max(0, low - 1)]))
        case "list" if shape.inner is not None:
            if rng.random() < 0.5 or high > 600:  # noqa: PLR2004
                return [_overstepped(rng, name, shape.inner, material)]
            return [_value(rng, name, shape.inner, material) for _ in range(high + 1)]
        case _:
            return rng.choice(_WRONG)
