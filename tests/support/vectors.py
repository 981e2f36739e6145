"""The test vectors of `tests/vectors`: how they are written down, and how the code meets them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from ostnode.codec import Value, decode
from ostnode.errors import OstError
from ostnode.identity.keys import KeyPair, verify
from ostnode.wire import incoming as i
from ostnode.wire.calls import Reply, call_by_number
from ostnode.wire.connection import Connection
from ostnode.wire.fields import Message
from ostnode.wire.frames import BODY_BYTES_MAX, PREFIX, RemoteProtocolError
from ostnode.wire.handshake import Handshake
from ostnode.wire.schema import from_map, to_map
from ostnode.wire.session import FrameKind, Hello, Side, error_from
from tests.support.wire_peers import feed, wire

FOLDER: Final = Path(__file__).parents[1] / "vectors"
DIALLER: Final = KeyPair.from_seed(bytes(range(32)))
ACCEPTER: Final = KeyPair.from_seed(bytes(range(32, 64)))
KEYS: Final = {Side.DIALLER: DIALLER, Side.ACCEPTER: ACCEPTER}
NONCES: Final = {Side.DIALLER: b"\xd1" * 32, Side.ACCEPTER: b"\xac" * 32}
BINDING: Final = bytes(range(64, 96))
_RUN: Final = re.compile(rb"(.{1,400}?)\1{7,}", re.DOTALL)


def load(name: str) -> Any:
    """One file's vectors."""
    return json.loads((FOLDER / f"{name}.json").read_text())


# --- bytes and values as JSON -------------------------------------------------------------------


def to_parts(data: bytes) -> str | list[object]:
    """Hex; of long repetitive bytes a list of hex and `[hex, times]`."""
    parts: list[object] = []
    at = 0
    for run in _RUN.finditer(data) if len(data) > 512 else ():
        if run.start() > at:
            parts.append(data[at : run.start()].hex())
        parts.append([run[1].hex(), len(run[0]) // len(run[1])])
        at = run.end()
    if at < len(data):
        parts.append(data[at:].hex())
    return data.hex() if len(parts) < 2 and at == 0 else parts


def from_parts(parts: str | list[Any]) -> bytes:
    """What `to_parts` made."""
    pieces = [parts] if isinstance(parts, str) else parts
    return b"".join(
        bytes.fromhex(piece) if isinstance(piece, str) else bytes.fromhex(piece[0]) * piece[1]
        for piece in pieces
    )


def plain(value: object) -> object:
    """A CBOR value as JSON; bytes are `{"$bytes": hex}`."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": to_parts(bytes(value))}
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def fields_of(message: Message) -> object:
    """A message's fields, those left out on the wire with what that means."""
    return plain(to_map(message))


# --- sessions -----------------------------------------------------------------------------------


def vector_hello(side: Side, **changes: Any) -> Hello:
    """What the vectors' side says first."""
    values: dict[str, Any] = {
        "protocol_min": 1,
        "protocol_max": 2,
        "principal": KEYS[side].principal,
        "nonce": NONCES[side],
        "window_requests": 2,
        "window_bytes": BODY_BYTES_MAX,
        "features": ("roster",),
    }
    return Hello(**{**values, **changes})


def connection(side: Side, binding: bytes = b"", **changes: Any) -> Connection:
    """The side under test."""
    expect = ACCEPTER.principal if side is Side.DIALLER else None
    handshake = Handshake(
        side,
        vector_hello(side, **changes),
        sign=KEYS[side].sign,
        verify=verify,
        expect=expect,
        binding=binding,
    )
    return Connection(side, handshake)


def frame_parts(frame: bytes) -> tuple[FrameKind, dict[str, Value], bytes]:
    """A whole frame's kind, fields and body."""
    header_bytes, _ = PREFIX.unpack_from(frame)
    header = decode(frame[PREFIX.size :][:header_bytes])
    assert isinstance(header, dict)
    return FrameKind(header.pop("t")), header, frame[PREFIX.size + header_bytes :]


def send(end: Connection, frame: bytes) -> None:
    """The side under test says what the vector has it say, byte for byte."""
    kind, header, body = frame_parts(frame)
    assert _say(end, kind, header, body) == frame


def _say(end: Connection, kind: FrameKind, header: dict[str, Any], body: bytes) -> bytes:
    match kind:
        case FrameKind.HELLO:
            return wire(end.send_hello())
        case FrameKind.AUTH | FrameKind.WELCOME:
            return wire(end.send_proof())
        case FrameKind.REQUEST:
            spec = call_by_number(header["call"])
            request = from_map(spec.request, header["m"])
            return wire(end.send_request(request, header["ms"], body)[1])
        case FrameKind.REFUSAL:
            error = error_from(header["code"], header["message"], header["details"])
            return wire(end.send_refusal(header["id"], error))
        case FrameKind.GOAWAY:
            return wire(end.send_goaway(error_from(header["code"], header["message"])))
        case _:
            raise AssertionError(f"no vector has its own side say {kind.name}")


def outcome(end: Connection, data: bytes, *, ended: bool = False) -> dict[str, object]:
    """What bytes make: an event, or the code that the connection ends with."""
    try:
        events = feed(end, data, end=ended)
    except RemoteProtocolError as error:
        return {"ends": error.refusal.code}
    assert len(events) == 1, events
    return shown(events[0])


def shown(event: i.Event) -> dict[str, object]:
    """An event as the vectors tell it."""
    match event:
        case i.Greeted(hello):
            return {"event": "hello", "hello": fields_of(hello)}
        case i.Proven(peer):
            return {"event": "proven", "peer": plain(peer)}
        case i.RequestReceived(request_id, spec, request, body, ms):
            head = {"id": request_id, "call": spec.number, "ms": ms}
            return {"event": "request", **head, "m": fields_of(request), "body": to_parts(body)}
        case i.RequestMalformed(request_id, error):
            return {"event": "bad request", "id": request_id, "code": error.code}
        case i.Answered(request_id, Reply(message, body)):
            said = {"m": fields_of(message), "body": to_parts(bytes(body))}
            return {"event": "reply", "id": request_id, **said}
        case i.Answered(request_id, OstError() as error):
            told = {"code": error.code, "message": error.message, "details": error.details}
            return {"event": "refusal", "id": request_id, **told}
        case i.GoawayReceived(error, final):
            told = {"code": error.code, "message": error.message}
            return {"event": "goaway", **told, "final": final}
        case i.CancelReceived(number) | i.PingReceived(number) | i.PongReceived(number):
            return {"event": type(event).__name__.removesuffix("Received").lower(), "of": number}
        case i.Closed(clean):
            return {"event": "end", "clean": clean}
        case _:
            raise AssertionError(event)


def prepared(vector: dict[str, Any], preludes: dict[str, Any]) -> Connection:
    """The side under test, brought to where the vector begins."""
    prelude = preludes[vector["after"]]
    features = {"features": tuple(prelude["features"])} if "features" in prelude else {}
    end = connection(Side[prelude["side"].upper()], **features)
    for step in [*prelude["steps"], *({"send": frame} for frame in vector.get("sends", ()))]:
        if "send" in step:
            send(end, from_parts(step["send"]))
        else:
            feed(end, from_parts(step["receive"]))
    return end
