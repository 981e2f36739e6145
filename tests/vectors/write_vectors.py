"""Writes the vectors that are missing: `python -m tests.vectors.write_vectors`.

A vector that is there stays as it is: what it expects was checked against the CDDL and against
what the protocol says when it was made, not against the code of today. One that must change is
taken out by hand first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from ostnode.codec import encode
from ostnode.errors import all_errors
from ostnode.wire.calls import CALLS, CallSpec
from ostnode.wire.fields import Message
from ostnode.wire.frames import BODY_BYTES_MAX, GREETING_BYTES_MAX, HEADER_BYTES_MAX, pack_frame
from ostnode.wire.schema import to_map
from ostnode.wire.session import DEADLINE_MS_MAX, LEDGER, ROSTER, FrameKind, Side, auth_statement
from ostnode.wire.states import State, Way, step
from tests.support.cddlrules import rule_name
from tests.support.vectors import (
    ACCEPTER,
    BINDING,
    DIALLER,
    FOLDER,
    KEYS,
    connection,
    fields_of,
    outcome,
    plain,
    prepared,
    to_parts,
    vector_hello,
)
from tests.support.wire_peers import feed, wire
from tests.support.wire_samples import EVENTS, full, least, message_classes, outside_bounds
from tests.vectors.cbor_cases import INVALID_CBOR, VALID_CBOR

Vector = dict[str, Any]
BODY: Final = bytes(range(256))
_WITH_LEDGER: Final = (ROSTER, LEDGER)


def main() -> None:
    _add("cbor", {"valid": _valid_cbor(), "invalid": _invalid_cbor()})
    _add("messages", {"valid": _valid_messages(), "invalid": _invalid_messages()})
    _add("auth", {"statements": _statements(), "sessions": _sessions()})
    preludes = _preludes()
    frames = [_expected(vector, preludes) for vector in _frames()]
    _add("frames", {"preludes": preludes, "vectors": frames})


def _add(name: str, made: dict[str, Any]) -> None:
    """Add to a file what it has not."""
    path = FOLDER / f"{name}.json"
    there = json.loads(path.read_text()) if path.exists() else {}
    sections = []
    for section, rows in made.items():
        if isinstance(rows, dict):
            kept = {**rows, **there.get(section, {})}
            lines = [f"{json.dumps(key)}: {_line(row)}" for key, row in kept.items()]
            sections.append(f"{json.dumps(section)}: {{\n" + ",\n".join(lines) + "\n}")
            continue
        old = there.get(section, [])
        names = {row["name"] for row in old}
        lines = [_line(row) for row in [*old, *(row for row in rows if row["name"] not in names)]]
        sections.append(f"{json.dumps(section)}: [\n" + ",\n".join(lines) + "\n]")
    path.write_text("{\n" + ",\n".join(sections) + "\n}\n")


def _line(row: object) -> str:
    return json.dumps(row, ensure_ascii=False)


# --- strict CBOR and messages -------------------------------------------------------------------


def _valid_cbor() -> list[Vector]:
    return [
        {"name": name, "cbor": to_parts(data), "value": plain(value)}
        for name, (value, data) in VALID_CBOR.items()
    ]


def _invalid_cbor() -> list[Vector]:
    return [{"name": name, "cbor": to_parts(data)} for name, data in INVALID_CBOR.items()]


def _kind(cls: type[Message]) -> dict[str, object]:
    return {"kind": rule_name(cls).replace("-", "_")} if cls in EVENTS else {}


def _valid_messages() -> list[Vector]:
    rows = []
    for cls in message_classes():
        for what, message in (("full", full(cls)), ("least", least(cls))):
            rule = rule_name(cls)
            data = encode(_kind(cls) | to_map(message))
            row = {"name": f"{rule}, {what}", "rule": rule, "cbor": to_parts(data)}
            rows.append({**row, "fields": fields_of(message)})
    return rows


def _invalid_messages() -> list[Vector]:
    rows = []
    for cls in message_classes():
        rule = rule_name(cls)
        for what, value in outside_bounds(cls):
            data = encode(_kind(cls) | value)
            rows.append({"name": f"{rule}: {what}", "rule": rule, "cbor": to_parts(data)})
        if cls in EVENTS:
            data = encode({**to_map(full(cls)), "kind": "of_no_kind"})
            rows.append({"name": f"{rule}: unknown kind", "rule": rule, "cbor": to_parts(data)})
    return rows


# --- proofs -------------------------------------------------------------------------------------


def _hello_header(side: Side, **changes: Any) -> bytes:
    return encode({"t": 1, **to_map(vector_hello(side, **changes))})


def _statements() -> list[Vector]:
    rows = []
    headers = [_hello_header(side) for side in Side]
    for side in Side:
        for binding in (b"", BINDING):
            statement = auth_statement(side, *headers, binding)
            rows.append({
                "name": f"{side.name.lower()}, {'bound' if binding else 'in clear text'}",
                "side": side.name.lower(),
                "seed": KEYS[side].seed.hex(),
                "principal": KEYS[side].principal.hex(),
                "dialler_hello": headers[0].hex(),
                "accepter_hello": headers[1].hex(),
                "binding": binding.hex(),
                "statement": statement.hex(),
                "signature": KEYS[side].sign(statement).hex(),
            })
    return rows


L: Final = (1 << 252) + 27742317777372353535851937790883648493
"""The order of Ed25519's base point (RFC 8032 section 5.1)."""


def _malleable(signature: bytes) -> bytes:
    """The same point with a scalar beyond the group's order: valid to a lax verifier."""
    return signature[:32] + (int.from_bytes(signature[32:], "little") + L).to_bytes(32, "little")


def _sessions() -> list[Vector]:
    """An accepter's side of handshakes: what it hears, and what becomes of it."""
    hellos = [_hello_header(side) for side in Side]

    def proof(side: Side = Side.DIALLER, key: Any = DIALLER, binding: bytes = b"", **heads: bytes):
        statement = auth_statement(
            side, heads.get("dialler", hellos[0]), heads.get("accepter", hellos[1]), binding
        )
        return key.sign(statement)

    other_nonce = _hello_header(Side.ACCEPTER, nonce=b"\x00" * 32)
    weaker = _hello_header(Side.DIALLER, protocol_max=1)
    cases = {
        "a good proof": (hellos[0], proof(), b""),
        "a good proof, bound": (hellos[0], proof(binding=BINDING), BINDING),
        "of another key": (hellos[0], proof(key=ACCEPTER), b""),
        "for another channel": (hellos[0], proof(binding=BINDING), b""),
        "without the channel's binding": (hellos[0], proof(), BINDING),
        "of an earlier session": (hellos[0], proof(accepter=other_nonce), b""),
        "reflected": (hellos[0], proof(side=Side.ACCEPTER, key=ACCEPTER), b""),
        "of the other side": (hellos[0], proof(side=Side.ACCEPTER), b""),
        "over a hello that was changed on the way": (weaker, proof(), b""),
        "of zeros": (hellos[0], bytes(64), b""),
        "with a bit flipped": (hellos[0], bytes([proof()[0] ^ 1]) + proof()[1:], b""),
        "with a scalar beyond the group's order": (hellos[0], _malleable(proof()), b""),
        "of a key of small order": (
            _hello_header(Side.DIALLER, principal=type(DIALLER.principal)(_SMALL)),
            _SMALL + bytes(32),
            b"",
        ),
    }
    return [_session(name, *case) for name, case in cases.items()]


_SMALL: Final = b"\x01" + bytes(31)
"""The identity point: a lax verifier takes (identity, 0) as its signature of anything."""


def _session(name: str, hello: bytes, signature: bytes, binding: bytes) -> Vector:
    end = connection(Side.ACCEPTER, binding)
    frames = [pack_frame(hello), pack_frame(encode({"t": 2, "signature": signature}))]
    feed(end, frames[0])
    said = wire(end.send_hello())
    heard = outcome(end, frames[1])
    row = {"name": name, "binding": binding.hex(), "hello": frames[0].hex()}
    row |= {"answer": said.hex(), "auth": frames[1].hex()}
    expected = {"event": "proven"} if name.startswith("a good") else {"ends": "unauthenticated"}
    assert expected.items() <= heard.items(), name
    return {**row, "expect": heard}


# --- frames -------------------------------------------------------------------------------------


def _frame(body: bytes = b"", /, **header: object) -> bytes:
    return pack_frame(encode(header), body) + body


def _handshake(*, theirs_too: bool = False, **dialler_hello: Any) -> dict[str, bytes]:
    ours = connection(Side.DIALLER, **dialler_hello)
    theirs = connection(Side.ACCEPTER, **(dialler_hello if theirs_too else {}))
    said = {"hello there": wire(ours.send_hello())}
    feed(theirs, said["hello there"])
    said["hello back"] = wire(theirs.send_hello())
    feed(ours, said["hello back"])
    said["auth"] = wire(ours.send_proof())
    feed(theirs, said["auth"])
    said["welcome"] = wire(theirs.send_proof())
    return said


def _ask(request_id: int, call: int = 2, fields: object = None, body: bytes = b"") -> bytes:
    return _frame(body, t=4, id=request_id, call=call, ms=1000, m=fields or {})


def _preludes() -> dict[str, Vector]:
    """Where vectors begin, by what the side under test has heard and said."""
    said = {name: frame.hex() for name, frame in _handshake().items()}
    greeted, proven = _accepting(_handshake())
    ledger = _handshake(theirs_too=True, features=_WITH_LEDGER)
    kept = _accepting(ledger)
    older = _accepting(_handshake(protocol_max=1, features=()))
    plainer = _accepting(_handshake(features=("of_another_kind",)))
    waiting = [{"send": said["hello there"]}]
    proving = [{"receive": said["hello back"]}, {"send": said["auth"]}]
    opened = [{"receive": said["welcome"]}]
    asked = [{"receive": _ask(number).hex()} for number in (1, 2)]
    push = {"grant": b"g", "chunk_index": 0}
    loaded = to_parts(_ask(1, 13, push, bytes(BODY_BYTES_MAX)))
    bye = _frame(t=10, code="shutting_down", message="bye").hex()
    steps = {
        "accepter start": [],
        "accepter greeted": greeted,
        "accepter open": greeted + proven,
        "accepter with a full window of requests": greeted + proven + asked,
        "accepter with a full window of bytes": [*greeted, *proven, {"receive": loaded}],
        "accepter open at version 1": [*older[0], *older[1]],
        "accepter open without common features": [*plainer[0], *plainer[1]],
        "accepter open with ledger": [*kept[0], *kept[1]],
        "dialler open with ledger": [
            {"send": ledger["hello there"].hex()},
            {"receive": ledger["hello back"].hex()},
            {"send": ledger["auth"].hex()},
            {"receive": ledger["welcome"].hex()},
        ],
        "accepter draining": [*greeted, *proven, {"send": bye}],
        "dialler greeting": waiting,
        "dialler proving": waiting + proving,
        "dialler open": waiting + proving + opened,
        "dialler draining": waiting + proving + opened + [{"receive": bye}],
    }
    return {
        name: {
            "side": name.split()[0],
            "steps": rows,
            # What the side under test names in its own hello, where that is not roster alone.
            **({"features": list(_WITH_LEDGER)} if name.endswith("ledger") else {}),
        }
        for name, rows in steps.items()
    }


def _accepting(said: dict[str, bytes]) -> tuple[list[Vector], list[Vector]]:
    """An accepter's steps to be greeted, and from there to be open."""
    steps = [
        [{"receive": said["hello there"].hex()}, {"send": said["hello back"].hex()}],
        [{"receive": said["auth"].hex()}, {"send": said["welcome"].hex()}],
    ]
    return steps[0], steps[1]


def _open(side: str, spec: CallSpec) -> str:
    """The prelude that a call's frames come after."""
    return f"{side} open with ledger" if spec.feature == LEDGER else f"{side} open"


STATE_OF: Final = {
    "accepter start": State.START,
    "accepter greeted": State.GREETED,
    "accepter open": State.OPEN,
    "dialler greeting": State.GREETING,
    "dialler proving": State.PROVING,
    "dialler open": State.OPEN,
}


def _frames() -> Iterator[Vector]:
    yield from _handshake_frames()
    yield from _call_frames()
    yield from _other_frames()
    yield from _malformed_frames()
    yield from _requests_refused()
    yield from _out_of_place()


def _expected(vector: Vector, preludes: dict[str, Vector]) -> Vector:
    """The vector with its outcome, which must be of the sort that its maker says."""
    end = prepared(vector, preludes)
    sort = vector.pop("sort")
    heard = outcome(end, vector.pop("data"), ended=vector.get("ended", False))
    assert sort.items() <= heard.items(), (vector["name"], sort, heard)
    return {**vector, "expect": heard}


def _vector(name: str, after: str, data: bytes, sends: tuple[bytes, ...] = (), **sort: Any):
    row: Vector = {"name": name, "after": after}
    if sends:
        row["sends"] = [to_parts(frame) for frame in sends]
    return {**row, "receive": to_parts(data), "data": data, "sort": sort}


def _handshake_frames() -> Iterator[Vector]:
    said = _handshake()
    yield _vector("HELLO of a dialler", "accepter start", said["hello there"], event="hello")
    yield _vector("HELLO of an accepter", "dialler greeting", said["hello back"], event="hello")
    yield _vector("AUTH", "accepter greeted", said["auth"], event="proven")
    yield _vector("WELCOME", "dialler proving", said["welcome"], event="proven")
    hello = to_map(vector_hello(Side.DIALLER))
    for name, changes, sort in (
        ("of version 1 alone", {"protocol_max": 1, "features": ()}, {"event": "hello"}),
        ("of a later version too", {"protocol_max": 9}, {"event": "hello"}),
        ("with features unheard of", {"features": ("x", "roster", "y")}, {"event": "hello"}),
        ("of later versions alone", {"protocol_min": 8, "protocol_max": 9}, _INVALID),
        ("with its versions turned round", {"protocol_min": 2, "protocol_max": 1}, _INVALID),
    ):
        yield _vector(
            f"HELLO {name}", "accepter start", _frame(t=1, **{**hello, **changes}), **sort
        )
    # To many languages true is 1, too.
    yield _vector("HELLO of kind true", "accepter start", _frame(t=True, **hello), **_INVALID)
    stranger = {**to_map(vector_hello(Side.ACCEPTER)), "principal": DIALLER.principal}
    name = "HELLO of another than was dialled"
    yield _vector(name, "dialler greeting", _frame(t=1, **stranger), ends="unauthenticated")
    for kind, fields in (("AUTH", {}), ("WELCOME", {})):
        after = "accepter greeted" if kind == "AUTH" else "dialler proving"
        number = FrameKind[kind].value
        for what, bad in (("short", bytes(63)), ("wrong", bytes(64)), ("long", bytes(65))):
            data = _frame(t=number, signature=bad, **fields)
            ends = "unauthenticated" if what == "wrong" else "invalid_argument"
            yield _vector(f"{kind} with a {what} signature", after, data, ends=ends)


_INVALID: Final = {"ends": "invalid_argument"}


def _call_frames() -> Iterator[Vector]:
    for spec in CALLS:
        for what, make in (("full", full), ("least", least)):
            body = BODY if spec.carries == "request" else b""
            request = _ask(1, spec.number, to_map(make(spec.request)), body)
            name = f"REQUEST of {spec.name}, {what}"
            yield _vector(name, _open("accepter", spec), request, event="request")
            body = BODY if spec.carries == "result" else b""
            reply = _frame(body, t=5, id=1, m=to_map(make(spec.result)))
            name = f"REPLY of {spec.name}, {what}"
            yield _vector(name, _open("dialler", spec), reply, (request,), event="reply")
        # What is wrong with a result is the answerer's fault: `internal` to who asked.
        broken = _frame(t=5, id=1, m={"no_such_field": 1})
        name = f"REPLY of {spec.name}, malformed"
        after = _open("dialler", spec)
        yield _vector(name, after, broken, (request,), event="refusal", code="internal")
        if spec.carries != "result":
            data = _frame(b"x", t=5, id=1, m=to_map(full(spec.result)))
            sort = {"event": "refusal", "code": "internal"}
            name = f"REPLY of {spec.name}, with a body"
            yield _vector(name, after, data, (request,), **sort)


def _other_frames() -> Iterator[Vector]:
    asked = (_ask(1),)
    for error in all_errors():
        told = {"code": error.code, "message": "über alles", "details": {"limit": 1 << 62}}
        data = _frame(t=6, id=1, **told)
        name = f"REFUSAL of {error.code}"
        yield _vector(name, "dialler open", data, asked, event="refusal", code=error.code)
        data = _frame(t=10, code=error.code, message="bye")
        final = not error.retryable
        for after in ("dialler open", "accepter open"):
            name = f"GOAWAY of {error.code} to {after}"
            yield _vector(name, after, data, event="goaway", code=error.code, final=final)
    draining = _frame(t=10, code="draining", message="m")
    yield _vector("GOAWAY with a REQUEST in flight", "dialler open", draining, asked, final=False)
    later = {"code": "of_a_later_version", "message": ""}
    data = _frame(t=6, id=1, **later, details={})
    yield _vector("REFUSAL of a code unheard of", "dialler open", data, asked, code="internal")
    strange: dict[str, object] = {"list": [1], "null": None, "kept": True}
    data = _frame(t=6, id=1, code="busy", message="", details=strange)
    kept = {"details": {"kept": True}}
    yield _vector("REFUSAL with strange details", "dialler open", data, asked, **kept)
    data = _frame(t=6, id=1, code="busy", message="")
    yield _vector("REFUSAL without details", "dialler open", data, asked, details={})
    data = _frame(t=10, **later)
    yield _vector("GOAWAY of a code unheard of", "dialler open", data, event="goaway", final=True)
    busy = _frame(t=10, code="busy", message="")
    name = "GOAWAY, retryable, in the handshake"
    yield _vector(name, "dialler greeting", busy, event="goaway", final=True)
    yield _vector("REQUEST while draining", "accepter draining", _ask(1), event="request")
    for number in (0, 1, (1 << 63) - 1):
        for kind in ("PING", "PONG"):
            data = _frame(t=FrameKind[kind].value, token=number)
            for after in ("accepter open", "dialler open"):
                name = f"{kind} {number} to {after}"
                yield _vector(name, after, data, event=kind.lower(), of=number)
        cancel = _frame(t=7, id=number)
        yield _vector(f"CANCEL {number}", "accepter open", cancel, event="cancel", of=number)
    for after in ("accepter open", "dialler open", "accepter start"):
        end = _vector(f"the end of the stream at {after}", after, b"", event="end", clean=True)
        yield {**end, "ended": True}
        end = _vector(f"the end within a frame at {after}", after, b"\0", event="end", clean=False)
        yield {**end, "ended": True}


def _malformed_frames() -> Iterator[Vector]:
    """What ends the connection, whoever it comes from."""
    at = "accepter open"
    far = 1 << 63
    cases = {
        "a header that is no CBOR": pack_frame(b"\xff"),
        "an empty header": pack_frame(b""),
        "a header that is no map": pack_frame(encode([1])),
        "a header with its keys out of order": pack_frame(bytes.fromhex("a2656f7468657201617408")),
        "a header with bytes behind it": pack_frame(encode({"t": 8, "token": 1}) + b"\0"),
        "a header with a tag": pack_frame(b"\xd9\xd9\xf7" + encode({"t": 8, "token": 1})),
        "no kind": _frame(id=1),
        "kind 0": _frame(t=0),
        "kind 11": _frame(t=11),
        "kind -1": _frame(t=-1),
        "kind true": _frame(t=True),
        "a kind of text": _frame(t="8"),
        "a REQUEST without id": _frame(t=4, call=2, ms=1, m={}),
        "a REQUEST with id 0": _ask(0),
        "a REQUEST with a negative id": _ask(-1),
        "a REQUEST with an id too high": _ask(far),
        "a REQUEST without call": _frame(t=4, id=1, ms=1, m={}),
        "a REQUEST without ms": _frame(t=4, id=1, call=2, m={}),
        "a REQUEST with 0 ms": _frame(t=4, id=1, call=2, ms=0, m={}),
        "a REQUEST with more than 600,000 ms": _frame(
            t=4, id=1, call=2, ms=DEADLINE_MS_MAX + 1, m={}
        ),
        "a REQUEST with more": _frame(t=4, id=1, call=2, ms=1, m={}, more=1),
        "a CANCEL without id": _frame(t=7),
        "a CANCEL with more": _frame(t=7, id=1, more=1),
        "a PING with a body": _frame(b"x", t=8, token=1),
        "a PING without token": _frame(t=8),
        "a PING with a token too high": _frame(t=8, token=far),
        "a PONG with a body": _frame(b"x", t=9, token=1),
        "a PONG with a token of bytes": _frame(t=9, token=b"1"),
        "a GOAWAY without code": _frame(t=10, message=""),
        "a GOAWAY without message": _frame(t=10, code="busy"),
        "a GOAWAY with a long message": _frame(t=10, code="busy", message="x" * 501),
        "a GOAWAY with a long code": _frame(t=10, code="x" * 65, message=""),
        "a GOAWAY with a body": _frame(b"x", t=10, code="busy", message=""),
        "a second HELLO": _handshake()["hello there"],
        "a second AUTH": _handshake()["auth"],
    }
    for name, data in cases.items():
        yield _vector(name, at, data, **_INVALID)
    for name, header, body in (
        ("a header over the limit", HEADER_BYTES_MAX + 1, 0),
        ("a body over the limit", 10, BODY_BYTES_MAX + 1),
        ("lengths of 4 GiB", 0xFFFFFFFF, 0xFFFFFFFF),
    ):
        data = header.to_bytes(4, "big") + body.to_bytes(4, "big")
        yield _vector(name, at, data, ends="frame_too_large")
    for name, header, body in (
        ("a stranger's header over the limit", GREETING_BYTES_MAX + 1, 0),
        ("a stranger's body", 10, 1),
    ):
        data = header.to_bytes(4, "big") + body.to_bytes(4, "big")
        yield _vector(name, "accepter start", data, ends="frame_too_large")
    yield from _malformed_answers()


def _malformed_answers() -> Iterator[Vector]:
    asked = (_ask(1),)
    told = {"code": "busy", "message": "", "details": {}}
    cases = {
        "a REPLY to nothing": _frame(t=5, id=2, m={}),
        "a REPLY without id": _frame(t=5, m={}),
        "a REPLY with more": _frame(t=5, id=1, m={}, more=1),
        "a REFUSAL to nothing": _frame(t=6, id=2, **told),
        "a REFUSAL without id": _frame(t=6, **told),
        "a REFUSAL without code": _frame(t=6, id=1, message=""),
        "a REFUSAL with a code too long": _frame(t=6, id=1, **{**told, "code": "x" * 65}),
        "a REFUSAL with a message too long": _frame(t=6, id=1, **{**told, "message": "x" * 501}),
        "a REFUSAL with more": _frame(t=6, id=1, **told, more=1),
        "a REFUSAL with a body": _frame(b"x", t=6, id=1, **told),
    }
    for name, data in cases.items():
        yield _vector(name, "dialler open", data, asked, **_INVALID)


_WITHOUT_FEATURES: Final = (
    "accepter open at version 1",
    "accepter open without common features",
)


def _requests_refused() -> Iterator[Vector]:
    """Requests that are refused, and those that end the connection."""
    at = "accepter open"
    for name, data, code in (
        ("of call 0", _ask(1, 0), "unknown_call"),
        ("of a call unheard of", _ask(1, 1 << 40), "unknown_call"),
        ("without a message", _frame(t=4, id=1, call=2, ms=1), "invalid_argument"),
        (
            "with a message that is a list",
            _frame(t=4, id=1, call=2, ms=1, m=[]),
            "invalid_argument",
        ),
        ("with a body where none goes", _ask(1, 2, {}, b"x"), "invalid_argument"),
    ):
        yield _vector(f"REQUEST {name}", at, data, event="bad request", code=code)
    for spec in CALLS:
        data = _ask(1, spec.number, {**to_map(least(spec.request)), "no_such_field": 1})
        sort = {"event": "bad request", "code": "invalid_argument"}
        name = f"REQUEST of {spec.name} with an unknown field"
        yield _vector(name, _open("accepter", spec), data, **sort)
        for after in _WITHOUT_FEATURES if spec.feature else ():
            data = _ask(1, spec.number, to_map(full(spec.request)))
            sort = {"event": "bad request", "code": "unknown_call"}
            yield _vector(f"REQUEST of {spec.name} to {after}", after, data, **sort)
    for after in _WITHOUT_FEATURES:
        yield _vector(f"REQUEST to {after}", after, _ask(1), event="request")
    full_window = "accepter with a full window of requests"
    yield _vector("REQUEST beyond the window of requests", full_window, _ask(3), ends="busy")
    yield _vector("REQUEST with an id used before", full_window, _ask(2), **_INVALID)
    loaded = "accepter with a full window of bytes"
    push = {"grant": b"g", "chunk_index": 1}
    data = _ask(2, 13, push, b"x")
    yield _vector("REQUEST beyond the window of bytes", loaded, data, ends="busy")
    yield _vector("REQUEST without a body there", loaded, _ask(2, 13, push), event="request")


def _out_of_place() -> Iterator[Vector]:
    for after, state in STATE_OF.items():
        side = Side[after.split()[0].upper()]
        for kind in FrameKind:
            if step(side, state, Way.RECEIVE, kind) is None:
                name = f"{kind.name} out of place at {after}"
                yield _vector(name, after, _frame(t=kind.value), **_INVALID)


if __name__ == "__main__":
    main()
