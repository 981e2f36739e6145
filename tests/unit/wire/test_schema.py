"""Messages to maps and back: presence, bounds, and errors that name the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest

from ostnode.codec import CBOR_ITEMS_MAX, encode
from ostnode.errors import InvalidArgumentError
from ostnode.ids import SIZE_MAX, BlobId, Principal, Uid
from ostnode.wire import calls
from ostnode.wire import messages as m
from ostnode.wire.fields import Bounds, Message
from ostnode.wire.schema import decode_message, encode_message, from_map, to_map

ALICE = Principal(b"a" * 32)
BLOB = BlobId(b"b" * 32)
REFERENCE = m.BlobReference(BLOB, 7, Principal(b"c" * 32), Uid(b"12345678"), (ALICE,), b"r")

SAMPLES = [
    m.Ok(),
    m.PushResult(0, REFERENCE),
    m.PushResult(3),
    m.ChangeUsers((m.UserChange("register", ALICE, 10), m.UserChange("delete", ALICE))),
    m.GetUser(),
    m.GetUser(ALICE),
    m.BlobInfo(1, "text/plain", None, 5, 0),
    m.UserInfo(ALICE, Uid(bytes(8)), m.Allowance(3, 2, 1), "refuse", blocked=False),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_round_trip(message):
    assert decode_message(type(message), encode_message(message)) == message


@pytest.mark.parametrize("spec", calls.CALLS, ids=lambda spec: spec.name)
def test_every_call_of_the_registry_compiles(spec):
    for cls in (spec.request, spec.result):
        with pytest.raises(InvalidArgumentError, match=r"no field 'no_such_field'|missing"):
            from_map(cls, {"no_such_field": 1})


def test_values_come_back_as_their_own_types():
    back = decode_message(m.PushResult, encode_message(m.PushResult(0, REFERENCE)))
    assert type(back.reference) is m.BlobReference
    assert type(back.reference.owner) is Uid
    assert type(back.reference.accessors) is tuple
    assert type(back.reference.accessors[0]) is Principal


def test_none_is_left_out_and_defaults_are_written():
    assert to_map(m.GetUser()) == {}
    assert to_map(m.UserChange("delete", ALICE)) == {
        "op": "delete",
        "principal": ALICE,
        "byte_limit": 0,
        "on_full": "refuse",
    }


def test_absent_fields_take_their_defaults():
    change = from_map(m.UserChange, {"op": "delete", "principal": bytes(ALICE)})
    assert change == m.UserChange("delete", ALICE, 0, "refuse")


REFUSED = {
    "not a map": (m.Ok, [], "a Ok is a map"),
    "missing": (m.Allocate, {"size": 1}, "^blob_id: missing"),
    "unknown": (m.Ok, {"x": 1}, "no field 'x'"),
    "explicit null": (m.GetUser, {"principal": None}, "^principal: expected bytes"),
    "wrong type": (m.Allocate, {"blob_id": b"b" * 32, "size": "1"}, "^size: expected int"),
    "bool for int": (m.Allocate, {"blob_id": b"b" * 32, "size": True}, "^size: expected int"),
    "int for bool": (
        m.BlockPrincipal,
        {"principal": b"a" * 32, "blocked": 1},
        "^blocked: expected bool",
    ),
    "text for bytes": (m.Allocate, {"blob_id": "b" * 32, "size": 1}, "^blob_id: expected bytes"),
    "wrong length": (m.Allocate, {"blob_id": b"b", "size": 1}, "^blob_id: a blob id has 32"),
    "below": (m.Allocate, {"blob_id": b"b" * 32, "size": -1}, "^size: value -1 is not in 0"),
    "above": (m.Allocate, {"blob_id": b"b" * 32, "size": SIZE_MAX + 1}, "^size: value"),
    "text too long": (
        m.UserChange,
        {"op": "x" * 65, "principal": b"a" * 32},
        "^op: length 65 is not in 0..64",
    ),
    "list for a tuple": (m.ChangeUsers, {"changes": {}}, "^changes: expected a list"),
    "list empty": (m.ChangeUsers, {"changes": []}, "^changes: length 0"),
    "list too long": (m.ChangeUsers, {"changes": [0] * 501}, "^changes: length 501"),
    "inside a list": (
        m.ChangeUsers,
        {"changes": [{"op": "delete", "principal": b"a" * 32}, {"op": "delete"}]},
        r"^changes: \[1\]: principal: missing",
    ),
}


@pytest.mark.parametrize(("cls", "value", "message"), REFUSED.values(), ids=REFUSED)
def test_parsing_names_the_bad_field(cls, value, message):
    with pytest.raises(InvalidArgumentError, match=message):
        from_map(cls, value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (m.Allocate(BLOB, SIZE_MAX + 1), "^size: value"),
        (m.Allocate(b"b" * 32, 1), "^blob_id: expected BlobId"),
        (m.ChangeUsers(()), "^changes: length 0"),
        (m.ChangeUsers([m.UserChange("delete", ALICE)]), "^changes: expected tuple"),
        (m.ChangeUsers((m.UserChange("x" * 65, ALICE),)), r"^changes: \[0\]: op: length 65"),
        (m.UserInfo(ALICE, Uid(bytes(8)), None, "", blocked=False), "^allowance: "),
        (m.PushResult(0, m.Ok()), "^reference: "),
    ],
)
def test_building_names_the_bad_field(bad, message):
    with pytest.raises(InvalidArgumentError, match=message):
        to_map(bad)


@dataclass(frozen=True, slots=True)
class Floating(Message):
    x: float


@dataclass(frozen=True, slots=True)
class Listing(Message):
    x: list[int]


@dataclass(frozen=True, slots=True)
class Annotation(Message):
    x: Annotated[int, "metres"]


@dataclass(frozen=True, slots=True)
class Ambiguous(Message):
    x: int | None = 5


@dataclass(frozen=True, slots=True)
class Endless(Message):
    x: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Crowded(Message):
    x: Annotated[tuple[m.Allowance, ...], Bounds(0, CBOR_ITEMS_MAX // 4)]


@dataclass(frozen=True, slots=True)
class BoundedTruth(Message):
    x: Annotated[bool, Bounds(0, 1)]


@pytest.mark.parametrize(
    "cls", [Floating, Listing, Annotation, Ambiguous, Endless, Crowded, BoundedTruth]
)
def test_classes_that_could_not_travel_are_refused_when_compiled(cls):
    with pytest.raises(TypeError):
        from_map(cls, {})


def test_entries_beside_the_fields_stand_in_the_order_of_a_map():
    beside = {"zz": encode("last"), "a": encode([1, None])}
    data = encode_message(m.Allocate(BLOB, 7), beside)
    assert data == encode({"blob_id": BLOB, "size": 7, "zz": "last", "a": [1, None]})


def test_an_entry_beside_cannot_pass_for_a_field():
    with pytest.raises(TypeError, match="fields of its own"):
        encode_message(m.Allocate(BLOB, 7), {"size": encode(8)})


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_is_written_as_the_codec_writes_its_map(message):
    assert encode_message(message) == encode(to_map(message))
