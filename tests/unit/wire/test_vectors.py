"""The code meets every vector, and every kind of frame, message and refusal has one."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from ostnode import codec
from ostnode.codec import decode, encode
from ostnode.errors import InvalidArgumentError, OstError, all_errors
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import Principal
from ostnode.wire import connection as connection_module
from ostnode.wire import events, frames, handshake
from ostnode.wire import incoming as i
from ostnode.wire.calls import CALLS
from ostnode.wire.eventcodec import decode_event
from ostnode.wire.frames import PREFIX, RemoteProtocolError
from ostnode.wire.schema import decode_message
from ostnode.wire.session import FrameKind, Side, auth_statement
from ostnode.wire.states import State, Way, step
from tests.support.cddl import MismatchError, Validator
from tests.support.cddlrules import load as load_rules
from tests.support.cddlrules import rule_name
from tests.support.vectors import (
    connection,
    fields_of,
    from_parts,
    load,
    outcome,
    plain,
    prepared,
    send,
    to_parts,
)
from tests.support.wire_peers import feed
from tests.support.wire_samples import EVENTS, message_classes

CBOR, MESSAGES, AUTH, FRAMES = (load(name) for name in ("cbor", "messages", "auth", "frames"))
CLASSES = {rule_name(cls): cls for cls in message_classes()}
VALIDATOR = Validator(load_rules())
ADD = "run `python -m tests.vectors.write_vectors`, look at what it adds, and commit it"


def named(rows: list[dict]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", rows, ids=lambda vector: vector["name"])


CHANGED = (
    "this was refused, and nodes of before refuse it. If it is meant to be taken from now on, "
    f"take the vector out by hand; then {ADD}"
)


def refused(error: type[Exception], work: Callable[..., object], *arguments: object) -> bool:
    try:
        work(*arguments)
    except error:
        return True
    return False


def read(cls: type, data: bytes) -> object:
    """A message or an event in strict CBOR."""
    if cls in EVENTS:
        union = events.OutboxEvent if cls in get_args(events.OutboxEvent) else events.FeedEvent
        return decode_event(data, union)
    return decode_message(cls, data)


# --- strict CBOR and messages -------------------------------------------------------------------


@named(CBOR["valid"])
def test_valid_cbor_is_its_value_and_the_only_encoding_of_it(vector: dict) -> None:
    data = from_parts(vector["cbor"])
    value = decode(data)
    assert plain(value) == vector["value"]
    assert encode(value) == data


@named(CBOR["invalid"])
def test_b47_invalid_cbor_is_refused(vector: dict) -> None:
    with pytest.raises(InvalidArgumentError):
        decode(from_parts(vector["cbor"]))


@named(MESSAGES["valid"])
def test_a_valid_message_says_its_fields(vector: dict) -> None:
    data = from_parts(vector["cbor"])
    VALIDATOR.check_bytes(vector["rule"], data)
    message = read(CLASSES[vector["rule"]], data)
    assert type(message) is CLASSES[vector["rule"]]
    assert fields_of(message) == vector["fields"]


@named(MESSAGES["invalid"])
def test_b47_an_invalid_message_is_refused(vector: dict) -> None:
    data = from_parts(vector["cbor"])
    assert refused(MismatchError, VALIDATOR.check_bytes, vector["rule"], data), CHANGED
    assert refused(InvalidArgumentError, read, CLASSES[vector["rule"]], data), CHANGED


# --- proofs -------------------------------------------------------------------------------------


@named(AUTH["statements"])
def test_a_statement_and_its_signature_follow_from_the_hellos(vector: dict) -> None:
    key = KeyPair.from_seed(bytes.fromhex(vector["seed"]))
    said = {name: bytes.fromhex(vector[name]) for name in ("dialler_hello", "accepter_hello")}
    side, binding = Side[vector["side"].upper()], bytes.fromhex(vector["binding"])
    statement = auth_statement(side, *said.values(), binding)
    assert key.principal.hex() == vector["principal"]
    assert statement.hex() == vector["statement"]
    assert key.sign(statement).hex() == vector["signature"]
    assert verify(key.principal, statement, bytes.fromhex(vector["signature"]))
    hello = decode(said[f"{vector['side']}_hello"])
    assert isinstance(hello, dict)
    assert Principal(hello["principal"]) == key.principal


@named(AUTH["sessions"])
def test_b47_a_proof_is_taken_or_refused_as_it_deserves(vector: dict) -> None:
    end = connection(Side.ACCEPTER, bytes.fromhex(vector["binding"]))
    feed(end, bytes.fromhex(vector["hello"]))
    send(end, bytes.fromhex(vector["answer"]))
    assert outcome(end, bytes.fromhex(vector["auth"])) == vector["expect"]


# --- frames -------------------------------------------------------------------------------------


@named(FRAMES["vectors"])
def test_b47_a_frame_makes_what_it_should(vector: dict) -> None:
    end = prepared(vector, FRAMES["preludes"])
    data = from_parts(vector["receive"])
    assert outcome(end, data, ended=vector.get("ended", False)) == vector["expect"]
    final = vector["expect"].get("final") or "ends" in vector["expect"] or vector.get("ended")
    assert (end.state is State.CLOSED) == bool(final)


# --- nothing is left out ------------------------------------------------------------------------


def test_every_message_has_vectors() -> None:
    for section in ("valid", "invalid"):
        missing = CLASSES.keys() - {vector["rule"] for vector in MESSAGES[section]}
        assert not missing, f"{section}: {sorted(missing)}: {ADD}"


def test_every_call_has_vectors() -> None:
    asked = {v["expect"].get("call") for v in FRAMES["vectors"]}
    names = {vector["name"] for vector in FRAMES["vectors"]}
    for spec in CALLS:
        assert spec.number in asked, f"{spec.name}: {ADD}"
        assert f"REPLY of {spec.name}, full" in names, f"{spec.name}: {ADD}"


def test_every_error_has_vectors() -> None:
    told = {
        (vector["expect"]["event"], vector["expect"].get("code"))
        for vector in FRAMES["vectors"]
        if "event" in vector["expect"]
    }
    for error in all_errors():
        assert {("refusal", error.code), ("goaway", error.code)} <= told, f"{error.code}: {ADD}"


def kind_in(data: bytes) -> FrameKind | None:
    header = data[PREFIX.size :][: PREFIX.unpack_from(data)[0]]
    try:
        return FrameKind(decode(header)["t"])  # type: ignore[index,arg-type]
    except (InvalidArgumentError, KeyError, TypeError, ValueError):
        return None


def test_every_frame_is_there_good_bad_and_out_of_place() -> None:
    good, bad, placed = set(), set(), set()
    for vector in FRAMES["vectors"]:
        data = from_parts(vector["receive"])
        kind = kind_in(data) if len(data) > PREFIX.size else None
        if kind is None:
            continue
        (bad if "ends" in vector["expect"] else good).add(kind)
        if "out of place" in vector["name"]:
            placed.add((vector["after"], kind))
    assert good == bad == set(FrameKind), ADD
    states = {
        "accepter start": (Side.ACCEPTER, State.START),
        "accepter greeted": (Side.ACCEPTER, State.GREETED),
        "accepter open": (Side.ACCEPTER, State.OPEN),
        "dialler greeting": (Side.DIALLER, State.GREETING),
        "dialler proving": (Side.DIALLER, State.PROVING),
        "dialler open": (Side.DIALLER, State.OPEN),
    }
    wanted = {
        (after, kind)
        for after, (side, state) in states.items()
        for kind in FrameKind
        if step(side, state, Way.RECEIVE, kind) is None
    }
    assert placed == wanted, ADD


ERRORS = {error.__name__ for error in all_errors()} | {"_refusal"}
OURS_ALONE = (
    "CBOR nests deeper than",
    "items of CBOR",
    "bytes of CBOR are over the limit",
    "a text holds half of a surrogate pair",
    "does not start with the tag",
)
"""What is said of values that we would send, and of COSE."""


def reasons(module: object) -> set[str]:
    """Every refusal that a module makes, as a pattern for its words."""
    tree = ast.parse(Path(module.__file__).read_text())  # type: ignore[attr-defined]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS and node.args:
            found.add(pattern_of(node.args[0]))
    return found - {None}


def pattern_of(node: ast.expr) -> str | None:
    match node:
        case ast.Constant(str(text)):
            return re.escape(text)
        case ast.JoinedStr(parts):
            return "".join(
                re.escape(part.value) if isinstance(part, ast.Constant) else ".*" for part in parts
            )
        case _:
            return None


def words_of(error: object) -> str:
    return error.message if isinstance(error, OstError) else ""


def told_by_vectors() -> set[str]:
    """The words of every refusal that a vector meets."""
    told = set()
    for vector in CBOR["invalid"]:
        with pytest.raises(InvalidArgumentError) as caught:
            decode(from_parts(vector["cbor"]))
        told.add(caught.value.message)
    for vector in FRAMES["vectors"]:
        end = prepared(vector, FRAMES["preludes"])
        try:
            for event in feed(end, from_parts(vector["receive"])):
                match event:
                    case i.RequestMalformed(_, error) | i.Answered(_, error):
                        told.add(words_of(error))
        except RemoteProtocolError as error:
            told.add(error.refusal.message)
    return told


def test_every_refusal_has_a_vector() -> None:
    told = told_by_vectors()
    for module in (codec, connection_module, frames, handshake):
        for reason in reasons(module):
            said = any(re.search(reason, words, re.DOTALL) for words in told)
            ours = any(words in reason.replace("\\", "") for words in OURS_ALONE)
            assert said or ours, f"{module.__name__}: no vector is refused for: {reason}"


# --- how they are written down ------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"abc", bytes(600), b"abc" + bytes(2000) + b"def", bytes(1024) + b"ab" * 1024],
    ids=len,
)
def test_bytes_come_back_from_how_they_are_written_down(data: bytes) -> None:
    parts = to_parts(data)
    assert from_parts(parts) == data
    assert len(str(parts)) < 600


@pytest.mark.parametrize("rows", [*CBOR.values(), *MESSAGES.values(), *AUTH.values()], ids=len)
def test_names_are_unique(rows: list[dict]) -> None:
    assert len({row["name"] for row in rows}) == len(rows)
