"""The states of a connection and every step between them, in one table.

The dialler opens: HELLO goes out, the accepter's HELLO comes back, AUTH goes out, WELCOME comes
back. Only then do requests flow, from dialler to accepter alone, pipelined, answered in any
order. The accepter sees the same steps mirrored. GOAWAY may cross in any state before CLOSED:
with a retryable code it leaves the state as it is, with any other it is the end.

| state    | dialler's step      | next     |
| -------- | ------------------- | -------- |
| START    | sends HELLO         | GREETING |
| GREETING | receives HELLO      | GREETED  |
| GREETED  | sends AUTH          | PROVING  |
| PROVING  | receives WELCOME    | OPEN     |
| OPEN     | sends REQUEST, CANCEL, PING, PONG; receives REPLY, REFUSAL, PING, PONG | OPEN |
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from ostnode.wire.session import FrameKind, Side


class State(StrEnum):
    """Where a connection is; the same names on both sides."""

    START = "start"
    GREETING = "greeting"
    GREETED = "greeted"
    PROVING = "proving"
    OPEN = "open"
    CLOSED = "closed"


class Way(StrEnum):
    """Which way a frame goes, seen from one side."""

    SEND = "send"
    RECEIVE = "receive"


_Steps = Mapping[tuple[State, Way, FrameKind], State]

_DIALLER: Final[_Steps] = {
    (State.START, Way.SEND, FrameKind.HELLO): State.GREETING,
    (State.GREETING, Way.RECEIVE, FrameKind.HELLO): State.GREETED,
    (State.GREETED, Way.SEND, FrameKind.AUTH): State.PROVING,
    (State.PROVING, Way.RECEIVE, FrameKind.WELCOME): State.OPEN,
    (State.OPEN, Way.SEND, FrameKind.REQUEST): State.OPEN,
    (State.OPEN, Way.SEND, FrameKind.CANCEL): State.OPEN,
    (State.OPEN, Way.RECEIVE, FrameKind.REPLY): State.OPEN,
    (State.OPEN, Way.RECEIVE, FrameKind.REFUSAL): State.OPEN,
    (State.OPEN, Way.SEND, FrameKind.PING): State.OPEN,
    (State.OPEN, Way.RECEIVE, FrameKind.PING): State.OPEN,
    (State.OPEN, Way.SEND, FrameKind.PONG): State.OPEN,
    (State.OPEN, Way.RECEIVE, FrameKind.PONG): State.OPEN,
}
_OTHER_WAY: Final = {Way.SEND: Way.RECEIVE, Way.RECEIVE: Way.SEND}
_ACCEPTER: Final[_Steps] = {
    (state, _OTHER_WAY[way], kind): after for (state, way, kind), after in _DIALLER.items()
}
STEPS: Final[Mapping[Side, _Steps]] = {Side.DIALLER: _DIALLER, Side.ACCEPTER: _ACCEPTER}


def step(side: Side, state: State, way: Way, kind: FrameKind) -> State | None:
    """The state after a frame; None where the table has no such step."""
    if kind is FrameKind.GOAWAY:
        return None if state is State.CLOSED else state
    return STEPS[side].get((state, way, kind))
