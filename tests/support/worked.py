"""What docs/protocol.md shows of the code: `python -m tests.support.worked` prints it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ostnode.codec import decode, encode
from ostnode.errors import BusyError, DrainingError
from ostnode.wire import messages as m
from ostnode.wire.calls import CALLS, CallSpec, Reply
from ostnode.wire.frames import PREFIX
from ostnode.wire.session import FrameKind, Side, auth_statement
from ostnode.wire.states import STEPS, State, Way
from tests.support.cddlrules import rule_name
from tests.support.vectors import connection
from tests.support.wire_peers import feed, wire

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "protocol.md"
LINE_BYTES: Final = 32
COLUMN: Final = 44
"""Where comments stand."""
OTHER: Final = {"dialler": "accepter", "accepter": "dialler"}


def session() -> Iterator[tuple[str, bytes]]:
    """What is said, by whom, in a session that shows every kind of frame."""
    ends = {"dialler": connection(Side.DIALLER), "accepter": connection(Side.ACCEPTER)}
    ours, theirs = ends["dialler"], ends["accepter"]
    said: list[tuple[str, bytes]] = []

    def say(speaker: str, frame: bytes) -> None:
        feed(ends[OTHER[speaker]], frame)
        said.append((speaker, frame))

    say("dialler", wire(ours.send_hello()))
    say("accepter", wire(theirs.send_hello()))
    say("dialler", wire(ours.send_proof()))
    say("accepter", wire(theirs.send_proof()))
    push, outgoing = ours.send_request(m.PushChunk(b"a grant", 0), 30_000, b"hello")
    say("dialler", wire(outgoing))
    user, outgoing = ours.send_request(m.GetUser(), 5_000)
    say("dialler", wire(outgoing))
    say("accepter", wire(theirs.send_reply(push, Reply(m.PushResult(1)))))
    say("dialler", wire(ours.send_cancel(user)))
    busy = BusyError("the request was cancelled or its deadline passed", retry_after_s=1)
    say("accepter", wire(theirs.send_refusal(user, busy)))
    say("dialler", wire(ours.send_ping(7)))
    say("accepter", wire(theirs.send_pong(7)))
    say("accepter", wire(theirs.send_goaway(DrainingError("moving"))))
    yield from said


def example() -> str:
    """The session with a comment on each item, and what the dialler's proof signs."""
    blocks, hellos = [], []
    for number, (speaker, frame) in enumerate(session(), 1):
        header_bytes, body_bytes = PREFIX.unpack_from(frame)
        header, body = frame[PREFIX.size :][:header_bytes], frame[PREFIX.size + header_bytes :]
        kind = FrameKind(decode(header)["t"])  # type: ignore[index,arg-type]
        if kind is FrameKind.HELLO:
            hellos.append(header)
        lines = [f"{number}. {speaker}: {kind.name}"]
        if kind is FrameKind.AUTH:
            lines += ["   which signs"]
            lines += _signed(auth_statement(Side.DIALLER, *hellos, b""), hellos)
            lines += ["   and says"]
        lengths = f"{frame[:4].hex()} {frame[4:8].hex()}"
        lines.append(_line(lengths, f"{header_bytes} bytes of header, {body_bytes} of body"))
        lines += _annotated(header)
        if body:
            lines.append(_line(body.hex(), "the body"))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _signed(statement: bytes, hellos: list[bytes]) -> list[str]:
    label, side = encode("ostnode peer auth 1"), encode("dialler")
    lines = [_line("85", "an array of 5"), _line(label.hex(), '"ostnode peer auth 1"')]
    lines.append(_line(side.hex(), '"dialler"'))
    at = 1 + len(label) + len(side)
    for number, header in enumerate(hellos, 1):
        head = encode(header)[: -len(header)]
        lines.append(_line(head.hex() + " …", f"{len(header)} bytes: the header of frame {number}"))
        at += len(head) + len(header)
    lines.append(_line(statement[at:].hex(), "no bytes: in plain text there is no binding"))
    return lines


def _annotated(header: bytes) -> list[str]:
    value = decode(header)
    assert isinstance(value, dict)
    return list(_entries(value, 0))


def _entries(value: dict[str, object], depth: int) -> Iterator[str]:
    pad = "  " * depth
    yield _line(pad + encode(value)[: _head_bytes(len(value))].hex(), pad + _count(len(value)))
    ordered = sorted(value.items(), key=lambda entry: encode(entry[0]))
    for name, inner in ordered:
        if isinstance(inner, dict) and inner:
            yield _line(f"{pad}  {encode(name).hex()}", f'{pad}  "{name}":')
            yield from _entries(inner, depth + 1)
            continue
        yield from _entry(pad + "  ", name, inner)


def _entry(pad: str, name: str, value: object) -> Iterator[str]:
    """One key and its value; long bytes and text on lines of their own."""
    key, data = encode(name).hex(), encode(value)
    comment = f'{pad}"{name}": {_told(value)}'
    content = value.encode() if isinstance(value, str) else value
    if len(pad) + len(key) + 2 * len(data) < COLUMN or not isinstance(content, bytes):
        yield _line(f"{pad}{key} {data.hex()}", comment)
        return
    yield _line(f"{pad}{key} {data[: -len(content)].hex()}", comment)
    for at in range(0, len(content), LINE_BYTES):
        yield f"{pad}  {content[at : at + LINE_BYTES].hex()}"


def _head_bytes(count: int) -> int:
    return 1 if count < 24 else 2


def _count(count: int) -> str:
    return f"a map of {count}"


def _told(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).replace("'", '"')


def _line(data: str, comment: str) -> str:
    return f"{data:<{COLUMN}} ; {comment}"


def calls_table() -> str:
    """Every call: number, name, where, for whom, its messages, its body."""
    rows = ["| call | name | at | for | request → result | body, feature |", "| --- " * 6 + "|"]
    rows += [_row(spec) for spec in CALLS]
    return "\n".join(rows)


def _row(spec: CallSpec) -> str:
    who = ", ".join(sorted(who.value for who in spec.who))
    more = f"{spec.carries}'s body" if spec.carries else spec.feature
    names = f"{rule_name(spec.request)} → {rule_name(spec.result)}"
    return f"| {spec.number} | {spec.name} | {spec.role} | {who} | {names} | {more} |"


def states_table() -> str:
    """Every step of the dialler; the accepter's are the same the other way round."""
    rows = ["| state | the dialler sends | and receives |", "| --- | --- | --- |"]
    for state in State:
        cells = [_steps(state, way) for way in (Way.SEND, Way.RECEIVE)]
        rows.append(f"| {state.name} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)


def _steps(state: State, way: Way) -> str:
    told = []
    for (at, which, kind), after in STEPS[Side.DIALLER].items():
        if (at, which) == (state, way):
            told.append(kind.name if after is state else f"{kind.name} → {after.name}")
    return ", ".join(told)


if __name__ == "__main__":
    print(states_table(), calls_table(), example(), sep="\n\n")
