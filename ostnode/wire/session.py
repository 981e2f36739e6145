"""What a session's frames say: their kinds, the fields of each, and what AUTH signs.

Every header is a CBOR map whose `t` is the frame's kind. Request and reply carry a message as
`m`; its class follows from the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Final, Protocol

from ostnode.codec import INTEGER_MAX, INTEGER_MIN, encode
from ostnode.errors import DetailValue, OstError, error_class
from ostnode.ids import Principal
from ostnode.wire.fields import Amount, Bounds, Message, ShortText
from ostnode.wire.frames import BODY_BYTES_MAX

PROTOCOL_MIN: Final = 1
PROTOCOL_MAX: Final = 2
FEATURES_SINCE: Final = 2
"""The version from which on what both hellos name as features may be used."""
ROSTER: Final = "roster"
"""The feature of roster events in the feed, and of the calls about membership."""
LEDGER: Final = "ledger"
"""The feature of exact accounts: evictions, blocked blobs and what else keeps both sides equal."""
FEATURES: Final = (ROSTER, LEDGER)
NONCE_BYTES: Final = 32
DEADLINE_MS_MAX: Final = 600_000
"""What a request without a deadline of its own gets: long polls take 60 s, uploads less."""
AUTH_LABEL: Final = "ostnode peer auth 1"
MESSAGE_CHARS_MAX: Final = 500
DETAILS_MAX: Final = 16

Version = Annotated[int, Bounds(1, 0xFFFF)]


class Side(IntEnum):
    """Who opened the connection; only the dialler makes requests."""

    DIALLER = 0
    ACCEPTER = 1


class FrameKind(IntEnum):
    """The header's `t`."""

    HELLO = 1
    AUTH = 2
    WELCOME = 3
    REQUEST = 4
    REPLY = 5
    REFUSAL = 6
    CANCEL = 7
    PING = 8
    PONG = 9
    GOAWAY = 10


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """Who speaks, which versions, and what the receiver of requests takes at once.

    The window counts requests without an answer yet, and the bytes of their bodies. It holds at
    least one full body, or nothing could ever be sent.
    """

    protocol_min: Version
    protocol_max: Version
    principal: Principal
    nonce: Annotated[bytes, Bounds(NONCE_BYTES, NONCE_BYTES)]
    window_requests: Annotated[int, Bounds(1, 4096)]
    window_bytes: Annotated[int, Bounds(BODY_BYTES_MAX, 1 << 40)]
    features: Annotated[tuple[ShortText, ...], Bounds(0, 32)] = ()
    roster_epoch: Amount = 0


@dataclass(frozen=True, slots=True)
class Proof(Message):
    """AUTH from the dialler, WELCOME from the accepter; see `auth_statement`."""

    signature: Annotated[bytes, Bounds(64, 64)]


@dataclass(frozen=True, slots=True)
class RequestHead(Message):
    """Ids rise strictly within a connection. `ms` is what remains until the deadline."""

    id: Amount
    call: Amount
    ms: Annotated[int, Bounds(1, DEADLINE_MS_MAX)]


@dataclass(frozen=True, slots=True)
class ReplyHead(Message):
    """The result of a request; every request gets one reply or one refusal, cancelled or not."""

    id: Amount


@dataclass(frozen=True, slots=True)
class RefusalHead(Message):
    """A typed error instead of a result."""

    id: Amount
    code: ShortText
    message: Annotated[str, Bounds(0, MESSAGE_CHARS_MAX)]


@dataclass(frozen=True, slots=True)
class Cancel(Message):
    """The dialler no longer wants the answer; it still comes."""

    id: Amount


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Answered by a pong of the same token, at once."""

    token: Amount


@dataclass(frozen=True, slots=True)
class Pong(Message):
    """A ping's echo. Pings in a hurry may be answered by one pong, to the last."""

    token: Amount


@dataclass(frozen=True, slots=True)
class Goaway(Message):
    """No more requests. A retryable code lets those in flight finish, any other is the end."""

    code: ShortText
    message: Annotated[str, Bounds(0, MESSAGE_CHARS_MAX)]


class Sign(Protocol):
    """Signs with this node's key."""

    def __call__(self, message: bytes, /) -> bytes:
        """64 bytes of Ed25519."""
        ...


class Verify(Protocol):
    """Whether a signature over a message is the principal's."""

    def __call__(self, principal: Principal, message: bytes, signature: bytes, /) -> bool:
        """Never raises: a principal that is no valid point verifies nothing."""
        ...


def auth_statement(
    side: Side, dialler_hello: bytes, accepter_hello: bytes, binding: bytes
) -> bytes:
    """What `side` signs to prove its principal.

    Both hellos are signed as they crossed the wire: principals, nonces, versions and windows,
    so nobody between can weaken any of them. `binding` ties the proof to the channel: the
    SHA-256 of the server's certificate (RFC 5929 tls-server-end-point), empty in clear text.
    The side's name keeps a proof from being reflected.
    """
    return encode([AUTH_LABEL, side.name.lower(), dialler_hello, accepter_hello, binding])


def wire_details(error: OstError) -> dict[str, DetailValue]:
    """An error's details, cut to what a header takes: telling of an error must not fail."""
    return {
        name: value[:MESSAGE_CHARS_MAX] if isinstance(value, str) else value
        for name, value in list(error.details.items())[:DETAILS_MAX]
        if isinstance(value, str) or INTEGER_MIN <= value <= INTEGER_MAX
    }


def error_from(code: str, message: str, details: object = None) -> OstError:
    """The typed error for wire fields; details that are not scalars are dropped."""
    error = error_class(code)(message)
    if isinstance(details, dict):
        scalars: dict[str, DetailValue] = {
            name: value for name, value in details.items() if isinstance(value, int | str)
        }
        error.details = dict(list(scalars.items())[:DETAILS_MAX])
    return error
