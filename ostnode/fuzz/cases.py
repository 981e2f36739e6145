"""Fuzz cases: what one or more hostile peers do, as data that any run can play again.

A case is a list of steps. Only what depends on the node's own words is symbolic (`Greet`, `Prove`);
everything else is bytes. On disk it is one JSON object; bytes are hex.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, Final, TypeAlias

FORMAT: Final = 1
STEPS_MAX: Final = 256
LINKS_MAX: Final = 16
SEND_BYTES_MAX: Final = 16 << 20
"""Of one step, all its repeats together."""
PAUSE_S_MAX: Final = 120.0
NAME_CHARS_MAX: Final = 120


NO_BINDING: Final = "none"
"""Of a channel in plain text."""


class Layer(StrEnum):
    """What a case attacks."""

    BYTES = "bytes"
    CBOR = "cbor"
    SESSION = "session"
    SEMANTICS = "semantics"


class CaseError(ValueError):
    """A case file that cannot be played: what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to the index or to the bucket; `link` names the connection from here on."""

    do: ClassVar[str] = "dial"
    link: int
    to: str = "index"


@dataclass(frozen=True, slots=True)
class Greet:
    """Send a HELLO of the cast's member `who`; fields of `changes` stand instead of ours."""

    do: ClassVar[str] = "greet"
    link: int
    who: str
    changes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prove:
    """Wait for the node's HELLO, sign both and send AUTH.

    `over` signs the hellos of another link, `side` as somebody else, `binding` (hex, or NO_BINDING)
    for another channel: each a forgery.
    """

    do: ClassVar[str] = "prove"
    link: int
    who: str
    over: int = -1
    side: str = "dialler"
    binding: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """Send `data`, then `zeros` zero bytes, the whole `times` times; cut at `cuts`.

    After every cut comes a pause of `gap` seconds.
    """

    do: ClassVar[str] = "send"
    link: int
    data: bytes
    zeros: int = 0
    times: int = 1
    cuts: tuple[int, ...] = ()
    gap: float = 0.0

    @property
    def payload(self) -> bytes:
        """Everything that goes out."""
        return (self.data + bytes(self.zeros)) * self.times


@dataclass(frozen=True, slots=True)
class Pause:
    """Let time pass: virtual in-process, real against a live node."""

    do: ClassVar[str] = "pause"
    seconds: float


@dataclass(frozen=True, slots=True)
class Deaf:
    """Stop reading what the node says."""

    do: ClassVar[str] = "deaf"
    link: int


@dataclass(frozen=True, slots=True)
class Listen:
    """Read again."""

    do: ClassVar[str] = "listen"
    link: int


@dataclass(frozen=True, slots=True)
class Finish:
    """End our side of the stream; the node's may go on."""

    do: ClassVar[str] = "finish"
    link: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Cut the connection without a word."""

    do: ClassVar[str] = "reset"
    link: int


LinkStep: TypeAlias = Greet | Prove | Send | Deaf | Listen | Finish | Reset
"""A step on a link that is there."""
Step: TypeAlias = Dial | Pause | LinkStep
_STEPS: Final[Mapping[str, type[Step]]] = {
    cls.do: cls for cls in (Dial, Greet, Prove, Send, Pause, Deaf, Listen, Finish, Reset)
}


@dataclass(frozen=True, slots=True)
class Case:
    """A name for people, the layer it came from, and its steps."""

    name: str
    layer: Layer
    steps: tuple[Step, ...]

    @property
    def digest(self) -> str:
        """16 hex digits that stand for the steps."""
        encoded = json.dumps([_step_json(step) for step in self.steps], sort_keys=True)
        return hashlib.blake2b(encoded.encode(), digest_size=8).hexdigest()

    @property
    def sent_bytes(self) -> int:
        """How many bytes it would send."""
        sends = (step for step in self.steps if isinstance(step, Send))
        return sum((len(step.data) + step.zeros) * step.times for step in sends)


def dump_case(case: Case) -> str:
    """The case as JSON text."""
    steps = ",\n  ".join(json.dumps(_step_json(step)) for step in case.steps)
    name = json.dumps(case.name)
    return (
        f'{{"format": {FORMAT}, "layer": "{case.layer}", "name": {name},\n "steps": [\n  {steps}]}}'
        "\n"
    )


def load_case(text: str) -> Case:
    """The case in a JSON text; raises CaseError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CaseError(f"not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CaseError(f"not a fuzz case of format {FORMAT}")
    if data.get("layer") not in set(Layer):
        raise CaseError("layer: unknown")
    name, steps = data.get("name"), data.get("steps")
    if not isinstance(name, str) or len(name) > NAME_CHARS_MAX:
        raise CaseError(f"name: a text of at most {NAME_CHARS_MAX} characters")
    if not isinstance(steps, list) or len(steps) > STEPS_MAX:
        raise CaseError(f"steps: a list of at most {STEPS_MAX}")
    parsed = tuple(_step(number, step) for number, step in enumerate(steps))
    return Case(name, Layer(data["layer"]), parsed)


def _step_json(step: Step) -> dict[str, object]:
    """Its fields, but those that are as always."""
    result: dict[str, object] = {"do": step.do}
    values = asdict(step)
    for each in fields(step):
        value = values[each.name]
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if value != default:
            result[each.name] = value.hex() if isinstance(value, bytes) else value
    return result


def _step(number: int, data: object) -> Step:
    if not isinstance(data, dict):
        raise CaseError(f"steps[{number}]: not an object")
    values = dict(data)
    cls = _STEPS.get(str(values.pop("do", None)))
    if cls is None:
        raise CaseError(f"steps[{number}].do: unknown")
    names = {each.name for each in fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise CaseError(f"steps[{number}]: {cls.do} has no field {unknown[0]}")
    try:
        arguments: dict[str, Any] = {name: _READ[name](value) for name, value in values.items()}
        step = cls(**arguments)
    except (ValueError, TypeError) as error:
        raise CaseError(f"steps[{number}]: {error}") from None
    if isinstance(step, Send) and (len(step.data) + step.zeros) * step.times > SEND_BYTES_MAX:
        raise CaseError(f"steps[{number}]: more than {SEND_BYTES_MAX} bytes")
    return step


def _whole(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise ValueError(f"{value!r} is no number in {low}..{high}")

    return read


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and 0 <= value <= PAUSE_S_MAX:
        return float(value)
    raise ValueError(f"{value!r} is no number in 0..{PAUSE_S_MAX}")


def _text(value: object) -> str:
    if isinstance(value, str) and len(value) <= NAME_CHARS_MAX:
        return value
    raise ValueError(f"{value!r} is no short text")


def _binding(value: object) -> str:
    if isinstance(value, str) and (value == NO_BINDING or bytes.fromhex(value) or not value):
        return value
    raise ValueError(f"{value!r} is no binding")


def _hex(value: object) -> bytes:
    if isinstance(value, str):
        return bytes.fromhex(value)
    raise ValueError(f"{value!r} is no hex text")


def _changes(value: object) -> Mapping[str, int]:
    if isinstance(value, dict) and all(isinstance(item, int) for item in value.values()):
        return value
    raise ValueError("changes: an object of numbers")


def _cuts(value: object) -> tuple[int, ...]:
    if isinstance(value, list):
        return tuple(sorted({_whole(0, SEND_BYTES_MAX)(item) for item in value}))
    raise ValueError("cuts: a list of numbers")


_READ: Final[Mapping[str, Callable[[object], object]]] = {
    "link": _whole(0, LINKS_MAX - 1),
    "to": _text,
    "who": _text,
    "changes": _changes,
    "over": _whole(-1, LINKS_MAX - 1),
    "side": _text,
    "binding": _binding,
    "data": _hex,
    "zeros": _whole(0, SEND_BYTES_MAX),
    "times": _whole(1, SEND_BYTES_MAX),
    "cuts": _cuts,
    "gap": _seconds,
    "seconds": _seconds,
}
