"""The connection's states, proofs, window and errors; bytes only, no I/O."""

from __future__ import annotations

import pytest

from ostnode.codec import encode
from ostnode.errors import (
    AllowanceExceededError,
    BusyError,
    FrameTooLargeError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OstError,
    ShuttingDownError,
    UnauthenticatedError,
    UnknownCallError,
)
from ostnode.wire import incoming as i
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply, call_of
from ostnode.wire.frames import (
    BODY_BYTES_MAX,
    HEADER_BYTES_MAX,
    LocalProtocolError,
    RemoteProtocolError,
    pack_frame,
)
from ostnode.wire.session import DEADLINE_MS_MAX, FrameKind
from ostnode.wire.states import State
from tests.support.wire_peers import (
    ALICE,
    BUCKET,
    INFO,
    MALLORY,
    PUSH,
    READ,
    accepter,
    dialler,
    drain,
    feed,
    hello,
    open_pair,
    wire,
)


def frame(body: bytes = b"", **header) -> bytes:
    return pack_frame(encode(header), body) + body


def refusal_of(connection, data: bytes) -> OstError:
    with pytest.raises(RemoteProtocolError) as caught:
        feed(connection, data)
    assert connection.state is State.CLOSED
    return caught.value.refusal


# --- handshake ----------------------------------------------------------------------------------


def test_the_handshake_proves_both_sides():
    ours, theirs = dialler(), accepter()
    assert feed(theirs, wire(ours.send_hello())) == [i.Greeted(hello(ALICE))]
    assert feed(ours, wire(theirs.send_hello())) == [i.Greeted(hello(BUCKET))]
    assert feed(theirs, wire(ours.send_proof())) == [i.Proven(ALICE.principal)]
    assert theirs.state is State.PROVING
    assert feed(ours, wire(theirs.send_proof())) == [i.Proven(BUCKET.principal)]
    assert ours.state is theirs.state is State.OPEN


def test_a_dialler_pins_the_principal_it_wants():
    ours, theirs = dialler(), accepter(MALLORY)
    feed(theirs, wire(ours.send_hello()))
    assert isinstance(refusal_of(ours, wire(theirs.send_hello())), UnauthenticatedError)


def test_an_accepter_that_cannot_sign_for_its_principal_is_refused():
    ours, theirs = dialler(), accepter(MALLORY, principal=BUCKET.principal)
    feed(theirs, wire(ours.send_hello()))
    feed(ours, wire(theirs.send_hello()))
    feed(theirs, wire(ours.send_proof()))
    assert isinstance(refusal_of(ours, wire(theirs.send_proof())), UnauthenticatedError)


def test_a_dialler_that_cannot_sign_for_its_principal_is_refused():
    ours, theirs = dialler(MALLORY, principal=ALICE.principal), accepter()
    feed(theirs, wire(ours.send_hello()))
    feed(ours, wire(theirs.send_hello()))
    assert isinstance(refusal_of(theirs, wire(ours.send_proof())), UnauthenticatedError)


def test_a_proof_for_another_channel_is_refused():
    ours, theirs = dialler(binding=b"one channel"), accepter(binding=b"another")
    feed(theirs, wire(ours.send_hello()))
    feed(ours, wire(theirs.send_hello()))
    assert isinstance(refusal_of(theirs, wire(ours.send_proof())), UnauthenticatedError)


def test_a_proof_is_good_for_one_pair_of_hellos():
    ours, theirs = dialler(), accepter()
    feed(theirs, wire(ours.send_hello()))
    feed(ours, wire(theirs.send_hello()))
    proof = wire(ours.send_proof())
    later = accepter(nonce=b"n" * 32)
    feed(later, wire(dialler().send_hello()))
    later.send_hello()
    assert isinstance(refusal_of(later, proof), UnauthenticatedError)


def test_a_proof_cannot_be_reflected():
    ours, theirs = dialler(expect=ALICE), accepter(ALICE)
    feed(theirs, wire(ours.send_hello()))
    feed(ours, wire(theirs.send_hello()))
    proof = wire(ours.send_proof())
    reflected = proof.replace(bytes([FrameKind.AUTH]) + b"isignature", b"\x03isignature")
    assert reflected != proof
    assert isinstance(refusal_of(ours, reflected), UnauthenticatedError)


def test_a_hello_changed_on_the_way_fails_the_proof():
    ours, theirs = dialler(), accepter()
    said = wire(ours.send_hello())
    tampered = said.replace(b"lroster_epoch\x00", b"lroster_epoch\x01")
    assert tampered != said
    feed(theirs, tampered)
    feed(ours, wire(theirs.send_hello()))
    assert isinstance(refusal_of(theirs, wire(ours.send_proof())), UnauthenticatedError)


def test_only_a_dialler_expects_somebody():
    with pytest.raises(ValueError, match="expects"):
        dialler(expect=type("Nobody", (), {"principal": None}))


# --- frames ------------------------------------------------------------------------------------


MALFORMED = {
    "no CBOR": pack_frame(b"\xff"),
    "empty header": pack_frame(b""),
    "not a map": pack_frame(encode([1])),
    "no kind": frame(id=1),
    "unknown kind": frame(t=11),
    "kind 0": frame(t=0),
    "a bool for HELLO": frame(t=True),
    "kind as text": frame(t="4"),
    "request without id": frame(t=4, call=19, ms=1, m={}),
    "request with more": frame(t=4, id=1, call=19, ms=1, m={}, more=1),
    "request without time": frame(t=4, id=1, call=19, ms=0, m={}),
    "request with eternal time": frame(t=4, id=1, call=19, ms=DEADLINE_MS_MAX + 1, m={}),
    "request id 0": frame(t=4, id=0, call=19, ms=1, m={}),
    "ping with a body": frame(b"x", t=8, token=1),
    "goaway with a body": frame(b"x", t=10, code="busy", message=""),
    "cancel without id": frame(t=7),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_b47_malformed_frames_end_the_connection_with_a_typed_error(data):
    _, theirs = open_pair()
    error = refusal_of(theirs, data)
    assert isinstance(error, InvalidArgumentError)
    theirs.send_goaway(error)
    with pytest.raises(LocalProtocolError):
        theirs.next_event()


def test_b47_a_frame_over_the_limit_is_named_as_such():
    _, theirs = open_pair()
    prefix = (10).to_bytes(4, "big") + (BODY_BYTES_MAX + 1).to_bytes(4, "big")
    assert isinstance(refusal_of(theirs, prefix), FrameTooLargeError)


# --- requests -----------------------------------------------------------------------------------


def test_a_request_and_its_reply_with_bodies():
    ours, theirs = open_pair()
    request_id, outgoing = ours.send_request(PUSH, 1500, b"chunk")
    (event,) = feed(theirs, wire(outgoing))
    assert event == i.RequestReceived(request_id, call_of(m.PushChunk), PUSH, b"chunk", 1500)
    assert ours.in_flight == theirs.in_flight == 1
    answer = theirs.send_reply(request_id, Reply(m.PushResult(3)))
    assert feed(ours, wire(answer)) == [i.Answered(request_id, Reply(m.PushResult(3)))]
    assert ours.in_flight == theirs.in_flight == 0


def test_answers_come_in_any_order():
    ours, theirs = open_pair()
    first, one = ours.send_request(READ, 1000)
    second, two = ours.send_request(READ, 1000)
    feed(theirs, wire(one) + wire(two))
    glued = wire(theirs.send_reply(second, Reply(INFO, b"2"))) + wire(
        theirs.send_reply(first, Reply(INFO, b"1"))
    )
    assert feed(ours, glued) == [
        i.Answered(second, Reply(INFO, b"2")),
        i.Answered(first, Reply(INFO, b"1")),
    ]


def test_a_refusal_comes_back_as_the_same_error():
    ours, theirs = open_pair()
    request_id, outgoing = ours.send_request(READ, 1000)
    feed(theirs, wire(outgoing))
    error = AllowanceExceededError("too much", limit=10, used=9, reserved=1, needed=2)
    (event,) = feed(ours, wire(theirs.send_refusal(request_id, error)))
    assert type(event.outcome) is AllowanceExceededError
    assert event.outcome.message == "too much"
    assert event.outcome.details == {"limit": 10, "used": 9, "reserved": 1, "needed": 2}


def test_any_error_can_be_told_however_large():
    ours, theirs = open_pair()
    request_id, outgoing = ours.send_request(READ, 1000)
    feed(theirs, wire(outgoing))
    many = {f"d{n}": "é" * 5000 for n in range(100)}
    error = NotFoundError("x" * 5000, number=1 << 70, **many)
    (event,) = feed(ours, wire(theirs.send_refusal(request_id, error)))
    assert type(event.outcome) is NotFoundError
    assert event.outcome.message == "x" * 500


def test_an_error_of_a_newer_version_is_internal_and_hostile_details_are_harmless():
    ours, _ = open_pair()
    request_id, _ = ours.send_request(READ, 1000)
    details = {"message": "m", "self": 1, "list": [1], "null": None}
    data = frame(t=6, id=request_id, code="from_the_future", message="later", details=details)
    (event,) = feed(ours, data)
    assert type(event.outcome) is InternalError
    assert event.outcome.message == "later"
    assert event.outcome.details == {"message": "m", "self": 1}


@pytest.mark.parametrize(
    ("header", "body", "error"),
    [
        ({"call": 99, "m": {}}, b"", UnknownCallError),
        ({"call": 19, "m": {}}, b"", InvalidArgumentError),
        ({"call": 19}, b"", InvalidArgumentError),
        ({"call": 14, "m": {"blob_id": b"B" * 32}}, b"body", InvalidArgumentError),
        ({"call": 14, "m": {"blob_id": b"B" * 32, "more": 1}}, b"", InvalidArgumentError),
    ],
    ids=["unknown call", "missing field", "no message", "body where none goes", "unknown field"],
)
def test_b47_a_malformed_request_is_refused_and_harms_nothing(header, body, error):
    _, theirs = open_pair()
    (event,) = feed(theirs, frame(body, t=4, id=1, ms=1, **header))
    assert isinstance(event, i.RequestMalformed)
    assert isinstance(event.error, error)
    assert theirs.in_flight == 1
    theirs.send_refusal(event.id, event.error)
    assert theirs.state is State.OPEN
    assert theirs.in_flight == 0


@pytest.mark.parametrize(
    ("body", "fields"), [(b"", {}), (b"", None), (b"x", {"missing": 1})], ids=str
)
def test_b47_a_malformed_reply_fails_its_request_alone(body, fields):
    ours, _ = open_pair()
    request_id, _ = ours.send_request(PUSH, 1000)
    (event,) = feed(ours, frame(body, t=5, id=request_id, m=fields))
    assert isinstance(event.outcome, InternalError)
    assert ours.state is State.OPEN


def test_b47_an_answer_to_nothing_ends_the_connection():
    ours, _ = open_pair()
    assert isinstance(refusal_of(ours, frame(t=5, id=1, m={})), InvalidArgumentError)


def test_b47_a_request_id_never_comes_twice():
    ours, theirs = open_pair()
    request_id, outgoing = ours.send_request(READ, 1000)
    feed(theirs, wire(outgoing))
    theirs.send_refusal(request_id, NotFoundError())
    assert isinstance(refusal_of(theirs, wire(outgoing)), InvalidArgumentError)


def test_an_answer_goes_out_once():
    ours, theirs = open_pair()
    request_id, outgoing = ours.send_request(READ, 1000)
    feed(theirs, wire(outgoing))
    theirs.send_refusal(request_id, NotFoundError())
    with pytest.raises(LocalProtocolError):
        theirs.send_refusal(request_id, NotFoundError())


def test_what_is_out_of_bounds_does_not_go_out_and_changes_nothing():
    ours, theirs = open_pair()
    with pytest.raises(InvalidArgumentError, match="length"):
        ours.send_request(m.ReadBlob(READ.accessor, READ.blob_id, 0, -1), 1000)
    assert ours.in_flight == 0
    request_id, outgoing = ours.send_request(READ, 1000)
    assert request_id == 1
    feed(theirs, wire(outgoing))
    with pytest.raises(FrameTooLargeError):
        theirs.send_reply(request_id, Reply(INFO, bytes(BODY_BYTES_MAX + 1)))
    assert theirs.in_flight == 1


@pytest.mark.parametrize(("ms", "sent"), [(0, 1), (-5, 1), (10**12, DEADLINE_MS_MAX)])
def test_deadlines_are_brought_within_bounds(ms, sent):
    ours, theirs = open_pair()
    (event,) = feed(theirs, wire(ours.send_request(READ, ms)[1]))
    assert event.ms == sent


# --- window -------------------------------------------------------------------------------------


def test_the_window_of_requests_holds_on_both_sides():
    ours, theirs = open_pair(window_requests=2)
    sent = b"".join(wire(ours.send_request(READ, 1000)[1]) for _ in range(2))
    assert len(feed(theirs, sent)) == 2
    assert not ours.room_for(0)
    with pytest.raises(LocalProtocolError):
        ours.send_request(READ, 1000)
    over = frame(t=4, id=3, call=14, ms=1, m={"blob_id": b"B" * 32})
    assert isinstance(refusal_of(theirs, over), BusyError)


def test_the_window_of_bytes_holds_on_both_sides():
    ours, theirs = open_pair()
    _, outgoing = ours.send_request(PUSH, 1000, bytes(BODY_BYTES_MAX))
    feed(theirs, wire(outgoing))
    assert ours.room_for(0)
    assert not ours.room_for(1)
    fields = {"grant": b"g", "chunk_index": 0}
    over = frame(b"x", t=4, id=2, call=13, ms=1, m=fields)
    assert isinstance(refusal_of(theirs, over), BusyError)


def test_an_answer_makes_room():
    ours, theirs = open_pair(window_requests=1)
    request_id, outgoing = ours.send_request(PUSH, 1000, bytes(BODY_BYTES_MAX))
    feed(theirs, wire(outgoing))
    feed(ours, wire(theirs.send_refusal(request_id, NotFoundError())))
    assert ours.room_for(BODY_BYTES_MAX)
    _, again = ours.send_request(PUSH, 1000, bytes(BODY_BYTES_MAX))
    assert len(feed(theirs, wire(again))) == 1


# --- the rest -----------------------------------------------------------------------------------


def test_cancel_ping_and_pong():
    ours, theirs = open_pair()
    request_id, outgoing = ours.send_request(READ, 1000)
    data = wire(outgoing) + wire(ours.send_cancel(request_id)) + wire(ours.send_ping(7))
    assert feed(theirs, data)[1:] == [i.CancelReceived(request_id), i.PingReceived(7)]
    assert feed(ours, wire(theirs.send_pong(7))) == [i.PongReceived(7)]
    assert theirs.in_flight == 1


def test_a_retryable_goaway_lets_requests_in_flight_finish():
    ours, theirs = open_pair()
    request_id, outgoing = ours.send_request(READ, 1000)
    feed(theirs, wire(outgoing))
    (event,) = feed(ours, wire(theirs.send_goaway(ShuttingDownError("bye"))))
    assert isinstance(event.error, ShuttingDownError)
    assert not event.final
    with pytest.raises(LocalProtocolError):
        ours.send_request(READ, 1000)
    (answer,) = feed(ours, wire(theirs.send_reply(request_id, Reply(INFO))))
    assert answer.outcome == Reply(INFO)


@pytest.mark.parametrize("code", ["internal", "invalid_argument", "unheard_of"])
def test_any_other_goaway_is_the_end(code):
    ours, _ = open_pair()
    (event,) = feed(ours, frame(t=10, code=code, message="m"))
    assert event.final
    assert ours.state is State.CLOSED


@pytest.mark.parametrize(("data", "clean"), [(b"", True), (b"\x00", False)])
def test_the_end_of_the_stream(data, clean):
    _, theirs = open_pair()
    assert feed(theirs, data, end=True) == [i.Closed(clean=clean)]
    assert theirs.state is State.CLOSED


def test_frames_before_the_end_still_count():
    ours, theirs = open_pair()
    data = wire(ours.send_ping(1))
    buffer = theirs.buffer()
    buffer[: len(data)] = data
    theirs.received(len(data))
    theirs.received(0)
    assert drain(theirs) == [i.PingReceived(1), i.Closed(clean=True)]


def test_the_largest_request_fits():
    ours, theirs = open_pair()
    event = b"e" * 127
    space = m.Space(1, 1, 1)
    request = m.SyncBucket(1, 1, (event,) * 500, space, "")
    _, outgoing = ours.send_request(request, 1000)
    assert len(outgoing[0]) < HEADER_BYTES_MAX
    (received,) = feed(theirs, wire(outgoing))
    assert received.request == request
