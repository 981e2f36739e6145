"""Scrub: all that is stored is read again within a period, and damage is put on record."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import structlog
import trio

from ostnode.env import Clock
from ostnode.errors import BusyError
from ostnode.roles.bucket.desk import News
from ostnode.roles.bucket.ledger import Ledger
from ostnode.roles.bucket.options import UpkeepOptions
from ostnode.roles.bucket.records import ScrubPosition
from ostnode.store.pace import Pace
from ostnode.store.record import ZERO_32, Problem
from ostnode.store.store import Store

_SAVE_BYTES: Final = 256 << 20
_SAVE_INTERVAL_S: Final = 600.0
"""The place is written down after so much, or so long: more is read twice after a restart."""
_IN_TIME: Final = 0.9
"""Of the period: a cycle that takes this part of it has room for a restart."""
_MEASURE_S: Final = 60.0
"""How often it is counted what lies ahead."""
_DAMAGED_MAX: Final = 10_000
_RETRY_S: Final = 60.0
_LONGEST_WAIT_S: Final = 3600.0
"""The wall clock may be set meanwhile."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Scrubbing:
    """One task that goes through the log again and again."""

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        options: UpkeepOptions,
        clock: Clock,
    ) -> None:
        self._store, self._ledger, self._options = store, ledger, options
        self._clock = clock
        self._pace = Pace(options.scrub_rate_max)
        self._unpaced = Pace(0)
        self._news = News()
        self._asked = False
        self._hurried = False
        self._waiting = trio.CancelScope()
        self._saved = (0, 0.0)
        self._end = (0, 0.0)
        """What `nbytes` will be at the end of the cycle, and when that is counted again."""
        self._damaged: set[bytes] | None = None
        """Blobs that this cycle found damaged; None when it cannot be said which are not."""
        self.place = ledger.place()
        self._over = self.place.completed_at >= self.place.started_at
        self.running = False
        self.bytes_read = 0
        """Since the process started."""
        self.problems = 0
        """Found since the process started, each time it was found."""

    @property
    def rate(self) -> int:
        """Bytes per second now; 0 between two cycles."""
        return int(self._pace.bytes_per_s) if self.running else 0

    def pause(self) -> None:
        """Stop before the next slice, or within the audit of the key index."""
        self._pace.pause()
        self._unpaced.pause()

    def resume(self) -> None:
        """Go on."""
        self._pace.resume()
        self._unpaced.resume()

    def ask(self) -> None:
        """Let a new cycle begin now, as fast as it may."""
        self._asked = True
        self._waiting.cancel()
        self._news.tell()

    async def run(self) -> None:
        """Scrub for ever, a cycle within every period."""
        while True:
            if self._asked or self._over:
                await self._until_due()
                await self._begin()
            try:
                await self._cycle()
            except (OSError, BusyError) as error:
                log.warning("scrub postponed", reason=str(error))
                await self._news.wait(at_most_s=_RETRY_S)
            finally:
                self.running = False

    async def _until_due(self) -> None:
        while not self._asked:
            due_in_s = self._due_in_s()
            if due_in_s <= 0:
                return
            await self._news.wait(at_most_s=min(due_in_s, _LONGEST_WAIT_S))

    def _due_in_s(self) -> float:
        """A cycle begins a period after the one before it began; the first one at once."""
        if not self.place.cycle:
            return 0.0
        return self.place.started_at + self._options.scrub_period_s - self._clock.now()

    async def _begin(self) -> None:
        self._hurried, self._asked = self._asked, False
        self._over, self._damaged, self._end = False, set(), (0, 0.0)
        before, now = self.place, int(self._clock.now())
        if self._hurried or self._was_open_before(before):
            await self._store.roll()
        self.place = ScrubPosition(before.cycle + 1, now, 0, 0, 0, before.completed_at)
        await self._save()

    def _was_open_before(self, place: ScrubPosition) -> bool:
        """Whether the segment that is written to was so when the last cycle ended, at `place`."""
        infos = self._store.segments()
        return bool(place.cycle and infos and not infos[-1].sealed) and (
            infos[-1].first_seq <= place.seq + 1
        )

    async def _cycle(self) -> None:
        """Read to the end of the log, or until somebody asks for a new cycle."""
        self.running = True
        while not self._asked:
            await self._pace.spend(0)
            done = await self._store.scrub(self.place.seq, self._unpaced)
            for problem in done.problems:
                self.problems += 1
                self._note(problem)
                await self._ledger.record(problem)
            self.bytes_read += done.nbytes
            self.place = replace(
                self.place,
                seq=done.after_seq,
                nbytes=self.place.nbytes + done.nbytes,
                findings=self.place.findings + len(done.problems),
            )
            if done.done:
                if self._damaged is not None:
                    await self._ledger.strike_out(self.place, self._damaged, self._pace)
                self._over = True
                self.place = replace(self.place, completed_at=int(self._clock.now()))
                await self._save()
                log.info("scrub cycle ended", cycle=self.place.cycle, nbytes=self.place.nbytes)
                return
            if self._save_is_due():
                await self._save()
            await self._pay(done.nbytes)

    def _note(self, problem: Problem) -> None:
        """Whoever is not named may be among what nobody could name."""
        if problem.blob == ZERO_32 or len(self._damaged or ()) >= _DAMAGED_MAX:
            self._damaged = None
        elif self._damaged is not None:
            self._damaged.add(problem.blob)

    async def _pay(self, nbytes: int) -> None:
        self._pace.bytes_per_s = self._due_rate(nbytes)
        with trio.CancelScope() as self._waiting:
            await self._pace.spend(nbytes)
        if self._waiting.cancelled_caught:
            # What the old cycle still had to pay for is none of the new one's.
            before, self._pace = self._pace, Pace(self._options.scrub_rate_max)
            if before.paused:
                self._pace.pause()

    def _due_rate(self, nbytes: int) -> float:
        """What is left, with the `nbytes` that are to be paid for, in the time that is left."""
        if self._hurried:
            return self._options.scrub_rate_max
        end = self.place.started_at + _IN_TIME * self._options.scrub_period_s
        left_s = max(1.0, end - self._clock.now())
        return min(max((self._left() + nbytes) / left_s, 1.0), self._options.scrub_rate_max)

    def _left(self) -> int:
        """Bytes ahead. Not what is stored less what was read: compaction may have taken that."""
        end, count_at = self._end
        if trio.current_time() >= count_at:
            ahead = (info for info in self._store.segments() if info.last_seq > self.place.seq)
            end = self.place.nbytes + sum(info.nbytes for info in ahead if info.sealed)
            self._end = end, trio.current_time() + _MEASURE_S
        return max(0, end - self.place.nbytes)

    def _save_is_due(self) -> bool:
        nbytes, when = self._saved
        late = trio.current_time() - when >= _SAVE_INTERVAL_S
        return late or self.place.nbytes - nbytes >= _SAVE_BYTES

    async def _save(self) -> None:
        await self._ledger.move(self.place)
        self._saved = (self.place.nbytes, trio.current_time())
