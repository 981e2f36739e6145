"""Both sides prove their keys over the hellos they exchanged."""

from __future__ import annotations

from ostnode.errors import InvalidArgumentError, UnauthenticatedError
from ostnode.ids import Principal
from ostnode.wire.frames import RemoteProtocolError
from ostnode.wire.session import (
    FEATURES_SINCE,
    Hello,
    Side,
    Sign,
    Verify,
    auth_statement,
)


class Handshake:
    """One side's part. A dialler pins the principal it `expect`s; an accepter takes any.

    `binding` is the channel's, the same bytes on both sides (see `auth_statement`). Once the
    peer's HELLO is there, `version` is the highest that both speak, and `features` are those that
    both named, none in a version that has no features.
    """

    def __init__(
        self,
        side: Side,
        hello: Hello,
        *,
        sign: Sign,
        verify: Verify,
        expect: Principal | None = None,
        binding: bytes = b"",
    ) -> None:
        if (expect is None) is (side is Side.DIALLER):
            raise ValueError("a dialler expects a principal, an accepter none")
        self.hello = hello
        self.peer: Hello | None = None
        self.version = 0
        self.features: frozenset[str] = frozenset()
        self._side = side
        self._sign = sign
        self._verify = verify
        self._expect = expect
        self._binding = binding
        self._headers = {Side.DIALLER: b"", Side.ACCEPTER: b""}

    def sent_hello(self, header: bytes) -> None:
        """Keep our HELLO's header as it goes out."""
        self._headers[self._side] = header

    def received_hello(self, header: bytes, hello: Hello) -> None:
        """Check and keep the peer's; raises RemoteProtocolError."""
        if self._expect is not None and hello.principal != self._expect:
            raise RemoteProtocolError(UnauthenticatedError("this is not the peer that was dialled"))
        self.version = min(self.hello.protocol_max, hello.protocol_max)
        if self.version < max(self.hello.protocol_min, hello.protocol_min):
            raise RemoteProtocolError(
                InvalidArgumentError(
                    f"no common protocol version: {hello.protocol_min}–{hello.protocol_max} there, "
                    f"{self.hello.protocol_min}–{self.hello.protocol_max} here"
                )
            )
        if self.version >= FEATURES_SINCE:
            self.features = frozenset(self.hello.features) & frozenset(hello.features)
        self._headers[self._other_side] = header
        self.peer = hello

    def proof(self) -> bytes:
        """Our signature, once both hellos are known."""
        return self._sign(self._statement(self._side))

    def check(self, signature: bytes) -> Principal:
        """The peer's principal, proven; raises RemoteProtocolError."""
        assert self.peer is not None, "the state table lets no proof before a hello"
        statement = self._statement(self._other_side)
        if not self._verify(self.peer.principal, statement, signature):
            raise RemoteProtocolError(UnauthenticatedError("the proof of identity is wrong"))
        return self.peer.principal

    @property
    def _other_side(self) -> Side:
        return Side.ACCEPTER if self._side is Side.DIALLER else Side.DIALLER

    def _statement(self, side: Side) -> bytes:
        dialler, accepter = self._headers[Side.DIALLER], self._headers[Side.ACCEPTER]
        return auth_statement(side, dialler, accepter, self._binding)
