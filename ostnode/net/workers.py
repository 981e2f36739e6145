"""The requests of one link, served by as few tasks as do not wait for each other.

A worker takes what waits, one request after the other, in the order they came. Before it begins
one while more wait, it calls another worker: a handler that blocks holds up nobody, and handlers
that never block share one task and one cancel scope, which cost more than a small call itself.
One worker stays when there is nothing to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from ostnode.errors import BusyError, OstError
from ostnode.net.session import Session
from ostnode.wire.calls import Reply
from ostnode.wire.incoming import RequestMalformed, RequestReceived

Handle: TypeAlias = Callable[[RequestReceived], Awaitable[Reply | OstError]]
"""What becomes of a request; raises nothing but Cancelled."""
Answer: TypeAlias = Callable[[int, Reply | OstError], None]
"""Posts the answer of the request with this id; raises nothing."""

_JOBS_IN_A_ROW: Final = 16
"""Then the worker that was called goes on, in the scheduler's next turn: others should not wait for
a whole window of handlers that never block."""
_NEVER: Final = trio.CancelScope().deadline


class _Job:
    """A request without an answer. Its deadline and cancellation become those of a scope."""

    __slots__ = ("_cancelled", "_deadline", "_scope", "event", "id", "outcome", "placed")

    def __init__(self, event: RequestReceived | RequestMalformed, received_at: float) -> None:
        self.id = event.id
        self.event: RequestReceived | None = None
        self.outcome: Reply | OstError | None = None
        self.placed = False
        """Whether it holds a place among the answers with a body."""
        self._deadline = _NEVER
        self._scope: trio.CancelScope | None = None
        self._cancelled = False
        if isinstance(event, RequestMalformed):
            self.outcome = event.error
        else:
            self.event = event
            self._deadline = received_at + event.ms / 1000

    def enter(self, scope: trio.CancelScope) -> None:
        """From here on `scope` is cancelled with the job."""
        self._scope = scope
        scope.deadline = self._deadline
        if self._cancelled or trio.current_time() >= self._deadline:
            scope.cancel()

    def cancel(self) -> None:
        """Nobody wants the outcome any more."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()


class Workers:
    """Serves requests in order; there is never more than a worker for each, and an idle one."""

    def __init__(self, session: Session, handle: Handle, answer: Answer) -> None:
        self._unsent = session.unsent
        self._handle = handle
        self._answer = answer
        self._waiting: deque[_Job] = deque()
        self._cancellable: dict[int, _Job] = {}
        self._begun = 0
        self._idle = trio.lowlevel.ParkingLot()
        self._called = False
        """Whether a worker is on its way that has not looked at what waits yet."""

    def serve(
        self,
        event: RequestReceived | RequestMalformed,
        received_at: float,
        nursery: trio.Nursery,
    ) -> None:
        """Have a request served, or refused: an answer waits for room, and readers for nobody.

        All workers of a link are tasks of one nursery.
        """
        job = _Job(event, received_at)
        if job.event is not None:
            self._cancellable[job.id] = job
        self._waiting.append(job)
        self._call(nursery)

    def cancel(self, request_id: int) -> None:
        """Stop serving a request; it is answered all the same.

        Nothing happens if the cancellation crossed its answer, or it waits to be refused.
        """
        job = self._cancellable.get(request_id)
        if job is not None:
            job.cancel()

    def _call(self, nursery: trio.Nursery) -> None:
        if self._called:
            return
        self._called = True
        if self._idle:
            self._idle.unpark()
        else:
            nursery.start_soon(self._work, nursery)

    async def _work(self, nursery: trio.Nursery) -> None:
        self._called = False
        while True:
            job: _Job | None = None
            with trio.CancelScope() as scope:
                # As long as nothing has cancelled it, one scope does for one job after the other.
                while True:
                    job = None  # whoever waits for the next one keeps no body alive
                    job = await self._next(scope, nursery)
                    if job is None:
                        return
                    await self._run(job, scope)
                    if scope.cancel_called or self._unsent.full:
                        break
                    self._finish(job)
            assert job is not None
            await self._unsent.room()
            self._finish(job)

    async def _next(self, scope: trio.CancelScope, nursery: trio.Nursery) -> _Job | None:
        """The next job; None if there is none, or enough was done, and another worker is there."""
        while not self._waiting or (self._called and self._begun % _JOBS_IN_A_ROW == 0):
            if self._idle:
                return None
            scope.deadline = _NEVER
            await self._idle.park()
            self._called = False
        job = self._waiting.popleft()
        self._begun += 1
        if self._waiting:
            self._call(nursery)
        return job

    async def _run(self, job: _Job, scope: trio.CancelScope) -> None:
        """Serve one job; it has no outcome if it is cancelled or its deadline passes."""
        event = job.event
        if event is None:
            return
        job.enter(scope)
        try:
            if event.spec.carries == "result":
                await self._unsent.take_place()
                job.placed = True
            job.outcome = await self._handle(event)
        finally:
            del self._cancellable[job.id]
            job.event = None  # an answer that waits for a slow peer keeps no body alive

    def _finish(self, job: _Job) -> None:
        if job.outcome is None:
            job.outcome = BusyError("the request was cancelled or its deadline passed")
        self._answer(job.id, job.outcome)
        if job.placed:
            self._unsent.give_place()
