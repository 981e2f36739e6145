"""Group commit: what is staged during one sync is the next batch; nothing waits when idle."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio
from typing_extensions import Buffer

from ostnode.env import Worker
from ostnode.store.admission import Admission
from ostnode.store.errors import NoSpaceError, StoreFailedError, StoreFullError
from ostnode.store.format import SEGMENT_HEADER_BYTES
from ostnode.store.record import Extent, NewRecord, Record
from ostnode.store.space import Space
from ostnode.store.staging import Batch, Plan, Staging, Want, group_bytes
from ostnode.store.upkeep import Upkeep

RECHECK_S: Final = 1.0
"""How often a full disk is looked at again."""


class GroupCommit:
    """The writer task and those who wait for it.

    One call of the worker writes a batch and then, in turn, those behind it that no group can join
    any more: large ones follow each other without a way back to the event loop, which is told of
    each all the same. It returns when a file is to be made, too.

    A failure is final: it is never retried, every waiter hears of it, nothing is accepted after.
    A full disk is none. Groups with bulk payloads are refused when there is no room for them or
    the reserve is not whole, others when there is no room. When there is not even enough for what
    was accepted, that batch is written again every second, unacknowledged, and all are refused.
    """

    def __init__(
        self,
        staging: Staging,
        worker: Worker,
        write: Callable[[Batch], None],
        retire: Callable[[Batch], None],
        space: Space,
        *,
        queue_bytes_max: int,
        marker_delay_s: float,
    ) -> None:
        self._staging, self._worker, self._write, self._retire = staging, worker, write, retire
        self._space, self._marker_delay_s = space, marker_delay_s
        self._unfinished: dict[int, Batch] = {}
        self._written: deque[Batch] = deque()
        """Durable, and not answered yet."""
        self._goes_on = False
        """Whether the worker may take the next batch."""
        self._idle_since = 0.0
        self._closing = False
        self._failure: str | None = None
        self._broken: StoreFailedError | None = None
        self._work, self._burst, self._ended = trio.Event(), trio.Event(), trio.Event()
        self._scope = trio.CancelScope()
        self._scope.shield = True  # bounded: `close` cancels it, and is itself given a deadline
        self._short = trio.Event()
        self._refused: tuple[Want | None, float] | None = None
        self._is_stuck = False
        self.admission = Admission(queue_bytes_max, self._is_settled)
        self.clean = False
        """Closed with everything written."""
        self.written = 0
        """Bytes added to segments, all durable."""
        self.batches = 0
        """Made durable, each with a sync of its own."""

    def check_open(self) -> None:
        """Raise StoreFailedError when nothing is accepted any more."""
        if self._failure is not None:
            raise StoreFailedError(self._failure)
        if self._closing:
            raise StoreFailedError("the store is closed")

    @property
    def takes_bulk(self) -> bool:
        """Whether there is room for more than deletions and the like."""
        return self._space.whole and not self._is_stuck

    def check_unstuck(self, nbytes: int) -> None:
        """Raise StoreFullError while nothing at all can be written."""
        if self._is_stuck:
            raise StoreFullError(nbytes, self._space.free)

    def plan(self, group: Sequence[NewRecord]) -> Plan:
        """Place a group; raises StoreFailedError, StoreFullError, or ValueError."""
        self.check_open()
        if not self.takes_bulk and (self._is_stuck or self._staging.has_bulk(group)):
            raise StoreFullError(group_bytes(group), self._space.free)
        try:
            return self._staging.plan(group)
        except StoreFullError:
            self._work.set()
            raise

    def _is_settled(self, inside: int, nbytes: int) -> bool:
        """False while there may be room for one more in a moment: it is worth waiting for.

        A file is being made, or it will be when those `inside` have taken the room that is there.
        They and the one more have `nbytes`.
        """
        if self._staging.has_room(inside + 1, nbytes) or self._closing or self._is_stuck:
            return True
        wanted = self._staging.wanted()
        if wanted is None:
            return not inside
        if self._refused is not None and self._refused[0] == wanted:
            return True
        self._work.set()
        return False

    @property
    def _lacks_room(self) -> bool:
        """Whether a file is to be made, or the reserve."""
        return self._staging.wanted() is not None or not self._space.whole

    async def make_room(self) -> None:
        """Have the file made that is wanted, and the reserve. A full disk is asked now and then."""
        while (want := self._staging.wanted()) is not None or not self._space.whole:
            now, refused = trio.current_time(), self._refused
            if self._closing or self._broken is not None:
                return
            if refused is not None and refused[0] == want and now < refused[1]:
                return
            length = await self._worker.run(self._space.provide, want)
            if want is not None:
                self._staging.provided(want.number, length)
            self._staging.disk_free = self._space.free
            again = self._staging.wanted()
            self._refused = None
            if again == want or not self._space.whole:
                self._refused = again, trio.current_time() + RECHECK_S
                self._short.set()
            self.admission.look_again()

    async def watch_room(self) -> None:
        """Look at a full disk again every second; runs until cancelled."""
        while True:
            await self._short.wait()
            self._short = trio.Event()
            await trio.sleep(RECHECK_S)
            self._work.set()

    def accept(self, plan: Plan) -> None:
        """Queue a group that has been applied."""
        if self._staging.accept(plan):
            self._unfinished[plan.batch.number] = plan.batch
            self._work.set()
        self.admission.take(plan.nbytes)

    def keep_up(self, upkeep: Upkeep) -> None:
        """Queue changes that are in the overlay already and that no record makes."""
        self._staging.queue.append(upkeep)
        self._unfinished[upkeep.number] = upkeep
        self._work.set()

    def fail(self, error: StoreFailedError) -> None:
        """The disk failed elsewhere: end as after a failed write."""
        self._broken = error
        self._goes_on = False
        self._work.set()

    def pending(self, extent: Extent) -> tuple[Record, Buffer] | None:
        """The record at `extent`, and its payload, when it is staged and not durable yet."""
        for batch in self._unfinished.values():
            place = batch.find(extent)
            if place is not None:
                return batch.records[place], batch.payloads[place]
        return None

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

    async def roll(self) -> None:
        """Seal the open segment: it can be judged, rewritten and scrubbed then.

        Not on a full disk, where what is left of it may be all there is.
        """
        self.check_open()
        following = 2 * self._staging.segment_bytes
        roomy = self.takes_bulk and self._space.free >= following
        seal = self._staging.close_segment() if roomy else None
        if seal is None:
            await trio.lowlevel.checkpoint()
            return
        self._unfinished[seal.number] = seal
        self.admission.take(seal.nbytes)
        self._work.set()
        await self.wait(seal)

    async def run(self) -> None:
        """Write batches until `close`. Raises StoreFailedError after the first failure.

        Only `close` ends it: a cancelled caller must not leave staged records unwritten.
        """
        try:
            with self._scope:
                while (batch := await self._next_batch()) is not None:
                    await self._write_out(batch)
                self.clean = True
        except Exception as error:
            self._failure = (
                f"the store failed and takes no more writes: {error}. Look at the disk and the "
                "kernel's log; the next start verifies what was written last"
            )
            raise StoreFailedError(self._failure) from error
        finally:
            self._closing = True
            self._abandon()
            self._ended.set()

    async def _write_out(self, batch: Batch | None) -> None:
        token = trio.lowlevel.current_trio_token()
        while batch is not None:
            self._goes_on = True
            try:
                batch = await self._worker.run(self._write_in_turn, batch, token)
            finally:
                self._answer()
            if batch is not None:
                if self._broken is not None:
                    raise self._broken
                self._is_stuck = True
                self.admission.look_again()
                await trio.sleep(RECHECK_S)

    def _write_in_turn(self, batch: Batch, token: trio.lowlevel.TrioToken) -> Batch | None:
        """In the worker's thread: each batch after the last one's sync. Returns the one that found
        no space.
        """
        while True:
            try:
                self._write(batch)
            except NoSpaceError:
                return batch
            self._written.append(batch)
            following = self._staging.take_closed() if self._goes_on else None
            if following is None:
                return None
            batch = following
            token.run_sync_soon(self._answer_meanwhile, idempotent=True)

    def _answer(self) -> None:
        """Tell who waits for what is durable."""
        while self._written:
            self._completed(self._written.popleft())

    def _answer_meanwhile(self) -> None:
        """While the worker is at the next batch."""
        self._answer()
        if self._lacks_room:
            self._goes_on = False  # the worker is wanted by `make_room`

    async def close(self) -> None:
        """Accept nothing more, write what is queued, seal the segment, end the writer."""
        self._closing = True
        self._work.set()
        try:
            await self._ended.wait()
        finally:
            self._goes_on = False
            self._scope.cancel()

    async def _next_batch(self) -> Batch | None:
        """The oldest batch, once there is one; None when all is written and `close` was called."""
        queue = self._staging.queue
        while True:
            self._work = trio.Event()
            if self._lacks_room:
                await self.make_room()
            if self._broken is not None:
                raise self._broken
            if queue:
                return queue.popleft()
            if self._closing:
                self._staging.close_segment()
                return queue.popleft() if queue else None
            await self._work.wait()

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
        self._is_stuck = False
        self._retire(batch)
        if not batch.is_ours:
            self._idle_since = trio.current_time()
            self._burst.set()
        opened = SEGMENT_HEADER_BYTES if batch.offset == SEGMENT_HEADER_BYTES else 0
        self.written += opened + batch.nbytes
        self.batches += bool(batch.records)  # an upkeep of the key index has none
        if self._unfinished.pop(batch.number, None) is not None:
            self.admission.give_back(batch.nbytes)
        batch.durable = True
        batch.done.set()

    def _abandon(self) -> None:
        """Nothing more will be written: those who wait hear of it. It can still be read."""
        for batch in self._unfinished.values():
            self.admission.give_back(batch.nbytes)
            batch.done.set()
