"""Group commit: what is staged during one sync is the next batch; nothing waits when idle."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ostnode.env import Worker
from ostnode.store.admission import Admission
from ostnode.store.errors import StoreFailedError
from ostnode.store.format import SEGMENT_HEADER_BYTES
from ostnode.store.record import Extent
from ostnode.store.staging import Batch, Placed, Plan, Staging


class GroupCommit:
    """The writer task and those who wait for it.

    A failure is final: it is never retried, every waiter hears of it, nothing is accepted after.
    """

    def __init__(
        self,
        staging: Staging,
        worker: Worker,
        write: Callable[[Batch], None],
        retire: Callable[[Batch], None],
        *,
        queue_bytes_max: int,
        marker_delay_s: float,
    ) -> None:
        self._staging, self._worker, self._write, self._retire = staging, worker, write, retire
        self._marker_delay_s = marker_delay_s
        self._pending: dict[tuple[int, int], Placed] = {}
        self._unfinished: dict[int, Batch] = {}
        self._idle_since = 0.0
        self._closing = False
        self._failure: str | None = None
        self._work, self._burst, self._ended = trio.Event(), trio.Event(), trio.Event()
        self._scope = trio.CancelScope()
        self._scope.shield = True  # bounded: `close` cancels it, and is itself given a deadline
        self.admission = Admission(queue_bytes_max)
        self.clean = False
        """Closed with everything written."""
        self.written = 0
        """Bytes added to segments, all durable."""

    def check_open(self) -> None:
        """Raise StoreFailedError when nothing is accepted any more."""
        if self._failure is not None:
            raise StoreFailedError(self._failure)
        if self._closing:
            raise StoreFailedError("the store is closed")

    def accept(self, plan: Plan) -> None:
        """Queue a group that has been applied."""
        self._staging.accept(plan)
        self.admission.take(plan.nbytes)
        self._unfinished[plan.batch.number] = plan.batch
        for placed in plan.records:
            self._pending[placed.extent.segment, placed.extent.offset] = placed
        self._work.set()

    def pending(self, extent: Extent) -> Placed | None:
        """The record at `extent` when it is staged and not durable yet."""
        return self._pending.get((extent.segment, extent.offset))

    async def wait(self, batch: Batch) -> None:
        """Return once a batch is durable; StoreFailedError when that may never be."""
        await batch.done.wait()
        if not batch.durable:
            raise StoreFailedError(self._failure or "the store was closed before the sync")

    async def synced(self) -> None:
        """Wait until everything accepted so far is durable."""
        if self._failure is not None:
            raise StoreFailedError(self._failure)
        if self._unfinished:
            await self.wait(next(reversed(self._unfinished.values())))
        else:
            await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Write batches until `close`. Raises StoreFailedError after the first failure.

        Only `close` ends it: a cancelled caller must not leave staged records unwritten.
        """
        try:
            with self._scope:
                while (batch := await self._next_batch()) is not None:
                    await self._worker.run(self._write, batch)
                    self._completed(batch)
                self.clean = True
        except Exception as error:
            self._failure = f"the store failed and takes no more writes: {error!r}"
            raise StoreFailedError(self._failure) from error
        finally:
            self._closing = True
            self._abandon()
            self._ended.set()

    async def close(self) -> None:
        """Accept nothing more, write what is queued, seal the segment, end the writer."""
        self._closing = True
        self._work.set()
        try:
            await self._ended.wait()
        finally:
            self._scope.cancel()

    async def _next_batch(self) -> Batch | None:
        """The oldest batch, once there is one; None when all is written and `close` was called."""
        queue = self._staging.queue
        while not queue:
            if self._closing:
                self._staging.close_segment()
                return queue.popleft() if queue else None
            self._work = trio.Event()
            await self._work.wait()
        return queue.popleft()

    async def close_bursts(self) -> None:
        """Queue a marker whenever the log has been idle for a while; runs until cancelled.

        A task of its own: a deadline around every wait of the writer would cost each lone append
        a tenth of its time.
        """
        while True:
            await self._burst.wait()
            await trio.sleep_until(self._idle_since + self._marker_delay_s)
            if self._idle_since + self._marker_delay_s > trio.current_time():
                continue
            self._burst = trio.Event()
            if not self._unfinished and not self._closing:
                self._staging.close_burst()
                self._work.set()

    def _completed(self, batch: Batch) -> None:
        self._retire(batch)
        if not batch.is_ours:
            self._idle_since = trio.current_time()
            self._burst.set()
        opened = SEGMENT_HEADER_BYTES if batch.offset == SEGMENT_HEADER_BYTES else 0
        self.written += opened + batch.nbytes
        batch.durable = True
        self._finish(batch)

    def _abandon(self) -> None:
        """Nothing more will be written: those who wait hear of it."""
        for batch in list(self._unfinished.values()):
            self._finish(batch)

    def _finish(self, batch: Batch) -> None:
        if self._unfinished.pop(batch.number, None) is not None:
            self.admission.give_back(batch.nbytes)
        if batch.durable:
            for placed in batch.records:
                self._pending.pop((placed.extent.segment, placed.extent.offset), None)
        batch.done.set()
