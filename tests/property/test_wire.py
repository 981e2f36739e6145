"""The peer protocol against arbitrary bytes, cuts and messages."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from ostnode.codec import encode
from ostnode.errors import FrameTooLargeError, InvalidArgumentError, OstError
from ostnode.ids import SIZE_MAX, BlobId, GrantId, Principal, Uid
from ostnode.wire import events
from ostnode.wire import incoming as i
from ostnode.wire import messages as m
from ostnode.wire.calls import CALLS, Reply
from ostnode.wire.eventcodec import decode_event, encode_event
from ostnode.wire.frames import HEADER_BYTES_MAX, RemoteProtocolError, pack_frame
from ostnode.wire.schema import decode_message, encode_message, from_map
from ostnode.wire.session import FrameKind
from ostnode.wire.states import State
from tests.property.test_codec import NEARLY_CBOR, VALUES
from tests.support.wire_peers import (
    INFO,
    PUSH,
    READ,
    accepter,
    dialler,
    feed,
    open_pair,
    wire,
)

AMOUNTS = st.integers(0, SIZE_MAX)
PRINCIPALS = st.binary(min_size=32, max_size=32).map(Principal)
BLOBS = st.binary(min_size=32, max_size=32).map(BlobId)
UIDS = st.binary(min_size=8, max_size=8).map(Uid)
GRANTS = st.binary(min_size=16, max_size=16).map(GrantId)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ACCESSORS = st.lists(PRINCIPALS, max_size=5).map(tuple)
REF_IDS = st.binary(max_size=16)
REFERENCES = st.builds(m.BlobReference, BLOBS, AMOUNTS, PRINCIPALS, UIDS, ACCESSORS, REF_IDS)
MESSAGES = st.one_of(
    st.builds(m.PushResult, AMOUNTS, st.none() | REFERENCES),
    st.builds(
        m.PushChunk,
        st.binary(min_size=1, max_size=1024),
        st.integers(0, (1 << 32) - 1),
        ACCESSORS,
        REF_IDS,
        TEXT,
        st.none() | TEXT.filter(bool),
        AMOUNTS,
    ),
    st.builds(m.GetUser, st.none() | PRINCIPALS),
    st.lists(st.builds(m.UserChange, TEXT, PRINCIPALS, AMOUNTS, TEXT), min_size=1, max_size=9).map(
        lambda changes: m.ChangeUsers(tuple(changes))
    ),
)
EVENTS = st.one_of(
    st.builds(events.Completed, GRANTS, UIDS, BLOBS, AMOUNTS),
    st.builds(events.GrantClosed, GRANTS, UIDS, BLOBS, TEXT),
    st.builds(events.Released, UIDS, BLOBS, AMOUNTS),
    st.builds(events.FloorRaised, AMOUNTS),
)


@given(MESSAGES)
def test_a_message_comes_back(message):
    assert decode_message(type(message), encode_message(message)) == message


@given(EVENTS)
def test_an_event_comes_back(event):
    assert decode_event(encode_event(event), events.OutboxEvent) == event


@given(st.sampled_from([cls for spec in CALLS for cls in (spec.request, spec.result)]), VALUES)
def test_b47_any_map_is_a_message_or_a_typed_refusal(cls, value):
    try:
        message = from_map(cls, value)
    except InvalidArgumentError:
        return
    assert decode_message(cls, encode_message(message)) == message


@given(NEARLY_CBOR)
def test_b31_any_bytes_are_an_event_or_a_typed_refusal(data):
    try:
        event = decode_event(data, events.FeedEvent)
    except InvalidArgumentError:
        return
    assert encode_event(event) == data


def conversation() -> tuple[list[bytes], list[bytes]]:
    """Every frame that a dialler and an accepter say in one session."""
    ours, theirs = dialler(), accepter()
    there, back = [wire(ours.send_hello())], []
    feed(theirs, there[0])
    back.append(wire(theirs.send_hello()))
    feed(ours, back[0])
    there.append(wire(ours.send_proof()))
    feed(theirs, there[1])
    back.append(wire(theirs.send_proof()))
    feed(ours, back[1])
    for _ in range(2):
        read, outgoing = ours.send_request(READ, 1000)
        push, more = ours.send_request(PUSH, 1000, bytes(300))
        there += [wire(outgoing), wire(more), wire(ours.send_ping(3)), wire(ours.send_cancel(push))]
        feed(theirs, b"".join(there[-4:]))
        back += [
            wire(theirs.send_refusal(push, InvalidArgumentError("no"))),
            wire(theirs.send_pong(3)),
            wire(theirs.send_reply(read, Reply(INFO, bytes(500)))),
        ]
        feed(ours, b"".join(back[-3:]))
    return there, back


THERE, BACK = conversation()
SAID, ANSWERED = b"".join(THERE), b"".join(BACK)


def listen(cuts) -> list[i.Event]:
    """What an accepter makes of everything that the dialler said, answering in step."""
    connection = accepter()

    def react(event: i.Event) -> None:
        match event:
            case i.Greeted():
                connection.send_hello()
            case i.Proven():
                connection.send_proof()
            case i.RequestReceived(request_id):
                connection.send_refusal(request_id, InvalidArgumentError())

    return feed(connection, SAID, cuts, react=react)


@given(st.lists(st.integers(0, len(SAID)), max_size=20))
def test_b48_a_session_cut_anywhere_is_understood_alike(cuts):
    whole = listen([])
    assert len(whole) == len(THERE)
    assert listen(cuts) == whole


def test_b48_a_session_byte_by_byte_is_understood_alike():
    assert listen(range(len(SAID))) == listen([])


def ending(connection, data: bytes) -> OstError | None:
    """Feed all of it and the end of the stream; the typed error that it ended with, if any.

    Whatever else is raised fails the test.
    """
    refusal = None
    try:
        feed(connection, data, end=True)
    except RemoteProtocolError as error:
        refusal = error.refusal
    assert connection.state is State.CLOSED
    return refusal


@given(st.binary(max_size=300), st.booleans())
def test_b47_any_bytes_from_a_stranger_end_in_a_typed_error_or_with_the_stream(data, dialled):
    connection = dialler() if dialled else accepter()
    if dialled:
        connection.send_hello()
    refusal = ending(connection, data)
    assert refusal is None or isinstance(refusal, InvalidArgumentError | FrameTooLargeError)


NEARLY_HEADERS = st.one_of(
    NEARLY_CBOR,
    st.builds(
        lambda kind, fields: encode({"t": kind, **fields}),
        st.sampled_from([kind.value for kind in FrameKind]) | st.integers(-1, 12),
        st.dictionaries(
            st.sampled_from(["id", "call", "ms", "m", "code", "message", "details", "token"]),
            st.integers(0, 20) | VALUES,
        ),
    ),
)
FRAMES = st.builds(
    lambda header, body: pack_frame(header[:HEADER_BYTES_MAX], body) + body,
    NEARLY_HEADERS,
    st.binary(max_size=20),
)


@given(st.lists(FRAMES | st.binary(max_size=20), max_size=12), st.booleans())
def test_b47_any_frames_from_a_proven_peer_end_typed_and_within_the_window(frames, dialled):
    ours, theirs = open_pair()
    connection = ours if dialled else theirs
    for _ in range(2 if dialled else 0):
        ours.send_request(READ, 1000)
    refusal = ending(connection, b"".join(frames))
    assert refusal is None or isinstance(refusal, OstError)
    assert connection.in_flight <= 4


HANDSHAKE_BYTES = len(BACK[0]) + len(BACK[1])


@given(st.integers(0, len(ANSWERED) - 1), st.binary(min_size=1, max_size=4))
def test_b47_an_altered_handshake_never_proves_anybody(at, piece):
    altered = ANSWERED[:at] + piece + ANSWERED[at + len(piece) :]
    connection = dialler()
    connection.send_hello()
    seen = []

    def react(event: i.Event) -> None:
        seen.append(event)
        if isinstance(event, i.Greeted):
            connection.send_proof()

    with contextlib.suppress(RemoteProtocolError):
        feed(connection, altered, react=react)
    intact = altered[:HANDSHAKE_BYTES] == ANSWERED[:HANDSHAKE_BYTES]
    assert intact == any(isinstance(event, i.Proven) for event in seen)
