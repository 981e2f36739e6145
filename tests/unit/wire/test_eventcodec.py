"""Events as bytes with a kind, and batches that fit a frame."""

from __future__ import annotations

import pytest

from ostnode.codec import encode
from ostnode.errors import InvalidArgumentError
from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.wire import events
from ostnode.wire import messages as m
from ostnode.wire.eventcodec import decode_event, encode_event, fitting
from ostnode.wire.schema import encode_message

UID = Uid(b"12345678")
BLOB = BlobId(b"b" * 32)
GRANT = GrantId(b"g" * 16)
ALICE = Principal(b"a" * 32)
BIG = (1 << 63) - 1


@pytest.mark.parametrize(
    ("event", "union"),
    [
        (events.Completed(GRANT, UID, BLOB, 5), events.OutboxEvent),
        (events.GrantClosed(GRANT, UID, BLOB, "cancelled"), events.OutboxEvent),
        (events.Released(UID, BLOB, 5), events.OutboxEvent),
        (events.Evicted(UID, BLOB), events.OutboxEvent),
        (events.FloorRaised(17), events.OutboxEvent),
        (events.UserChanged(UID, ALICE, 1, 2, deleted=True), events.FeedEvent),
        (events.AccessorDeleted(ALICE), events.FeedEvent),
        (events.PrincipalBlocked(ALICE, blocked=True, version=2), events.FeedEvent),
        (events.GrantRevoked(GRANT, UID, BLOB, 9), events.FeedEvent),
        (events.GrantRecalled(GRANT, UID, BLOB), events.FeedEvent),
        (events.EvictBlob(UID, BLOB), events.FeedEvent),
        (events.BlobBlocked(BLOB, blocked=True, version=2), events.FeedEvent),
        (events.FloorRaised(17), events.FloorRaised),
    ],
)
def test_round_trip(event, union):
    data = encode_event(event)
    assert decode_event(data, union) == event


def test_the_kind_is_the_class_name_in_snake_case():
    assert encode_event(events.FloorRaised(1)) == encode({"kind": "floor_raised", "floor": 1})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        encode([]),
        encode({"floor": 1}),
        encode({"kind": 1, "floor": 1}),
        encode({"kind": "user_changed", "floor": 1}),
        encode({"kind": "floor_raised"}),
        encode({"kind": "floor_raised", "floor": -1}),
        encode({"kind": "floor_raised", "floor": 1, "more": 1}),
    ],
)
def test_b31_a_malformed_event_is_a_typed_refusal(data):
    with pytest.raises(InvalidArgumentError):
        decode_event(data, events.OutboxEvent)


def test_a_full_batch_of_the_largest_events_fits_one_header():
    event = encode_event(events.GrantClosed(GRANT, UID, BLOB, "x" * 64))
    batch = fitting([event] * 1000)
    assert 0 < len(batch) < 500
    request = m.SyncBucket(BIG, BIG, batch, m.Space(BIG, BIG, BIG), "h" * 255)
    encode_message(request)
    assert fitting(batch) == batch


def test_a_batch_of_small_events_is_bounded_in_number():
    event = encode_event(events.FloorRaised(1))
    assert len(fitting([event] * 1000)) == 500
    assert fitting([]) == ()
