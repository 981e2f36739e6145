"""Messages as JSON: the shapes HTTP clients see, and every refusal with its field's name."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostnode.errors import InvalidArgumentError
from ostnode.ids import NULL_ACCESSOR, BlobId, ClusterId, GrantId, Principal, PrincipalKind, Uid
from ostnode.wire import jsonmap
from ostnode.wire import messages as m
from ostnode.wire.calls import CALLS
from ostnode.wire.fields import Message, Request
from ostnode.wire.jsonmap import from_json, to_json
from ostnode.wire.status import BucketStatus, ClusterInfo

BLOB = BlobId(bytes(range(32)))
KEY = Principal(bytes([7]) * 32)
OTHER = Principal(bytes([9]) * 32)
UID = Uid(b"\x01" * 8)
GRANT = GrantId(b"\x02" * 16)
USR = KEY.text(PrincipalKind.USER)
ACC = KEY.text(PrincipalKind.ACCESSOR)

MESSAGES = [
    m.Ok(),
    m.BatchResult((m.ItemResult(), m.ItemResult("user_exists", "taken"))),
    m.ChangeUsers((m.UserChange("register", KEY, 10), m.UserChange("delete", OTHER))),
    m.GetUser(),
    m.GetUser(KEY),
    m.UserInfo(KEY, UID, m.Allowance(1, 2, 3), "refuse", blocked=False),
    m.Allocation(
        b"\xff\xfe", GRANT, 5, m.BucketAddress(OTHER, "http://h"), 1, True, m.Allowance(1, 0, 1)
    ),
    m.UploadInfo(GRANT, 9, 4, b"\x01", 0),
    m.PushResult(0, m.BlobReference(BLOB, 3, OTHER, UID, (KEY, NULL_ACCESSOR), b"")),
    m.RemoveReferences((m.ReferenceKey(BLOB, UID, NULL_ACCESSOR, b"r"),)),
    m.BlobInfo(1, "image/png", None, 0, 2),
    ClusterInfo(
        ClusterId(bytes(16)), KEY, 1, 2, 3, 4, 5, 6, 7, 8,
        (BucketStatus(OTHER, "active", "http://b", 1, m.Space(3, 2, 1), 4, 5, 6),),
    ),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_way_through_json_text(message: Message) -> None:
    assert from_json(type(message), json.loads(json.dumps(to_json(message)))) == message


def test_every_call_and_result_has_a_json_form() -> None:
    for spec in CALLS:
        for cls in (spec.request, spec.result):
            names = {field.name for field in jsonmap._fields_of(cls)}
            assert names == {field.name for field in fields(cls)} == set(get_type_hints(cls))


def test_shapes_are_hex_bech32m_base64url_and_integers() -> None:
    reference = m.BlobReference(BLOB, 3, OTHER, UID, (KEY,), b"\xfb\xff")
    assert to_json(m.PushResult(0, reference)) == {
        "missing": 0,
        "reference": {
            "blob_id": BLOB.hex(),
            "size": 3,
            "bucket": OTHER.text(PrincipalKind.BUCKET),
            "owner": UID.hex(),
            "accessors": [ACC],
            "ref_id": "-_8",
        },
    }
    assert to_json(m.PushResult(2)) == {"missing": 2}


def test_principals_print_by_field_and_message() -> None:
    address = to_json(m.BucketAddress(KEY, "http://h"))
    assert address["principal"] == KEY.text(PrincipalKind.BUCKET)
    assert to_json(m.GetUser(KEY))["principal"] == USR
    assert str(to_json(MESSAGES[-1])["index"]).startswith("idx1q")


def test_an_owner_may_name_itself_where_an_accessor_is_expected() -> None:
    obj = {"accessor": USR, "blob_id": BLOB.hex()}
    assert from_json(m.BlobInfoRequest, obj).accessor == KEY


REFUSED = [
    (m.Allocate, [], "the body must be a JSON object"),
    (m.Allocate, {"size": 1}, "blob_id is missing"),
    (m.Allocate, {"blob_id": BLOB.hex(), "size": None}, "size is missing"),
    (m.Allocate, {"blob_id": BLOB.hex(), "size": 1, "x": 1}, "unknown field x"),
    (m.Allocate, {"blob_id": BLOB.hex().upper(), "size": 1}, "blob_id: a blob id is 64 lower"),
    (m.Allocate, {"blob_id": 7, "size": 1}, "blob_id must be text"),
    (m.Allocate, {"blob_id": BLOB.hex(), "size": -1}, "size must be 0 to"),
    (m.Allocate, {"blob_id": BLOB.hex(), "size": 1 << 63}, "size must be 0 to"),
    (m.Allocate, {"blob_id": BLOB.hex(), "size": True}, "size must be an integer"),
    (m.Allocate, {"blob_id": BLOB.hex(), "size": 1.0}, "size must be an integer"),
    (m.GetUser, {"principal": ACC}, "principal: expected a principal of kind usr"),
    (m.GetUser, {"principal": USR[:-1] + "é"}, "principal: not a principal"),
    (m.BlockPrincipal, {"principal": USR, "blocked": 1}, "blocked must be true or false"),
    (m.BlockPrincipal, {"principal": USR, "blocked": None}, "blocked is missing"),
    (m.ChangeUsers, {"changes": {}}, "changes must be a list"),
    (m.ChangeUsers, {"changes": []}, "changes must be 1 to 500 items"),
    (m.ChangeUsers, {"changes": [{"op": "x" * 65, "principal": USR}]}, r"changes\[0\].op must be"),
    (m.ChangeUsers, {"changes": [{"op": "\ud800", "principal": USR}]}, "not valid Unicode"),
    (m.ChangeUsers, {"changes": [7]}, r"changes\[0\] must be a JSON object"),
    (m.ReleaseGrant, {"grant_id": "00"}, "grant_id: a grant id is 32"),
    (m.Locate, {"accessor": ACC, "blob_id": BLOB.hex(), "token": "a"}, "token: not base64url"),
    (m.Locate, {"accessor": ACC, "blob_id": BLOB.hex(), "token": "A" * 1400}, "token must be 0 to"),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "obj", "says"), REFUSED)
def test_a_refusal_names_the_field(cls: type[Message], obj: object, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        from_json(cls, obj)


@dataclass(frozen=True, slots=True)
class Unmappable(Message):
    items: list[int]


def test_a_message_without_a_json_form_is_our_bug() -> None:
    with pytest.raises(TypeError, match="items: no JSON form"):
        from_json(Unmappable, {"items": []})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["size"]), inner),
)


@given(JSON, st.sampled_from([spec.request for spec in CALLS]))
def test_b47_any_json_is_a_message_or_a_typed_refusal(obj: object, cls: type[Request]) -> None:
    try:
        message = from_json(cls, obj)
    except InvalidArgumentError:
        return
    assert from_json(cls, to_json(message)) == message
