"""One peer connection as a state machine: bytes in, events out; calls in, bytes out.

No I/O, time or randomness: the same machine serves sockets, memory streams, simulator and
fuzzer. Receive into `buffer()`, report with `received(count)`, take events until NEED_DATA. Each
`send_…` method returns what to write: a head, then a body that is not copied. What the peer must
not do raises RemoteProtocolError, what we must not do LocalProtocolError; a message out of its
bounds raises its OstError and changes nothing. Anything else that escapes is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from ostnode.codec import Value, decode, encode
from ostnode.errors import (
    BusyError,
    InternalError,
    InvalidArgumentError,
    OstError,
    UnknownCallError,
    bare,
)
from ostnode.wire import incoming as i
from ostnode.wire import session as s
from ostnode.wire.buffers import BodyBuffers, Buffer, as_bytes
from ostnode.wire.calls import CallSpec, Reply, call_by_number, call_of
from ostnode.wire.fields import Message, Request
from ostnode.wire.frames import (
    BODY_BYTES_MAX,
    HEADER_BYTES_MAX,
    PREFIX,
    Frame,
    FrameReader,
    LocalProtocolError,
    RemoteProtocolError,
    pack_frame,
)
from ostnode.wire.handshake import Handshake
from ostnode.wire.schema import encode_message, from_map
from ostnode.wire.session import FrameKind, Side
from ostnode.wire.states import State, Way, step
from ostnode.wire.window import Window

Outgoing: TypeAlias = tuple[bytes, Buffer]
"""A frame to write: prefix with header, then the body."""


class Connection:
    """One side of one connection."""

    def __init__(
        self, side: Side, handshake: Handshake, buffers: BodyBuffers | None = None
    ) -> None:
        self.state = State.START
        self.draining = False
        """Whether a GOAWAY has crossed, either way: no new requests."""
        self._side = side
        self._handshake = handshake
        self._reader = FrameReader(buffers)
        self._ended = False
        self._last_id = 0
        ours = handshake.hello
        self._window = Window(ours.window_requests, ours.window_bytes)
        self._asked: dict[int, CallSpec] = {}

    @property
    def inside_frame(self) -> bool:
        """Whether a frame has begun that is not whole yet."""
        return self._reader.inside_frame

    @property
    def in_flight(self) -> int:
        """How many requests have no answer yet."""
        return len(self._window)

    @property
    def version(self) -> int:
        """The protocol's version on this connection; 0 before the peer's HELLO."""
        return self._handshake.version

    @property
    def features(self) -> frozenset[str]:
        """What both sides understand beyond it."""
        return self._handshake.features

    @property
    def roster_epoch(self) -> int:
        """Of the newest roster that the peer knows, as its HELLO says."""
        return self._handshake.peer.roster_epoch if self._handshake.peer else 0

    # --- receiving ------------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream go."""
        return self._reader.buffer()

    def received(self, count: int) -> None:
        """`count` bytes were put at the front of `buffer()`; 0 is the end of the stream."""
        self._ended = self._ended or count == 0
        self._reader.received(count)

    def trim(self) -> None:
        """Let go of memory that is kept for bodies to come."""
        self._reader.trim()

    def next_event(self) -> i.Event | i.NeedData:
        """The next event; raises RemoteProtocolError, after which the connection is CLOSED."""
        if self.state is State.CLOSED:
            raise LocalProtocolError("the connection is closed")
        try:
            frame = self._reader.next_frame()
            if frame is not None:
                return self._event(frame)
        except InvalidArgumentError as error:
            self.state = State.CLOSED
            raise RemoteProtocolError(error) from None
        except RemoteProtocolError:
            self.state = State.CLOSED
            raise
        if not self._ended:
            return i.NEED_DATA
        self.state = State.CLOSED
        return i.Closed(clean=not self._reader.inside_frame)

    def _event(self, frame: Frame) -> i.Event:
        header = decode(frame.header)
        if not isinstance(header, dict):
            raise InvalidArgumentError("a frame's header is a map")
        kind = _frame_kind(header.pop("t", None))
        state = step(self._side, self.state, Way.RECEIVE, kind)
        if state is None:
            raise InvalidArgumentError(f"{kind.name} is out of place in state {self.state.value}")
        if frame.body and kind not in {FrameKind.REQUEST, FrameKind.REPLY}:
            raise InvalidArgumentError(f"{kind.name} carries no body")
        # Entered first: a final GOAWAY closes in its handler, a refusal in next_event.
        self.state = state
        return self._handle(kind, header, frame)

    def _handle(self, kind: FrameKind, header: dict[str, Value], frame: Frame) -> i.Event:
        match kind:
            case FrameKind.REQUEST:
                return self._received_request(header, frame.body)
            case FrameKind.REPLY:
                return self._received_reply(header, frame.body)
            case FrameKind.REFUSAL:
                return self._received_refusal(header)
            case FrameKind.CANCEL:
                return i.CancelReceived(from_map(s.Cancel, header).id)
            case FrameKind.PING:
                return i.PingReceived(from_map(s.Ping, header).token)
            case FrameKind.PONG:
                return i.PongReceived(from_map(s.Pong, header).token)
            case FrameKind.GOAWAY:
                return self._received_goaway(from_map(s.Goaway, header))
            case FrameKind.HELLO:
                return self._received_hello(frame.header, from_map(s.Hello, header))
            case _:  # AUTH and WELCOME: both are proofs
                return self._received_proof(from_map(s.Proof, header).signature)

    def _received_hello(self, header: bytes, hello: s.Hello) -> i.Event:
        self._handshake.received_hello(header, hello)
        if self._side is Side.DIALLER:
            self._window = Window(hello.window_requests, hello.window_bytes)
        return i.Greeted(hello)

    def _received_proof(self, signature: bytes) -> i.Event:
        peer = self._handshake.check(signature)
        if self._side is Side.DIALLER:
            self._open()
        return i.Proven(peer)

    def _received_request(self, header: dict[str, Value], body: Buffer) -> i.Event:
        fields = header.pop("m", None)
        head = from_map(s.RequestHead, header)
        if head.id <= self._last_id:
            raise InvalidArgumentError("request ids must rise")
        if not self._window.room_for(len(body)):
            raise RemoteProtocolError(BusyError("more requests in flight than the window allows"))
        self._last_id = head.id
        self._window.begin(head.id, len(body))
        try:
            spec = self._agreed(call_by_number(head.call))
            request = _request(spec, fields, body)
        except OstError as error:
            return i.RequestMalformed(head.id, bare(error))
        return i.RequestReceived(head.id, spec, request, body, head.ms)

    def _received_reply(self, header: dict[str, Value], body: Buffer) -> i.Event:
        fields = header.pop("m", None)
        request_id = from_map(s.ReplyHead, header).id
        spec = self._answered(request_id)
        try:
            return i.Answered(request_id, _result(spec, fields, body))
        except InvalidArgumentError as error:
            problem = f"the peer's answer to {spec.name} is malformed: {error.message}"
            return i.Answered(request_id, InternalError(problem))

    def _received_refusal(self, header: dict[str, Value]) -> i.Event:
        details = header.pop("details", None)
        head = from_map(s.RefusalHead, header)
        self._answered(head.id)
        return i.Answered(head.id, s.error_from(head.code, head.message, details))

    def _agreed(self, spec: CallSpec) -> CallSpec:
        """The call, if it exists on this connection."""
        if spec.feature and spec.feature not in self._handshake.features:
            raise UnknownCallError(f"{spec.name} is not spoken on this connection")
        return spec

    def _answered(self, request_id: int) -> CallSpec:
        if not self._window.end(request_id):
            raise InvalidArgumentError(f"an answer to request {request_id}, which is not open")
        return self._asked.pop(request_id)

    def _received_goaway(self, goaway: s.Goaway) -> i.Event:
        error = s.error_from(goaway.code, goaway.message)
        return i.GoawayReceived(error, final=self._goaway(error))

    # --- sending --------------------------------------------------------------------------------

    def send_hello(self) -> Outgoing:
        """Our HELLO."""
        head, body = self._send(FrameKind.HELLO, self._handshake.hello)
        self._handshake.sent_hello(head[PREFIX.size :])
        return head, body

    def send_proof(self) -> Outgoing:
        """Our AUTH as dialler, our WELCOME as accepter."""
        if self._side is Side.DIALLER:
            return self._send(FrameKind.AUTH, s.Proof(self._handshake.proof()))
        outgoing = self._send(FrameKind.WELCOME, s.Proof(self._handshake.proof()))
        self._open()
        return outgoing

    def room_for(self, body_bytes: int) -> bool:
        """Whether the peer's window takes one more request with such a body."""
        return self._window.room_for(body_bytes)

    def send_request(self, request: Request, ms: int, body: Buffer = b"") -> tuple[int, Outgoing]:
        """A request with `ms` milliseconds left; returns its id and what to write."""
        body = as_bytes(body)
        if self.draining or not self._window.room_for(len(body)):
            raise LocalProtocolError("no request can go out now")
        spec = self._agreed(call_of(type(request)))
        head = s.RequestHead(self._last_id + 1, spec.number, max(1, min(ms, s.DEADLINE_MS_MAX)))
        outgoing = self._send(FrameKind.REQUEST, head, {"m": encode_message(request)}, body)
        self._last_id = head.id
        self._window.begin(head.id, len(body))
        self._asked[head.id] = spec
        return head.id, outgoing

    def send_cancel(self, request_id: int) -> Outgoing:
        """The answer is no longer wanted; the request stays in flight until it comes."""
        return self._send(FrameKind.CANCEL, s.Cancel(request_id))

    def send_reply(self, request_id: int, reply: Reply) -> Outgoing:
        """The result of a request."""
        fields = {"m": encode_message(reply.message)}
        body = as_bytes(reply.body)
        outgoing = self._send(FrameKind.REPLY, s.ReplyHead(request_id), fields, body)
        self._answer(request_id)
        return outgoing

    def send_refusal(self, request_id: int, error: OstError) -> Outgoing:
        """A typed error instead of a result; what does not fit the wire is left out."""
        head = s.RefusalHead(request_id, error.code, error.message[: s.MESSAGE_CHARS_MAX])
        fields = {"details": encode(s.wire_details(error))}
        outgoing = self._send(FrameKind.REFUSAL, head, fields)
        self._answer(request_id)
        return outgoing

    def send_ping(self, token: int) -> Outgoing:
        """Ask for a sign of life."""
        return self._send(FrameKind.PING, s.Ping(token))

    def send_pong(self, token: int) -> Outgoing:
        """Give one."""
        return self._send(FrameKind.PONG, s.Pong(token))

    def send_goaway(self, error: OstError) -> Outgoing:
        """No more requests: to drain with a retryable error, to end with any other.

        Allowed after a RemoteProtocolError too, as the last word.
        """
        head = s.Goaway(error.code, error.message[: s.MESSAGE_CHARS_MAX])
        outgoing = _frame(FrameKind.GOAWAY, head)
        self._goaway(error)
        return outgoing

    def _send(
        self,
        kind: FrameKind,
        head: Message,
        more: Mapping[str, bytes] | None = None,
        body: Buffer = b"",
    ) -> Outgoing:
        state = step(self._side, self.state, Way.SEND, kind)
        if state is None:
            raise LocalProtocolError(f"{kind.name} cannot go out in state {self.state.value}")
        outgoing = _frame(kind, head, more, body)
        self.state = state
        return outgoing

    def _answer(self, request_id: int) -> None:
        if not self._window.end(request_id):
            raise LocalProtocolError(f"request {request_id} is not open")

    def _goaway(self, error: OstError) -> bool:
        """Note a GOAWAY that crossed; True if it was the last word."""
        self.draining = True
        if error.retryable and self.state is State.OPEN:
            return False
        self.state = State.CLOSED
        return True

    def _open(self) -> None:
        """Both sides are proven: full frames from now on."""
        self._reader.header_bytes_max = HEADER_BYTES_MAX
        self._reader.body_bytes_max = BODY_BYTES_MAX


def _request(spec: CallSpec, fields: Value, body: Buffer) -> Request:
    if body and spec.carries != "request":
        raise InvalidArgumentError(f"{spec.name} takes no body")
    return from_map(spec.request, fields)


def _result(spec: CallSpec, fields: Value, body: Buffer) -> Reply:
    if body and spec.carries != "result":
        raise InvalidArgumentError("it has a body")
    return Reply(from_map(spec.result, fields), body)


def _frame(
    kind: FrameKind, head: Message, more: Mapping[str, bytes] | None = None, body: Buffer = b""
) -> Outgoing:
    beside = {"t": _ENCODED_KINDS[kind], **(more or {})}
    return pack_frame(encode_message(head, beside), body), body


def _frame_kind(value: object) -> FrameKind:
    # A bool is an int to a dict: true would pass for HELLO.
    kind = _FRAME_KINDS.get(value) if type(value) is int else None
    if kind is None:
        raise InvalidArgumentError("a frame of no known kind")
    return kind


_FRAME_KINDS: Final = {kind.value: kind for kind in FrameKind}
_ENCODED_KINDS: Final = {kind: encode(kind.value) for kind in FrameKind}
