"""Group commit: operations that arrive while a transaction runs share the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

import trio
from typing_extensions import override

from ostnode.env import Worker
from ostnode.errors import BusyError, ShuttingDownError
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.engine import Database, Job

T = TypeVar("T")

BATCH_JOBS_MAX: Final = 64
"""More would save little of the sync's cost, and make the first of them wait for the last."""
WAITING_JOBS_MAX: Final = 4096
"""About half a second of work; beyond it callers are told to come back."""


class _Job(Job, Generic[T]):
    """An operation whose caller waits for it."""

    def __init__(
        self, operation: Callable[[Tables], T], then: Callable[[T], None] | None = None
    ) -> None:
        self._operation = operation
        self._then = then
        self._result: list[T] = []
        self._error: Exception | None = None
        self.done = trio.Event()
        self.abandoned = False

    @override
    def run(self, tables: Tables) -> None:
        self._error = None
        self._result = [self._operation(tables)]

    @override
    def fail(self, error: Exception) -> None:
        self._error = error

    def drop(self) -> None:
        """Its batch was not seen to end: whatever it has done, nobody hears of it."""
        self._error = self._error or ShuttingDownError()
        self.done.set()

    def tell(self) -> None:
        """Its batch has ended, and is durable; the caller may not be waiting any more."""
        if self._then is not None and self._error is None and self._result:
            self._then(self._result[0])
        self.done.set()

    def result(self) -> T:
        """What the operation returned; raises what it raised, or why it has no effect."""
        if self._error is not None:
            raise self._error
        return self._result[0]


def run_alone(database: Database, operation: Callable[[Tables], T]) -> T:
    """Run one operation now, in a transaction of its own; blocking. For a database on which no
    `Repository` runs yet.
    """
    job = _Job[T](operation)
    database.run_batch([job])
    return job.result()


class Repository:
    """The way to the database for the role's tasks: `run` must be running.

    An operation sees everything that was committed before, and everything earlier operations
    of its batch did. Its caller hears of it only after the COMMIT. A caller that is cancelled
    while waiting does not know the outcome: every operation may be asked again.
    """

    def __init__(self, database: Database, worker: Worker, on_urgent: Callable[[], None]) -> None:
        self._database = database
        self._worker = worker
        self._on_urgent = on_urgent
        self._send, self._receive = trio.open_memory_channel[_Job[object]](WAITING_JOBS_MAX)

    async def transact(
        self, operation: Callable[[Tables], T], then: Callable[[T], None] | None = None
    ) -> T:
        """Run the operation in a transaction and wait until that is durable.

        `then` is called with the result once it is, in the order of the transactions, also when
        the caller has been cancelled meanwhile.

        Raises what the operation raises (and then it had no effect), BusyError, or
        ShuttingDownError.
        """
        job = _Job[T](operation, then)
        try:
            self._send.send_nowait(job)  # type: ignore[arg-type]  # the result is read here only
        except trio.WouldBlock:
            raise BusyError("the index has too much to do") from None
        except trio.BrokenResourceError:
            raise ShuttingDownError from None
        try:
            await job.done.wait()
        except trio.Cancelled:
            job.abandoned = True
            raise
        return job.result()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run what arrives until cancelled. Raises DatabaseFailedError."""
        batch: list[_Job[object]] = []
        task_status.started()
        with self._receive:
            try:
                while True:
                    batch = [await self._receive.receive(), *self._waiting(BATCH_JOBS_MAX - 1)]
                    if await self._worker.run(self._database.run_batch, _wanted(batch)):
                        self._on_urgent()
                    for job in batch:
                        job.tell()
                    batch = []
            finally:
                for job in (*batch, *self._waiting(WAITING_JOBS_MAX)):
                    job.drop()

    def _waiting(self, count: int) -> list[_Job[object]]:
        """Up to `count` jobs that wait already."""
        jobs: list[_Job[object]] = []
        while len(jobs) < count:
            try:
                jobs.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                break
        return jobs


def _wanted(batch: list[_Job[object]]) -> list[_Job[object]]:
    return [job for job in batch if not job.abandoned]
