"""Every state, frame, way and side, against a table of its own: nothing is left to chance."""

from __future__ import annotations

import itertools

import pytest

from ostnode.codec import encode
from ostnode.errors import BusyError, InvalidArgumentError, NotFoundError, ShuttingDownError
from ostnode.wire import incoming as i
from ostnode.wire.calls import Reply
from ostnode.wire.connection import Connection
from ostnode.wire.frames import LocalProtocolError, RemoteProtocolError, pack_frame
from ostnode.wire.session import FrameKind, Side
from ostnode.wire.states import STEPS, State, Way, step
from tests.support.wire_peers import (
    ALICE,
    BUCKET,
    INFO,
    READ,
    accepter,
    dialler,
    feed,
    hello,
    open_pair,
    wire,
)

K, S = FrameKind, State
ANY_TIME = {K.GOAWAY}
OPEN_DIALLER = {K.REQUEST, K.CANCEL, K.PING, K.PONG}
OPEN_ACCEPTER = {K.REPLY, K.REFUSAL, K.PING, K.PONG}

# Written down apart from the code, in the words of docs/protocol.md: what may cross in a state,
# and the state after it where that is another.
MAY_SEND = {
    (Side.DIALLER, S.START): {K.HELLO: S.GREETING},
    (Side.DIALLER, S.GREETING): {},
    (Side.DIALLER, S.GREETED): {K.AUTH: S.PROVING},
    (Side.DIALLER, S.PROVING): {},
    (Side.DIALLER, S.OPEN): dict.fromkeys(OPEN_DIALLER, S.OPEN),
    (Side.ACCEPTER, S.START): {},
    (Side.ACCEPTER, S.GREETING): {K.HELLO: S.GREETED},
    (Side.ACCEPTER, S.GREETED): {},
    (Side.ACCEPTER, S.PROVING): {K.WELCOME: S.OPEN},
    (Side.ACCEPTER, S.OPEN): dict.fromkeys(OPEN_ACCEPTER, S.OPEN),
}
MAY_RECEIVE = {
    (Side.DIALLER, S.START): {},
    (Side.DIALLER, S.GREETING): {K.HELLO: S.GREETED},
    (Side.DIALLER, S.GREETED): {},
    (Side.DIALLER, S.PROVING): {K.WELCOME: S.OPEN},
    (Side.DIALLER, S.OPEN): dict.fromkeys(OPEN_ACCEPTER, S.OPEN),
    (Side.ACCEPTER, S.START): {K.HELLO: S.GREETING},
    (Side.ACCEPTER, S.GREETING): {},
    (Side.ACCEPTER, S.GREETED): {K.AUTH: S.PROVING},
    (Side.ACCEPTER, S.PROVING): {},
    (Side.ACCEPTER, S.OPEN): dict.fromkeys(OPEN_DIALLER, S.OPEN),
}
LIVE = [state for state in State if state is not S.CLOSED]
EVERYTHING = list(itertools.product(Side, State, FrameKind))
EVERY_ID = [f"{side.name}-{state.name}-{kind.name}" for side, state, kind in EVERYTHING]


def expected(side: Side, state: State, way: Way, kind: FrameKind) -> State | None:
    if state is S.CLOSED:
        return None
    if kind in ANY_TIME:
        return state
    table = MAY_SEND if way is Way.SEND else MAY_RECEIVE
    return table[side, state].get(kind)


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize(("side", "state", "kind"), EVERYTHING, ids=EVERY_ID)
def test_the_table_has_this_step_or_has_it_not(side, state, kind, way):
    assert step(side, state, way, kind) is expected(side, state, way, kind)


def test_the_table_has_nothing_beside():
    rows = sum(len(row) for table in (MAY_SEND, MAY_RECEIVE) for row in table.values())
    assert sum(len(steps) for steps in STEPS.values()) == rows


def test_every_state_is_met_on_the_way_and_none_can_be_skipped():
    for side in Side:
        reached, frontier = {S.START}, [S.START]
        while frontier:
            state = frontier.pop()
            for way, kind in itertools.product(Way, FrameKind):
                after = step(side, state, way, kind)
                if after is not None and after not in reached:
                    # One after the other: GREETING only from START, and so on.
                    assert LIVE.index(after) == LIVE.index(state) + 1
                    reached.add(after)
                    frontier.append(after)
        assert reached == set(LIVE)


# --- the connection keeps to it -----------------------------------------------------------------


def in_state(side: Side, state: State) -> tuple[Connection, Connection]:
    """A connection brought to the state by a whole handshake, and its peer."""
    if state is S.OPEN:
        ours, theirs = open_pair()
        return (ours, theirs) if side is Side.DIALLER else (theirs, ours)
    ours, theirs = dialler(), accepter()
    steps = [
        lambda: feed(theirs, wire(ours.send_hello())),
        lambda: feed(ours, wire(theirs.send_hello())),
        lambda: feed(theirs, wire(ours.send_proof())),
    ]
    connection = ours if side is Side.DIALLER else theirs
    for advance in steps:
        if connection.state is state:
            break
        advance()
    if state is S.CLOSED:
        connection.send_goaway(NotFoundError())
    assert connection.state is state
    return connection, theirs if side is Side.DIALLER else ours


FIELDS = {
    K.HELLO: {},
    K.AUTH: {"signature": bytes(64)},
    K.WELCOME: {"signature": bytes(64)},
    K.REQUEST: {"id": 1, "call": 2, "ms": 1000, "m": {}},
    K.REPLY: {"id": 1, "m": {}},
    K.REFUSAL: {"id": 1, "code": "busy", "message": ""},
    K.CANCEL: {"id": 1},
    K.PING: {"token": 1},
    K.PONG: {"token": 1},
    K.GOAWAY: {"code": "internal", "message": ""},
}


def header_of(side: Side, kind: FrameKind) -> bytes:
    """A well-formed frame of the kind, as the side's peer would say it."""
    fields = FIELDS[kind]
    if kind is K.HELLO:
        said = hello(BUCKET if side is Side.DIALLER else ALICE)
        fields = {name: getattr(said, name) for name in said.__dataclass_fields__}
    data = encode({"t": kind.value, **fields})
    return pack_frame(data)


def arrive(connection: Connection, data: bytes) -> i.Event | InvalidArgumentError:
    try:
        (event,) = feed(connection, data)
    except RemoteProtocolError as error:
        return error.refusal
    return event


@pytest.mark.parametrize(("side", "state", "kind"), EVERYTHING, ids=EVERY_ID)
def test_b47_a_connection_takes_what_the_table_has_and_ends_on_anything_else(side, state, kind):
    connection, _ = in_state(side, state)
    if state is S.CLOSED:
        with pytest.raises(LocalProtocolError):
            connection.next_event()
        return
    if side is Side.DIALLER and state is S.OPEN:
        connection.send_request(READ, 1000)
    outcome = arrive(connection, header_of(side, kind))
    after = expected(side, state, Way.RECEIVE, kind)
    out_of_place = f"{kind.name} is out of place in state {state.value}"
    if after is None:
        assert isinstance(outcome, InvalidArgumentError)
        assert outcome.message == out_of_place
        assert connection.state is S.CLOSED
    elif kind in {K.AUTH, K.WELCOME}:  # in place, and a wrong signature
        assert outcome.code == "unauthenticated"
        assert connection.state is S.CLOSED
    else:
        assert not isinstance(outcome, Exception)
        assert connection.state is (S.CLOSED if kind is K.GOAWAY else after)


def sender(connection: Connection, kind: FrameKind):
    """How a connection says a frame of the kind; None for what its side has no words for."""
    proof = K.AUTH if connection._side is Side.DIALLER else K.WELCOME
    return {
        K.HELLO: connection.send_hello,
        proof: connection.send_proof,
        K.REQUEST: lambda: connection.send_request(READ, 1000)[1],
        K.REPLY: lambda: connection.send_reply(1, Reply(INFO)),
        K.REFUSAL: lambda: connection.send_refusal(1, BusyError()),
        K.CANCEL: lambda: connection.send_cancel(1),
        K.PING: lambda: connection.send_ping(1),
        K.PONG: lambda: connection.send_pong(1),
        K.GOAWAY: lambda: connection.send_goaway(NotFoundError()),
    }.get(kind)


@pytest.mark.parametrize(("side", "state", "kind"), EVERYTHING, ids=EVERY_ID)
def test_a_connection_says_what_the_table_has_and_nothing_else(side, state, kind):
    connection, peer = in_state(side, state)
    if side is Side.ACCEPTER and state is S.OPEN:
        feed(connection, wire(peer.send_request(READ, 1000)[1]))
    say = sender(connection, kind)
    after = expected(side, state, Way.SEND, kind)
    if say is None:
        assert after is None
    elif kind is K.GOAWAY:
        # The last word may be said though the connection is over.
        assert wire(say())
        assert connection.state is S.CLOSED
    elif after is None:
        with pytest.raises(LocalProtocolError):
            say()
        assert connection.state is state
    else:
        assert wire(say())
        assert connection.state is after


# --- drain --------------------------------------------------------------------------------------


@pytest.mark.parametrize("speaker", Side, ids=lambda side: side.name)
def test_after_a_retryable_goodbye_answers_still_come_and_requests_do_not_go(speaker):
    ours, theirs = open_pair()
    request_id, outgoing = ours.send_request(READ, 1000)
    feed(theirs, wire(outgoing))
    says, hears = (ours, theirs) if speaker is Side.DIALLER else (theirs, ours)
    (event,) = feed(hears, wire(says.send_goaway(ShuttingDownError())))
    assert not event.final
    assert ours.draining
    assert theirs.draining
    assert ours.state is theirs.state is S.OPEN
    with pytest.raises(LocalProtocolError):
        ours.send_request(READ, 1000)
    assert feed(theirs, wire(ours.send_cancel(request_id)) + wire(ours.send_ping(3)))
    assert feed(ours, wire(theirs.send_reply(request_id, Reply(INFO))))
    assert ours.in_flight == theirs.in_flight == 0


def test_a_request_that_crosses_the_goodbye_is_still_answered():
    ours, theirs = open_pair()
    goodbye = wire(theirs.send_goaway(ShuttingDownError()))
    request_id, outgoing = ours.send_request(READ, 1000)
    (event,) = feed(theirs, wire(outgoing))
    assert isinstance(event, i.RequestReceived)
    feed(ours, goodbye)
    (answer,) = feed(ours, wire(theirs.send_refusal(request_id, ShuttingDownError())))
    assert answer.outcome.retryable


@pytest.mark.parametrize("side", Side, ids=lambda side: side.name)
@pytest.mark.parametrize("state", [s for s in LIVE if s is not S.OPEN], ids=lambda s: s.name)
def test_any_goodbye_before_the_connection_is_open_is_the_end(side, state):
    said, _ = in_state(side, state)
    said.send_goaway(ShuttingDownError())
    assert said.state is S.CLOSED
    heard, _ = in_state(side, state)
    (event,) = feed(heard, pack_frame(encode({"t": 10, "code": "draining", "message": ""})))
    assert event.final
    assert heard.state is S.CLOSED
