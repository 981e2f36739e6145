"""The subset of CDDL (RFC 8610) that `ostwire.cddl` is written in: a parser and a validator.

Understood: rules of types and of groups, maps, arrays, choices of types and of groups, literals,
integer ranges, occurrences, keys as barewords or types, and the controls `.size`, `.regexp`,
`.cbor` and `.default`. Anything else is a CddlError, so that the file cannot say what is not
checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, TypeAlias

from ostnode.codec import INTEGER_MAX, INTEGER_MIN, decode
from ostnode.errors import InvalidArgumentError


class CddlError(Exception):
    """The text is not in the subset understood here."""


class MismatchError(Exception):
    """A value does not match; says where, and how deep the match had come."""

    def __init__(self, why: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(f"{'.'.join(path) or 'the value'}: {why}")
        self.why, self.path = why, path

    def within(self, name: str) -> MismatchError:
        return MismatchError(self.why, (name, *self.path))


@dataclass(frozen=True)
class Literal:
    value: int | str | bytes | bool | None


@dataclass(frozen=True)
class Name:
    name: str


@dataclass(frozen=True)
class Range:
    low: int
    high: int


@dataclass(frozen=True)
class Choice:
    options: tuple[Type, ...]


@dataclass(frozen=True)
class Control:
    target: Type
    operator: str
    argument: Type


@dataclass(frozen=True)
class Entry:
    """One line of a group; `most` is None where there is no limit."""

    least: int
    most: int | None
    key: Type | None
    value: Type


@dataclass(frozen=True)
class Group:
    """Alternatives, each of them entries in order."""

    alternatives: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True)
class Map:
    group: Group


@dataclass(frozen=True)
class Array:
    group: Group


Type: TypeAlias = Literal | Name | Range | Choice | Control | Map | Array

CONTROLS: Final = frozenset({"size", "regexp", "cbor", "default"})
_CONSTANTS: Final = {"true": True, "false": False, "null": None, "nil": None}
_PRELUDE: Final = frozenset({"any", "bool", "bstr", "int", "tstr", "uint"})
_TOKEN: Final = re.compile(
    r"""(?P<space>(?:\s|;[^\n]*)+)
    |(?P<bytes>h'[0-9a-fA-F\s]*')
    |(?P<text>"(?:[^"\\]|\\.)*")
    |(?P<control>\.[a-z]+)
    |(?P<number>-?(?:0x[0-9a-fA-F]+|\d+))
    |(?P<name>[A-Za-z_@$](?:[-.]*[A-Za-z0-9_@$])*)
    |(?P<mark>//=|/=|//|=>|\.\.|[=/,:{}\[\]()?*+])""",
    re.VERBOSE,
)


def parse(text: str) -> dict[str, Type | Group]:
    """The rules by name; raises CddlError."""
    rules = _Parser(text).rules()
    for name in _names_in(tuple(rules.values())):
        if name not in rules and name not in _PRELUDE:
            raise CddlError(f"there is no rule {name}")
    return rules


def _names_in(node: object) -> Iterator[str]:
    match node:
        case Name(name):
            yield name
        case tuple():
            for part in node:
                yield from _names_in(part)
        case Literal() | Range() | str() | int() | None:
            return
        case _:
            yield from _names_in(tuple(vars(node).values()))


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise CddlError(f"line {text.count(chr(10), 0, at) + 1}: {text[at : at + 20]!r}")
            if found.lastgroup != "space":
                self._tokens.append((str(found.lastgroup), found.group()))
            at = found.end()
        self._at = 0

    def rules(self) -> dict[str, Type | Group]:
        rules: dict[str, Type | Group] = {}
        while self._at < len(self._tokens):
            name = self._take("name")
            self._take("mark", "=")
            if name in rules:
                raise CddlError(f"{name} is defined twice")
            rules[name] = self._parenthesised() if self._is("(") else self._type()
        return rules

    # --- tokens ---

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ("end", "the end")

    def _is(self, mark: str, ahead: int = 0) -> bool:
        return self._peek(ahead) == ("mark", mark)

    def _take(self, kind: str, text: str | None = None) -> str:
        found_kind, found = self._peek()
        if found_kind != kind or text not in {None, found}:
            raise CddlError(f"expected {text or kind}, found {found!r} (token {self._at})")
        self._at += 1
        return found

    def _takes(self, mark: str) -> bool:
        if self._is(mark):
            self._at += 1
            return True
        return False

    # --- types ---

    def _type(self) -> Type:
        options = [self._controlled()]
        while self._takes("/"):
            options.append(self._controlled())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _controlled(self) -> Type:
        target = self._simple()
        while self._peek()[0] == "control":
            operator = self._take("control")[1:]
            if operator not in CONTROLS:
                raise CddlError(f"the control .{operator} is not understood")
            target = Control(target, operator, self._argument())
        return target

    def _argument(self) -> Type:
        if not self._takes("("):
            return self._simple()
        inner = self._type()
        self._take("mark", ")")
        return inner

    def _simple(self) -> Type:
        kind, text = self._peek()
        self._at += 1
        if kind == "number":
            if self._takes(".."):
                return Range(int(text, 0), int(self._take("number"), 0))
            return Literal(int(text, 0))
        if kind == "text":
            return Literal(re.sub(r"\\(.)", r"\1", text[1:-1]))
        if kind == "bytes":
            return Literal(bytes.fromhex(text[2:-1]))
        if kind == "name":
            return Literal(_CONSTANTS[text]) if text in _CONSTANTS else Name(text)
        if (kind, text) in {("mark", "{"), ("mark", "[")}:
            group = self._group("}" if text == "{" else "]")
            return Map(group) if text == "{" else Array(group)
        raise CddlError(f"expected a type, found {text!r} (token {self._at - 1})")

    # --- groups ---

    def _parenthesised(self) -> Group:
        self._take("mark", "(")
        return self._group(")")

    def _group(self, end: str) -> Group:
        alternatives: list[list[Entry]] = [[]]
        while not self._takes(end):
            if self._takes("//"):
                alternatives.append([])
                continue
            alternatives[-1].append(self._entry())
            self._takes(",")
        return Group(tuple(map(tuple, alternatives)))

    def _entry(self) -> Entry:
        least, most = self._occurrence()
        kind, text = self._peek()
        if kind in {"name", "text"} and self._is(":", 1):
            self._at += 2
            name = text if kind == "name" else text[1:-1]
            return Entry(least, most, Literal(name), self._type())
        value = self._type()
        if self._takes("=>"):
            return Entry(least, most, value, self._type())
        return Entry(least, most, None, value)

    def _occurrence(self) -> tuple[int, int | None]:
        if self._takes("?"):
            return 0, 1
        if self._takes("+"):
            return 1, None
        if self._is("*") or (self._peek()[0] == "number" and self._is("*", 1)):
            least = 0 if self._is("*") else int(self._take("number"))
            self._take("mark", "*")
            most = int(self._take("number")) if self._peek()[0] == "number" else None
            return least, most
        return 1, 1


class Validator:
    """Matches decoded CBOR against rules."""

    def __init__(self, rules: dict[str, Type | Group]) -> None:
        self.rules = rules

    def check(self, rule: str, value: object) -> None:
        """Raise MismatchError unless the value matches the rule."""
        found = self.rules[rule]
        assert not isinstance(found, Group)
        self._match(found, value)

    def check_bytes(self, rule: str, data: bytes) -> None:
        """The same for strict CBOR."""
        try:
            value = decode(data)
        except InvalidArgumentError as error:
            raise MismatchError(error.message) from None
        self.check(rule, value)

    def _match(self, pattern: Type, value: Any) -> None:
        match pattern:
            case Literal(wanted):
                _must(type(value) is type(wanted) and value == wanted, f"is not {wanted!r}")
            case Range(low, high):
                _must(type(value) is int and low <= value <= high, f"is not in {low}..{high}")
            case Name(name):
                self._match_name(name, value)
            case Choice(options):
                self._first([lambda o=o: self._match(o, value) for o in options])
            case Control():
                self._match_control(pattern, value)
            case Map(group):
                _must(isinstance(value, dict), "is not a map")
                flats = list(self.flat(group))
                self._first([lambda f=f: self._match_map(f, value) for f in flats])
            case Array(group):
                _must(isinstance(value, list), "is not an array")
                flats = list(self.flat(group))
                self._first([lambda f=f: self._match_array(f, value) for f in flats])

    def _match_name(self, name: str, value: object) -> None:
        rule = self.rules.get(name)
        if rule is not None:
            assert not isinstance(rule, Group), f"{name} is a group"
            self._match(rule, value)
            return
        is_it = {
            "any": True,
            "bool": type(value) is bool,
            "bstr": isinstance(value, bytes),
            "tstr": isinstance(value, str),
            "int": type(value) is int and INTEGER_MIN <= value <= INTEGER_MAX,
            "uint": type(value) is int and 0 <= value <= INTEGER_MAX,
        }
        _must(is_it[name], f"is not {name}")

    def _match_control(self, control: Control, value: Any) -> None:
        self._match(control.target, value)
        argument = control.argument
        if control.operator == "size":
            size = len(value.encode() if isinstance(value, str) else value)
            exact = isinstance(argument, Literal)
            low, high = (argument.value,) * 2 if exact else (argument.low, argument.high)
            _must(low <= size <= high, f"{size} bytes are not in {low}..{high}")
        elif control.operator == "regexp":
            assert isinstance(argument, Literal)
            _must(re.fullmatch(str(argument.value), value) is not None, "does not fit its pattern")
        elif control.operator == "cbor":
            try:
                inner = decode(value)
            except InvalidArgumentError as error:
                raise MismatchError(error.message) from None
            self._match(argument, inner)

    def _first(self, attempts: list[Any]) -> None:
        """One of them must pass; else the mismatch that came deepest counts."""
        mismatches = []
        for attempt in attempts:
            try:
                attempt()
            except MismatchError as error:
                mismatches.append(error)
            else:
                return
        raise max(mismatches, key=lambda error: len(error.path))

    def flat(self, group: Group) -> Iterator[tuple[Entry, ...]]:
        """The alternatives of a group, those of the groups it names multiplied out."""
        for alternative in group.alternatives:
            parts: list[list[tuple[Entry, ...]]] = []
            for entry in alternative:
                inner = self.rules.get(entry.value.name) if isinstance(entry.value, Name) else None
                if isinstance(inner, Group):
                    assert (entry.least, entry.most, entry.key) == (1, 1, None)
                    parts.append(list(self.flat(inner)))
                else:
                    parts.append([(entry,)])
            for chosen in product(*parts):
                yield tuple(entry for part in chosen for entry in part)

    def _match_map(self, entries: tuple[Entry, ...], value: dict[Any, Any]) -> None:
        left = dict(value)
        for entry in entries:
            if isinstance(entry.key, Literal):
                key = str(entry.key.value)
                if key in left:
                    self._match_at(key, entry.value, left.pop(key))
                else:
                    _must(entry.least == 0, f"{key} is missing")
            else:
                self._match_keys(entry, left)
        _must(not left, f"has {min(left, default='')!r} beside what it may")

    def _match_keys(self, entry: Entry, left: dict[Any, Any]) -> None:
        assert entry.key is not None
        keys = list(left)
        for key in keys:
            self._match(entry.key, key)
            self._match_at(str(key), entry.value, left.pop(key))
        _must(entry.least <= len(keys) <= (entry.most or len(keys)), f"{len(keys)} entries")

    def _match_array(self, entries: tuple[Entry, ...], value: list[Any]) -> None:
        at = 0
        for entry in entries:
            most = len(value) - at if entry.most is None else entry.most
            last = entry is entries[-1]
            count = len(value) - at if last else min(entry.least, len(value) - at)
            _must(entry.least <= count <= most, f"{len(value)} items")
            for index in range(at, at + count):
                self._match_at(f"[{index}]", entry.value, value[index])
            at += count
        _must(at == len(value), f"{len(value)} items")

    def _match_at(self, name: str, pattern: Type, value: object) -> None:
        try:
            self._match(pattern, value)
        except MismatchError as error:
            raise error.within(name) from None


def _must(holds: bool, why: str) -> None:
    if not holds:
        raise MismatchError(why)
