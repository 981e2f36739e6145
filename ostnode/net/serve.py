"""The answering side of a peer link: who is calling, may they, and what they are answered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import structlog
import trio

from ostnode.env import Rng
from ostnode.errors import (
    BusyError,
    InternalError,
    OstError,
    ShuttingDownError,
    UnknownCallError,
    bare,
    first_failure,
)
from ostnode.ids import Principal
from ostnode.net.intake import Intake
from ostnode.net.link import DEFAULT_LIMITS, Signer
from ostnode.net.outlet import Outlet
from ostnode.net.session import LinkLimits, Session
from ostnode.net.transport import LinkClosedError, secured
from ostnode.net.workers import Workers
from ostnode.wire.calls import Caller, Kind, Reply, Service, authorise
from ostnode.wire.connection import Connection
from ostnode.wire.frames import RemoteProtocolError
from ostnode.wire.handshake import Handshake
from ostnode.wire.incoming import (
    CancelReceived,
    Closed,
    Event,
    GoawayReceived,
    Greeted,
    Proven,
    RequestMalformed,
    RequestReceived,
)
from ostnode.wire.session import Side, Verify
from ostnode.wire.states import State

KindsOf: TypeAlias = Callable[[Principal], frozenset[Kind]]
"""What a principal is to this node; asked for every request, so that a roster change counts."""

INTAKE_S: Final = 2
"""Nothing is read from a link that waits for room, cancellations and signs of life included. After
a wait in vain it is read for as long, and what finds no room then is refused at once."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def serve_link(
    stream: trio.abc.Stream,
    *,
    signer: Signer,
    verify: Verify,
    services: Mapping[Kind, Service],
    kinds_of: KindsOf,
    rng: Rng,
    limits: LinkLimits = DEFAULT_LIMITS,
    stopping: trio.Event | None = None,
    intake: Intake | None = None,
    outlet: Outlet | None = None,
    roster_epoch: Callable[[], int] = int,
) -> None:
    """Serve one connection until it ends; the caller closes the stream.

    Whoever has not proven a principal within `handshake_s` is dropped, TLS included.

    Every request gets one answer: the service's reply, its OstError, or `internal` with the
    cause in the log alone. When `stopping` is set, requests in flight finish, new ones are
    refused, and the link ends; the caller's deadline decides how long that may take. Links share
    an `intake` and an `outlet`, which bound the bodies of their requests and their answers
    together. Nothing that a peer sends makes this raise.
    """
    intake = intake or Intake()

    def begin(binding: bytes) -> Session:
        handshake = Handshake(
            Side.ACCEPTER,
            limits.hello(signer.principal, rng, roster_epoch()),
            sign=signer.sign,
            verify=verify,
            binding=binding,
        )
        connection = Connection(Side.ACCEPTER, handshake, intake.buffers)
        return Session(stream, connection, limits, outlet)

    stopping = trio.Event() if stopping is None else stopping  # events have no truth value
    welcomed = None
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + limits.handshake_s
        nursery.start_soon(_cancel_on, stopping, nursery.cancel_scope)
        welcomed = await _welcome(stream, begin)
        nursery.cancel_scope.cancel()
    if welcomed is not None:
        session, peer = welcomed
        await _Server(session, peer, services, kinds_of, limits, intake).run(stopping)


async def _cancel_on(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _welcome(
    stream: trio.abc.Stream, begin: Callable[[bytes], Session]
) -> tuple[Session, Principal] | None:
    """The session and the peer's proven principal; None if it broke off or was refused.

    The session begins once the channel stands: before that a stranger costs no buffers.
    """
    try:
        session = begin(await secured(stream))
        peer = await _proven(session)
    except LinkClosedError as error:
        log.debug("no handshake", reason=str(error))
        return None
    return None if peer is None else (session, peer)


async def _proven(session: Session) -> Principal | None:
    connection = session.connection
    try:
        if not isinstance(await session.next_event(), Greeted):
            return None
        await session.say(connection.send_hello())
        event = await session.next_event()
        if not isinstance(event, Proven):
            return None
        await session.say(connection.send_proof())
    except RemoteProtocolError as error:
        refusal = error.refusal
    else:
        return event.peer
    log.info("handshake refused", code=refusal.code, reason=refusal.message)
    with contextlib.suppress(LinkClosedError):
        await session.say(connection.send_goaway(refusal))
        await session.linger()
    return None


class _Server:
    """One proven peer's requests."""

    def __init__(
        self,
        session: Session,
        peer: Principal,
        services: Mapping[Kind, Service],
        kinds_of: KindsOf,
        limits: LinkLimits,
        intake: Intake,
    ) -> None:
        self._session = session
        self._connection = session.connection
        self._peer = peer
        self._services = services
        self._kinds_of = kinds_of
        self._linger_s = limits.linger_s
        self._intake = intake
        self._taken_bytes = 0
        self._patient_from = trio.current_time()
        self._workers = Workers(session, self._outcome, self._answer)
        self._answered = trio.lowlevel.ParkingLot()
        self._stopping = False
        self._draining = False
        self._tasks = trio.CancelScope()

    async def run(self, stopping: trio.Event) -> None:
        try:
            async with trio.open_nursery() as tasks:
                self._tasks = tasks.cancel_scope
                tasks.start_soon(self._session.write)
                tasks.start_soon(self._session.watch)
                tasks.start_soon(self._stop, stopping)
                async with trio.open_nursery() as handlers:
                    last_word = await self._read(handlers)
                    handlers.cancel_scope.cancel()
                if last_word is not None:
                    self._session.post(self._connection.send_goaway(last_word))
                    await self._session.linger()
                tasks.cancel_scope.cancel()
        except* LinkClosedError as group:
            log.debug("link ended", reason=str(first_failure(group)))
        finally:
            self._intake.give(self._taken_bytes)  # of requests that nobody began to serve
            self._session.unsent.close()

    async def _read(self, handlers: trio.Nursery) -> OstError | None:
        """Take requests until the connection is over; returns what to tell the peer."""
        try:
            while True:
                event = await self._session.next_event()
                if isinstance(event, Closed) or (isinstance(event, GoawayReceived) and event.final):
                    return None
                if isinstance(event, RequestReceived) and event.body:
                    event = await self._with_room(event)
                self._dispatch(event, handlers)
                del event  # while the next one is awaited, this one's body may go
        except RemoteProtocolError as error:
            log.info("peer broke the protocol", code=error.refusal.code, reason=str(error))
            return error.refusal

    async def _with_room(self, event: RequestReceived) -> RequestReceived | RequestMalformed:
        """A request whose body is to be kept; refused if there is no room for it in time."""
        if not await self._take(len(event.body)):
            return RequestMalformed(event.id, BusyError("too much is being received; try again"))
        self._taken_bytes += len(event.body)
        return event

    async def _take(self, size: int) -> bool:
        if self._intake.take_now(size):
            return True
        if trio.current_time() >= self._patient_from:
            with trio.move_on_after(INTAKE_S):
                await self._intake.take(size)
                return True
            self._patient_from = trio.current_time() + INTAKE_S
        return False

    def _dispatch(self, event: Event, handlers: trio.Nursery) -> None:
        match event:
            case RequestReceived() | RequestMalformed():
                self._workers.serve(event, self._session.received_at, handlers)
            case CancelReceived(request_id):
                self._workers.cancel(request_id)
            case GoawayReceived():
                # The peer asks no more and waits for what it has asked; it may say so again.
                if not self._draining:
                    self._draining = True
                    handlers.start_soon(self._drain)
            case _:
                raise AssertionError(f"the state table let {event} through")

    async def _outcome(self, event: RequestReceived) -> Reply | OstError:
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # it may be over before it begins
            return await self._handle(event)
        except OstError as error:
            return bare(error)  # it may wait to be sent, and holds no room for a body meanwhile
        except Exception:
            log.exception("call failed", call=event.spec.name)
            return InternalError()
        except BaseExceptionGroup as group:
            # Of a handler's nursery. What failed beside being cancelled is no reason to end a link.
            failures, rest = group.split(Exception)
            if failures is not None:
                log.exception("call failed", call=event.spec.name, exc_info=failures)
            if rest is not None:
                raise rest from None
            return InternalError()
        finally:
            if event.body:
                self._taken_bytes -= len(event.body)
                self._intake.give(len(event.body))

    async def _handle(self, event: RequestReceived) -> Reply:
        if self._stopping:
            raise ShuttingDownError("this node is stopping; try again")
        spec = event.spec
        features, epoch = self._connection.features, self._connection.roster_epoch
        caller = Caller(self._peer, self._kinds_of(self._peer), features, epoch)
        authorise(spec, caller)
        service = self._services.get(spec.role)
        if service is None:
            raise UnknownCallError(f"{spec.name} is not served here: this node is no {spec.role}")
        reply = await service.handle(caller, event.request, event.body)
        if not isinstance(reply.message, spec.result):
            raise TypeError(f"{spec.name} answered with a {type(reply.message).__name__}")
        return reply

    def _answer(self, request_id: int, outcome: Reply | OstError) -> None:
        """Post the one answer of a request; there is room for it in the queue."""
        if self._connection.state is not State.OPEN:
            return
        try:
            if isinstance(outcome, Reply):
                outgoing = self._connection.send_reply(request_id, outcome)
            else:
                outgoing = self._connection.send_refusal(request_id, outcome)
        except OstError:
            log.exception("an answer is over the limits of the wire")
            outgoing = self._connection.send_refusal(request_id, InternalError())
        self._session.post(outgoing, alone=not self._connection.in_flight)
        self._answered.unpark_all()

    async def _stop(self, stopping: trio.Event) -> None:
        """Once `stopping` is set: say so, let requests in flight finish, end the link.

        Requests that cross are refused meanwhile.
        """
        await stopping.wait()
        self._stopping = True
        if self._connection.state is State.OPEN:
            self._session.post(self._connection.send_goaway(ShuttingDownError()))
        await self._drain()

    async def _drain(self) -> None:
        """Let requests in flight finish and end the link; the peer may hang up first."""
        while self._connection.in_flight:
            await self._answered.park()
        await self._session.unsent.flushed()
        await trio.sleep(self._linger_s)
        self._tasks.cancel()
