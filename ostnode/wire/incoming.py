"""What a connection tells its owner: one event per frame that matters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ostnode.errors import OstError
from ostnode.ids import Principal
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import CallSpec, Reply
from ostnode.wire.fields import Request
from ostnode.wire.session import Hello


class NeedData(Enum):
    """The sentinel's type."""

    NEED_DATA = "need data"


NEED_DATA: Final = NeedData.NEED_DATA
"""No event until more bytes have come."""


@dataclass(frozen=True, slots=True)
class Greeted:
    """The peer's HELLO; nothing in it is proven yet."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Proven:
    """The peer is who it says. The dialler may call now; the accepter sends WELCOME."""

    peer: Principal


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A well-formed request; `ms` milliseconds remain for it."""

    id: int
    spec: CallSpec
    request: Request
    body: Buffer
    ms: int


@dataclass(frozen=True, slots=True)
class RequestMalformed:
    """A request to be refused with `error`; the connection is unharmed."""

    id: int
    error: OstError


@dataclass(frozen=True, slots=True)
class Answered:
    """The end of a request of ours: its reply, or the error that refused it."""

    id: int
    outcome: Reply | OstError


@dataclass(frozen=True, slots=True)
class CancelReceived:
    """The dialler no longer wants this answer. An id answered already is normal."""

    id: int


@dataclass(frozen=True, slots=True)
class PingReceived:
    """To be answered with a PONG of the same token."""

    token: int


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The answer to a ping."""

    token: int


@dataclass(frozen=True, slots=True)
class GoawayReceived:
    """The peer takes no more requests; with `final` the connection is over."""

    error: OstError
    final: bool


@dataclass(frozen=True, slots=True)
class Closed:
    """The stream ended; `clean` if between frames."""

    clean: bool


Event = (
    Greeted
    | Proven
    | RequestReceived
    | RequestMalformed
    | Answered
    | CancelReceived
    | PingReceived
    | PongReceived
    | GoawayReceived
    | Closed
)
