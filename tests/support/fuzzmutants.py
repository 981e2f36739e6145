"""Builds with one thing wrong each, which the fuzzer must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio

from ostnode import codec
from ostnode.errors import InvalidArgumentError
from ostnode.fuzz.cases import Layer
from ostnode.net import serve
from ostnode.net.session import Session
from ostnode.roles.bucket import service as bucket_service
from ostnode.roles.index.core import eviction
from ostnode.wire import calls, connection, schema
from ostnode.wire import messages as m
from ostnode.wire.frames import RemoteProtocolError
from ostnode.wire.handshake import Handshake
from ostnode.wire.window import Window


@dataclass(frozen=True)
class Mutant:
    """`finds` is what the fuzzer must say of it."""

    name: str
    apply: Callable[[pytest.MonkeyPatch], None]
    finds: str
    layers: tuple[Layer, ...] = ()
    """Only these are tried; all of them by default."""


def _window(patch: pytest.MonkeyPatch) -> None:
    """One request more than the window takes."""

    def room_for(self: Window, body_bytes: int) -> bool:
        return len(self) <= self.requests_max

    patch.setattr(Window, "room_for", room_for)


def _items(patch: pytest.MonkeyPatch) -> None:
    """4,097 items of CBOR."""
    patch.setattr(codec, "CBOR_ITEMS_MAX", 4097)


def _depth(patch: pytest.MonkeyPatch) -> None:
    """17 levels of CBOR."""
    patch.setattr(codec, "CBOR_DEPTH_MAX", 17)


def _bounds(patch: pytest.MonkeyPatch) -> None:
    """Lists of one element more."""

    def checked(value, bounds):
        if not bounds.low <= len(value) <= bounds.high + 1:
            raise InvalidArgumentError("length")
        return len(value)

    patch.setattr(schema, "_checked_length", checked)


def _account(patch: pytest.MonkeyPatch) -> None:
    """A user may have one byte more than the limit."""
    right = eviction.lack_of
    patch.setattr(eviction, "lack_of", lambda user, rules, size: right(user, rules, size - 1))


def _authority(patch: pytest.MonkeyPatch) -> None:
    """Anybody may block principals."""

    def authorise(spec, caller):
        if spec.request is not m.BlockPrincipal:
            calls.authorise(spec, caller)

    patch.setattr(serve, "authorise", authorise)


def _foreign_grant(patch: pytest.MonkeyPatch) -> None:
    """A grant is good in anybody's hands."""
    patch.setattr("ostnode.roles.bucket.core.admission.require_user", lambda *_: None)


def _foreign_chat(patch: pytest.MonkeyPatch) -> None:
    """Reading needs no token."""

    def candidates(view, access):
        return view.references_to(access.blob_id, access.accessor)

    patch.setattr("ostnode.roles.bucket.core.reading._candidates", candidates)


def _proof(patch: pytest.MonkeyPatch) -> None:
    """Any signature proves anybody."""

    def check(self: Handshake, signature: bytes):
        assert self.peer is not None
        return self.peer.principal

    patch.setattr(Handshake, "check", check)


def _side(patch: pytest.MonkeyPatch) -> None:
    """A proof of the other side is good as well: what the node signs can be played back."""
    right = Handshake.check

    def check(self: Handshake, signature: bytes):
        if self._verify(self.peer.principal, self._statement(self._side), signature):
            return self.peer.principal
        return right(self, signature)

    patch.setattr(Handshake, "check", check)


def _channel(patch: pytest.MonkeyPatch) -> None:
    """A proof for a channel without encryption is good on every channel."""
    right = Handshake.check

    def check(self: Handshake, signature: bytes):
        binding, self._binding = self._binding, b""
        try:
            return right(self, signature)
        except RemoteProtocolError:
            self._binding = binding
            return right(self, signature)
        finally:
            self._binding = binding

    patch.setattr(Handshake, "check", check)


def _ids(patch: pytest.MonkeyPatch) -> None:
    """A request's id may be that of one before."""
    right = connection.Connection._received_request

    def received(self, header, body):
        self._last_id = min(self._last_id, header["id"] - 1)
        return right(self, header, body)

    patch.setattr(connection.Connection, "_received_request", received)


def _queue(patch: pytest.MonkeyPatch) -> None:
    """Every ping queues a pong, whether anybody reads them or not."""

    def owe(self: Session, token: int | None) -> None:
        if token is not None:
            self.post(self.connection.send_pong(token))

    patch.setattr(Session, "_pong", property(lambda _: None, owe), raising=False)


def _tag(patch: pytest.MonkeyPatch) -> None:
    """The decoder has no case for tags."""

    def no_tag(_data, _at, tag, _depth, _budget):
        return {}[tag]

    _reader(patch, 0xC0, no_tag)


def _recursion(patch: pytest.MonkeyPatch) -> None:
    """Nothing bounds the depth but Python's own stack."""
    patch.setattr(codec, "CBOR_DEPTH_MAX", 1 << 30)


def _reader(patch: pytest.MonkeyPatch, major: int, read) -> None:
    readers = list(codec._READERS)
    for first in range(major, major + 24):
        readers[first] = (read, first - major)
    patch.setattr(codec, "_READERS", tuple(readers))


def _quadratic(patch: pytest.MonkeyPatch) -> None:
    """What is left of the data is copied and compared once for every byte of it, as a parser does
    that cuts off what it has read.
    """

    def decode(data):
        left = bytes(data)
        while left:
            left = bytes(bytearray(left)[1:])
            if not data.endswith(left):
                break
        return codec.decode(data)

    patch.setattr(connection, "decode", decode)


def _stall(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks for links that stall."""

    async def watch(self: Session) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(Session, "watch", watch)


def _cause(patch: pytest.MonkeyPatch) -> None:
    """One call fails for one kind of argument."""
    right = bucket_service.find_upload

    def find(view, caller, blob_id):
        if not any(view.uids(caller)):
            raise LookupError(caller)
        return right(view, caller, blob_id)

    patch.setattr(bucket_service, "find_upload", find)


MUTANTS = (
    Mutant("window off by one", _window, "more requests than its window", (Layer.SESSION,)),
    Mutant("items off by one", _items, "the end of the link", (Layer.CBOR,)),
    Mutant("depth off by one", _depth, "the end of the link", (Layer.CBOR,)),
    Mutant("list off by one", _bounds, "the message is malformed", (Layer.SEMANTICS,)),
    Mutant("allowance off by one", _account, "an account is over its limit", (Layer.SEMANTICS,)),
    Mutant("no authority needed", _authority, "block_principal"),
    Mutant("grants of others", _foreign_grant, "though", (Layer.SEMANTICS,)),
    Mutant("reading without a token", _foreign_chat, "has not given its word", (Layer.SEMANTICS,)),
    Mutant("no proof needed", _proof, "proved nothing"),
    Mutant("proofs played back", _side, "proved nothing", (Layer.SESSION,)),
    Mutant("proofs of other channels", _channel, "proved nothing"),
    Mutant("ids repeated", _ids, "request ids must rise"),
    Mutant("unbounded queue", _queue, "memory grows"),
    Mutant("unhandled tag", _tag, "handler failed"),
    Mutant("unbounded depth", _recursion, "handler failed"),
    Mutant("quadratic parse", _quadratic, "works too long"),
    Mutant("stalled links kept", _stall, "a stalled link"),
    Mutant("a call that fails", _cause, "failed"),
)
