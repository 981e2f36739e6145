"""What `ostwire.cddl` has to say, derived from the code, and what it does say, brought together.

Both are reduced to shapes: tuples that leave out what has no meaning, such as the names of
number types. A message is a map of field name to `(optional, default, shape)`.
"""

from __future__ import annotations

import re
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Final, TypeAlias, get_args, get_origin

from ostnode.codec import INTEGER_MAX
from ostnode.ids import BlobId, ClusterId, GrantId, Principal, Uid
from ostnode.wire import session as s
from ostnode.wire.calls import CallSpec
from ostnode.wire.fields import Message
from ostnode.wire.session import FrameKind
from tests.support.cddl import (
    Array,
    Control,
    Entry,
    Group,
    Literal,
    Map,
    Name,
    Range,
    Type,
    parse,
)
from tests.support.wire_samples import EVENTS, hints_of, message_classes, unbounded

CDDL_PATH: Final = Path(__file__).parents[2] / "ostnode" / "wire" / "ostwire.cddl"
IDS: Final = (BlobId, ClusterId, GrantId, Principal, Uid)
HEADS: Final = {
    FrameKind.HELLO: s.Hello,
    FrameKind.AUTH: s.Proof,
    FrameKind.WELCOME: s.Proof,
    FrameKind.REQUEST: s.RequestHead,
    FrameKind.REPLY: s.ReplyHead,
    FrameKind.REFUSAL: s.RefusalHead,
    FrameKind.CANCEL: s.Cancel,
    FrameKind.PING: s.Ping,
    FrameKind.PONG: s.Pong,
    FrameKind.GOAWAY: s.Goaway,
}
"""The class of each frame's fields; REQUEST, REPLY and REFUSAL carry more beside them."""

Shape: TypeAlias = tuple[Any, ...]
Fields: TypeAlias = dict[str, tuple[bool, object, Shape]]
NOTHING: Final = "nothing"
"""What an absent optional field means without `.default`."""


def load() -> dict[str, Type | Group]:
    """The rules of the file."""
    return parse(CDDL_PATH.read_text())


def rule_name(cls: type) -> str:
    """`BlobInfo` is `blob-info`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()


# --- what the code says -------------------------------------------------------------------------


def fields_of(cls: type[Message]) -> Fields:
    """The fields of a message class."""
    fields: Fields = {}
    for name, (field, hint, nullable) in hints_of(cls).items():
        default: object = NOTHING
        if field.default is not MISSING and field.default is not None:
            default = [] if field.default == () else field.default
        optional = nullable or field.default is not MISSING
        fields[name] = (optional, default, shape_of_hint(hint))
    return fields


def shape_of_hint(hint: object) -> Shape:
    """The shape of an annotation."""
    inner, bounds = unbounded(hint)
    if get_origin(inner) is tuple:
        assert bounds is not None, "a list without limits"
        return ("array", bounds.low, bounds.high, shape_of_hint(get_args(inner)[0]))
    assert isinstance(inner, type)
    if issubclass(inner, Message) or inner in IDS:
        return ("rule", rule_name(inner))
    if inner is bool:
        return ("bool",)
    assert bounds is not None, "a value without limits"
    return ({int: "int", bytes: "bytes", str: "text"}[inner], bounds.low, bounds.high)


def expected_maps() -> dict[str, tuple[str, Fields]]:
    """Every rule that is a map: where it comes from, and its fields."""
    expected: dict[str, tuple[str, Fields]] = {}
    for cls in message_classes():
        fields = fields_of(cls)
        if cls in EVENTS:
            kind = rule_name(cls).replace("-", "_")
            fields = {"kind": (False, NOTHING, ("literal", kind)), **fields}
        assert rule_name(cls) not in expected, f"two classes make the rule {rule_name(cls)}"
        expected[rule_name(cls)] = (f"{cls.__module__}.{cls.__name__}", fields)
    for kind, head in HEADS.items():
        fields = {"t": (False, NOTHING, ("literal", kind.value)), **fields_of(head)}
        expected[kind.name.lower()] = (f"{head.__module__}.{head.__name__}", fields)
    # It stands with the message: see `call_groups`.
    del expected["request"][1]["call"]
    return expected


# --- what the file says -------------------------------------------------------------------------


def fields_in(rules: dict[str, Type | Group], rule: str) -> tuple[Fields, list[str]]:
    """The fields of a map's rule, and the groups that it names."""
    body = rules[rule]
    assert isinstance(body, Map), f"{rule} is not a map"
    (entries,) = body.group.alternatives
    fields: Fields = {}
    groups = []
    for entry in entries:
        if entry.key is None:
            assert isinstance(entry.value, Name)
            groups.append(entry.value.name)
            continue
        assert isinstance(entry.key, Literal)
        name = str(entry.key.value)
        assert name not in fields, f"{rule} has {name} twice"
        fields[name] = _field_in(rules, entry)
    return fields, groups


def _field_in(rules: dict[str, Type | Group], entry: Entry) -> tuple[bool, object, Shape]:
    value, default = entry.value, NOTHING
    if isinstance(value, Control) and value.operator == "default":
        argument = value.argument
        default = argument.value if isinstance(argument, Literal) else []
        value = value.target
    return entry.least == 0, default, shape_in(rules, value)


def shape_in(rules: dict[str, Type | Group], node: Type) -> Shape:
    """The shape of a type; names of scalars are looked up, those of maps and ids stay."""
    match node:
        case Name(name):
            return _shape_of_name(rules, name)
        case Literal(value):
            return ("literal", value)
        case Range(low, high):
            return ("int", low, high)
        case Control(Name("bstr"), "size", Range(low, high)):
            return ("bytes", low, high)
        case Control(Name("bstr"), "size", Literal(size)):
            return ("bytes", size, size)
        case Control(Name("tstr"), "regexp", Literal(str(pattern))):
            return ("text", *_characters(pattern))
        case Array(Group(((Entry(least, most, None, item),),))):
            return ("array", least, most, shape_in(rules, item))
        case _:
            return ("other", repr(node))


def _shape_of_name(rules: dict[str, Type | Group], name: str) -> Shape:
    if name in {"bool", "uint"}:
        return ("bool",) if name == "bool" else ("int", 0, INTEGER_MAX)
    body = rules.get(name)
    if name in {rule_name(cls) for cls in IDS} or body is None or isinstance(body, Map | Group):
        return ("rule", name)
    return shape_in(rules, body)


def _characters(pattern: str) -> tuple[int, int]:
    found = re.fullmatch(r"\[\\s\\S\]\{(\d+),(\d+)\}", pattern)
    assert found is not None, f"{pattern!r} does not only bound the number of characters"
    return int(found[1]), int(found[2])


# --- the text to write --------------------------------------------------------------------------


def rendered(name: str, fields: Fields, groups: list[str], names: dict[Shape, str]) -> str:
    """The rule as the file should have it; `names` are those of scalars."""
    lines = [_line(field, *what, names) for field, what in fields.items()]
    lines += [f"  {group}" for group in groups]
    return f"{name} = {{\n" + ",\n".join(lines) + "\n}" if lines else f"{name} = {{}}"


def _line(field: str, optional: bool, default: object, shape: Shape, names: dict) -> str:
    mark = "? " if optional else ""
    tail = "" if default is NOTHING else f" .default {_value(default)}"
    return f"  {mark}{field}: {_type(shape, names)}{tail}"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return f"h'{value.hex()}'"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _type(shape: Shape, names: dict[Shape, str]) -> str:
    if shape in names:
        return names[shape]
    match shape:
        case ("rule", name):
            return str(name)
        case ("literal", value):
            return _value(value)
        case ("bool",):
            return "bool"
        case ("int", low, high):
            return f"{low}..{high}"
        case ("bytes", low, high):
            return f"bstr .size {low}" if low == high else f"bstr .size ({low}..{high})"
        case ("text", low, high):
            return f'tstr .regexp "[\\\\s\\\\S]{{{low},{high}}}"'
        case ("array", low, high, item):
            return f"[{low}*{high} {_type(item, names)}]"
        case _:
            return f"; {shape}"


def scalar_names(rules: dict[str, Type | Group]) -> dict[Shape, str]:
    """The first rule for each scalar shape, to render with."""
    names: dict[Shape, str] = {}
    for name, body in rules.items():
        if not isinstance(body, Map | Group | Name):
            shape = shape_in(rules, body)
            if shape[0] in {"int", "bytes", "text", "array"}:
                names.setdefault(shape, name)
    return names


def call_groups(spec: CallSpec) -> dict[str, str]:
    """The two group rules of a call."""
    return {
        f"{spec.name}.request": f"( call: {spec.number}, m: {rule_name(spec.request)} )",
        f"{spec.name}.result": f"( m: {rule_name(spec.result)} )",
    }
