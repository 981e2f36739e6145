"""The calling side of a peer link: one authenticated connection, many calls in flight."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Final, Protocol, TypeVar

import trio

from ostnode.env import Rng
from ostnode.errors import FrameTooLargeError, first_failure
from ostnode.ids import Principal
from ostnode.net.session import LinkLimits, Session
from ostnode.net.transport import LinkClosedError, Network, secured
from ostnode.wire.buffers import Buffer, as_bytes
from ostnode.wire.calls import Reply
from ostnode.wire.connection import Connection
from ostnode.wire.fields import Request
from ostnode.wire.frames import BODY_BYTES_MAX, RemoteProtocolError
from ostnode.wire.handshake import Handshake
from ostnode.wire.incoming import Answered, Closed, Event, GoawayReceived, Greeted, Proven
from ostnode.wire.session import DEADLINE_MS_MAX, Hello, Side, Verify
from ostnode.wire.states import State

E = TypeVar("E", Greeted, Proven)

DEFAULT_LIMITS: Final = LinkLimits()


class Signer(Protocol):
    """The key of this node."""

    @property
    def principal(self) -> Principal:
        """Its public half."""
        ...

    def sign(self, message: bytes, /) -> bytes:
        """64 bytes of Ed25519."""
        ...


class _Pending:
    """A call that waits for its answer."""

    __slots__ = ("done", "outcome")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome: Reply | Exception = LinkClosedError("never answered")

    def finish(self, outcome: Reply | Exception) -> None:
        self.outcome = outcome
        self.done.set()


class Link:
    """An open link; made by `open_link`. Calls may be made from any number of tasks."""

    def __init__(self, session: Session, hello: Hello) -> None:
        self.peer = hello.principal
        self.version = session.connection.version
        self.features = session.connection.features
        """What both ends understand beyond the version."""
        self._session = session
        self._connection = session.connection
        self._pending: dict[int, _Pending] = {}
        self._turn = trio.StrictFIFOLock()
        self._window_moved = trio.Event()
        self._over: str | None = None
        self._closed = trio.Event()

    async def call(self, request: Request, body: Buffer = b"") -> Reply:
        """Make one call and return its result; `body` is the chunk of a call that carries one.

        The caller's deadline travels with the request. If it passes, or the caller is cancelled,
        the peer is told to stop. A peer may answer before it has taken in the body, above all to
        refuse it. So `body` may still be on its way out when this ends, however it ends, and must
        not change as long as the link is there.
        Raises the OstError that the peer refused with, InvalidArgumentError for a request out of
        its bounds, LinkClosedError when the outcome is unknown because the link is over.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # before the peer is asked for anything
        body = as_bytes(body)
        if len(body) > BODY_BYTES_MAX:
            # Every window holds the largest body: for another there would be no room, ever.
            raise FrameTooLargeError(f"a body of {len(body)} bytes is over {BODY_BYTES_MAX}")
        await self._window(len(body))
        request_id, outgoing = self._connection.send_request(request, _remaining_ms(), body)
        self._session.post(outgoing, alone=not self._pending)
        pending = self._pending[request_id] = _Pending()
        try:
            await pending.done.wait()
        except trio.Cancelled:
            if self._pending.pop(request_id, None) and self._connection.state is State.OPEN:
                self._session.post(self._connection.send_cancel(request_id))
            raise
        if isinstance(pending.outcome, Reply):
            return pending.outcome
        raise pending.outcome

    async def wait_closed(self) -> None:
        """Return when no more calls can be made."""
        await self._closed.wait()

    async def _window(self, body_bytes: int) -> None:
        """Wait, in turn, until the peer takes one more request with such a body."""
        if not self._turn.locked() and self._has_room(body_bytes):
            return
        async with self._turn:
            while not self._has_room(body_bytes):
                await self._window_moved.wait()

    def _has_room(self, body_bytes: int) -> bool:
        if self._over is not None:
            raise LinkClosedError(self._over)
        if self._connection.state is not State.OPEN or self._connection.draining:
            # Its reader has met the end, or is about to tell of it.
            raise LinkClosedError("the link is over")
        return self._connection.room_for(body_bytes)

    async def run(self) -> None:
        """Keep the link until it is over; calls in flight then fail with LinkClosedError."""
        reason = "the link was closed on this side"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._session.write)
                nursery.start_soon(self._session.watch)
                nursery.start_soon(self._read)
        except* (LinkClosedError, RemoteProtocolError) as group:
            reason = f"the link is over: {first_failure(group)}"
        finally:
            self._end(reason)
            for pending in self._pending.values():
                # One exception each: tasks that raise the same object share its traceback.
                pending.finish(LinkClosedError(reason))
            self._pending.clear()

    async def _read(self) -> None:
        while True:
            self._handle(await self._session.next_event())

    def _handle(self, event: Event) -> None:
        match event:
            case Answered(request_id, outcome):
                # An answer to a call that was cancelled has nobody to go to.
                pending = self._pending.pop(request_id, None)
                if pending is not None:
                    pending.finish(outcome)
                self._move_window()
            case GoawayReceived(error, final):
                reason = f"the peer ends the link: {error.code}: {error.message}"
                self._end(reason)
                if final:
                    raise LinkClosedError(reason)
            case Closed():
                raise LinkClosedError("the peer closed the connection")
            case _:
                raise AssertionError(f"the state table let {event} through")

    def _end(self, reason: str) -> None:
        """No more calls; those in flight may still be answered."""
        self._over = self._over or reason
        self._closed.set()
        self._move_window()

    def _move_window(self) -> None:
        self._window_moved.set()
        self._window_moved = trio.Event()


@contextlib.asynccontextmanager
async def open_link(
    network: Network,
    address: str,
    *,
    signer: Signer,
    verify: Verify,
    expect: Principal,
    rng: Rng,
    limits: LinkLimits = DEFAULT_LIMITS,
    roster_epoch: int = 0,
) -> AsyncIterator[Link]:
    """Dial `address`, prove who we are, and hold the link while the block runs.

    Only the peer whose principal is `expect` is accepted; on an encrypted channel nothing is sent
    to any other. Raises LinkClosedError if the peer cannot be reached within `handshake_s` or
    breaks off, UnauthenticatedError if it is not `expect`, and the OstError that it refused us
    with. The block's own exceptions come out as they are.
    """
    stream: trio.abc.Stream | None = None
    try:
        try:
            with trio.fail_after(limits.handshake_s):
                stream = await network.connect(address)
                handshake = Handshake(
                    Side.DIALLER,
                    limits.hello(signer.principal, rng, roster_epoch),
                    sign=signer.sign,
                    verify=verify,
                    expect=expect,
                    binding=await secured(stream, expect),
                )
                session = Session(stream, Connection(Side.DIALLER, handshake), limits)
                hello = await _shake_hands(session)
        except trio.TooSlowError:
            raise LinkClosedError(f"{address} does not finish the handshake") from None
        link = Link(session, hello)
        async with _running(link):
            yield link
    finally:
        if stream is not None:
            await trio.aclose_forcefully(stream)


async def _shake_hands(session: Session) -> Hello:
    try:
        await session.say(session.connection.send_hello())
        greeted = await _expected(session, Greeted)
        await session.say(session.connection.send_proof())
        await _expected(session, Proven)
    except RemoteProtocolError as error:
        refusal = error.refusal
    else:
        return greeted.hello
    with contextlib.suppress(LinkClosedError):
        await session.say(session.connection.send_goaway(refusal))
    raise refusal


async def _expected(session: Session, kind: type[E]) -> E:
    event = await session.next_event()
    if isinstance(event, GoawayReceived):
        raise event.error
    if isinstance(event, Closed):
        raise LinkClosedError("the peer closed the connection during the handshake")
    assert isinstance(event, kind), "the state table has one way through the handshake"
    return event


@contextlib.asynccontextmanager
async def _running(link: Link) -> AsyncIterator[None]:
    """Run the link beside the block, whose own exception is not to come out in a group."""
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            yield
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        failure = group.exceptions[0]
    if failure is not None:
        raise failure


def _remaining_ms() -> int:
    remaining_s = trio.current_effective_deadline() - trio.current_time()
    return DEADLINE_MS_MAX if math.isinf(remaining_s) else max(1, int(remaining_s * 1000))
