"""When and what a bucket compacts: by itself what is mostly dead, on demand all that is worth it.

The store judges, rewrites and punches; here is decided which segments, in which order, how fast,
and what to do when there is no room for the copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import structlog
import trio

from ostnode.env import Clock
from ostnode.errors import DataCorruptError
from ostnode.roles.bucket.desk import News
from ostnode.roles.bucket.ledger import Ledger
from ostnode.roles.bucket.options import BucketOptions
from ostnode.store.catalog import SegmentInfo
from ostnode.store.compaction import CompactionPass
from ostnode.store.errors import StoreFullError
from ostnode.store.judging import Judgement, whole_blocks
from ostnode.store.pace import Pace
from ostnode.store.planning import Run, plan_compaction
from ostnode.store.staging import SEGMENT_RECORDS_MAX
from ostnode.store.store import Store
from ostnode.wire import upkeep as u

ON_DEMAND_SHARE: Final = 0.9
"""On demand whatever is more than a tenth dead is rewritten."""
_PASSES_MAX: Final = 3
"""A pass may make records droppable that lie behind it: repeated while it frees something."""
_WINDOW: Final = 64
"""Segments judged before the first of them is rewritten: bounds what is remembered of them."""
_PLAN_DEADLINE_S: Final = 10.0
"""A plan is for somebody who waits."""
_PUNCH_SHARE: Final = 8
"""Holes are made once they give back this part of a segment."""
_JOIN_MIN: Final = 4
_HEADER_BYTES: Final = 96
"""Judging a record reads about its footer entry."""
_BARGAIN: Final = 4
"""Below the free-space floor only what frees this many times what it copies is rewritten."""
_FIRST_LOOK_S: Final = 3600.0
_LOOK_S: Final = 86_400.0
"""Everything is judged an hour after the start, and a day after the last time, or sooner:"""
_BURDEN: Final = 8
"""Once tombstones that may not go are this part of what is stored, all that holds anything dead is
rewritten: one dead record, in a segment that is not worth it by itself, keeps all behind it."""
_LOOK_GROWTH: Final = 4
"""when this part of what was stored then, and as many segments, have come on top."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Figures:
    """What there is to tell; see `wire.upkeep.CompactionInfo`."""

    doing: str = ""
    segment: int = 0
    passes: int = 0
    pass_done: int = 0
    pass_total: int = 0
    pass_freed: int = 0
    copied: int = 0
    freed: int = 0
    punched: int = 0
    skipped: int = 0
    ended_at: int = 0


class Compaction:
    """One task; never two passes at once."""

    def __init__(
        self, store: Store, ledger: Ledger, options: BucketOptions, pace: Pace, clock: Clock
    ) -> None:
        self._store, self._ledger, self._options = store, ledger, options
        self._pace, self._clock = pace, clock
        self._news = News()
        self._asked = False
        self._on_demand = False
        self._judged_at: dict[int, int] = {}
        self._burden = 0
        """Bytes of tombstones that may not go, as of the last look at everything."""
        self._look_s = _FIRST_LOOK_S
        self._look: tuple[float, int] | None = None
        """When everything is judged next, and the bytes at which it is done sooner."""
        self.figures = Figures()

    async def run(self) -> None:
        """Compact when somebody asks, and now and then what is worth it."""
        while True:
            if self._asked:
                await self.pass_on_demand()
            else:
                await self.round()
            if not self._asked:
                await self._news.wait(at_most_s=self._options.upkeep.compaction_interval_s)

    def ask(self) -> int:
        """Let a pass over everything begin; returns what `passes` is once it has ended."""
        self._asked = True
        self._news.tell()
        return self.asked

    @property
    def asked(self) -> int:
        """What `passes` will be when all that was asked for is done."""
        return self.figures.passes + self._on_demand + self._asked

    async def pass_on_demand(self) -> None:
        """Go through everything until that frees no more."""
        self._asked, self._on_demand = False, True
        self._tell(pass_freed=0, ended_at=0)
        await self._close_dead_segment()
        await self._go_through_all(ON_DEMAND_SHARE)
        self._on_demand = False
        self._tell(passes=self.figures.passes + 1, ended_at=int(self._clock.now()))
        log.info("compaction pass ended", freed=self.figures.pass_freed)

    async def _close_dead_segment(self) -> None:
        """The segment that is written to is rewritten like any other, once it is sealed."""
        for info in self._store.segments():
            if not info.sealed and info.dead_bytes > (1 - ON_DEMAND_SHARE) * info.nbytes:
                await self._store.roll()

    async def round(self) -> None:
        """Look at the segments whose estimate has changed enough, and at runs of tiny ones; now and
        then at all.
        """
        sealed = [info for info in self._store.segments() if info.sealed]
        share = self._options.upkeep.compact_below
        if self._is_time_for_all():
            self._look_s, self._look = _LOOK_S, None
            self._judged_at = {info.number: info.dead_bytes for info in sealed}
            self._tell(pass_freed=0, ended_at=0)
            await self._go_through_all(share)
            self._tell(ended_at=int(self._clock.now()))
            return
        chosen = self._joinable(sealed)
        numbers = [
            info.number for info in sealed if info.number in chosen or self._is_worth_a_look(info)
        ]
        self._judged_at = {
            info.number: info.dead_bytes
            for info in sealed
            if info.number in numbers or info.number in self._judged_at
        }
        if not numbers:
            return
        self._tell(pass_freed=0, ended_at=0)
        await self._go_through(numbers, share)
        self._tell(ended_at=int(self._clock.now()))

    def _is_time_for_all(self) -> bool:
        """Estimates know of payloads alone: metadata that has died shows only when it is judged,
        and tombstones go only once all before them was.
        """
        now, stored = trio.current_time(), self._store.space().stored
        if self._look is None:
            more = stored // _LOOK_GROWTH + _LOOK_GROWTH * self._options.store.segment_bytes
            self._look = now + self._look_s, stored + more
        due_at, due_bytes = self._look
        return now >= due_at or stored >= due_bytes

    def _share(self, share: float, burden: int, freed: int = 0) -> float:
        """The live share below which segments are rewritten, with so many bytes of tombstones.

        Once `freed` bytes less are stored.
        """
        return 1.0 if burden * _BURDEN > self._store.space().stored - freed else share

    def _joinable(self, sealed: Sequence[SegmentInfo]) -> set[int]:
        """Small segments side by side, many enough to be joined, of which one at least is new."""
        joinable: set[int] = set()
        for small, group in groupby(sealed, key=self._is_small):
            numbers = [info.number for info in group]
            if small and len(numbers) >= _JOIN_MIN and not self._judged_at.keys() >= set(numbers):
                joinable.update(numbers)
        return joinable

    def _is_small(self, info: SegmentInfo) -> bool:
        return info.allocated < self._options.store.segment_bytes // 4

    def _is_worth_a_look(self, info: SegmentInfo) -> bool:
        """By the estimate; again only when more has died since."""
        judged_at = self._judged_at.get(info.number)
        step = info.nbytes // _PUNCH_SHARE
        if judged_at is not None and info.dead_bytes < judged_at + step:
            return False
        needed = info.nbytes - info.dead_bytes
        mostly_dead = needed < self._options.upkeep.compact_below * info.allocated
        return mostly_dead or info.allocated - needed >= step

    async def plan(self) -> u.CompactionPlan:
        """What a pass on demand would do now, as far as there is time to judge.

        Tombstones that may not go can come to weigh so much that everything is rewritten that holds
        anything dead. That is foreseen; nothing keeps these tombstones then.
        """
        sealed = [info.number for info in self._store.segments() if info.sealed]
        passing = self._store.compaction_pass()
        judgements: list[Judgement] = []
        judged = 0
        until = trio.current_time() + _PLAN_DEADLINE_S
        for number in sealed:
            if trio.current_time() >= until:
                break
            judgement = await self._judgement(passing, number)
            judged += 1
            if judgement is not None:
                # Where its holes could go is of no interest, and may be long.
                judgements.append(replace(judgement, punchable=()))
        judgements, runs = self._foreseen(judgements)
        planned = {number for run in runs for number in run.segments}
        told = [_planned(j) for j in judgements if j.number in planned]
        return u.CompactionPlan(
            pass_number=0,
            sealed=len(sealed),
            judged=judged,
            planned=len(planned),
            keeps=sum(run.keeps_bytes for run in runs),
            frees=sum(run.frees_bytes for run in runs),
            segments=tuple(told[: u.SEGMENTS_TOLD_MAX]),
        )

    def _foreseen(self, judgements: list[Judgement]) -> tuple[list[Judgement], list[Run]]:
        """The runs of all passes together, and the judgements they rest on."""
        runs = self._runs(judgements, self._share(ON_DEMAND_SHARE, self._burden))
        freed, burden = sum(run.frees_bytes for run in runs), sum(map(_held_back, judgements))
        share = self._share(ON_DEMAND_SHARE, max(burden, self._burden), freed)
        if share <= ON_DEMAND_SHARE:
            return judgements, runs
        judgements = [replace(judgement, tombstones_free=True) for judgement in judgements]
        return judgements, self._runs(judgements, share)

    def _runs(self, judgements: Sequence[Judgement], share: float) -> list[Run]:
        return plan_compaction(
            judgements,
            live_share_max=share,
            segment_bytes=self._options.store.segment_bytes,
            records_max=SEGMENT_RECORDS_MAX,
        )

    async def _go_through_all(self, share: float) -> None:
        """Again and again until that frees no more."""
        for _ in range(_PASSES_MAX):
            before, now = self.figures.freed, self._share(share, self._burden)
            numbers = [info.number for info in self._store.segments() if info.sealed]
            kept = await self._go_through(numbers, now)
            self._burden = kept if now < 1 else 0
            if self.figures.freed == before and self._share(share, self._burden) == now:
                return

    async def _go_through(self, numbers: Sequence[int], share: float) -> int:
        """One pass over these segments, in the log's order, a window of them at a time.

        How many bytes of tombstones could not go.
        """
        passing, kept = self._store.compaction_pass(), 0
        self._tell(pass_done=0, pass_total=len(numbers))
        for at in range(0, len(numbers), _WINDOW):
            judgements = []
            for number in numbers[at : at + _WINDOW]:
                self._tell(doing="judging", segment=number)
                judgement = await self._judgement(passing, number)
                if judgement is not None:
                    await self._pace.spend(judgement.records * _HEADER_BYTES)
                    judgements.append(judgement)
                    kept += _held_back(judgement)
            runs = self._affordable(judgements, share)
            rewritten = {number for run in runs for number in run.segments}
            for judgement in judgements:
                if judgement.number not in rewritten:
                    await self._punch(judgement)
            for run in runs:
                if not await self._compact(passing, run):
                    for judgement in judgements:
                        if judgement.number in run.segments:
                            await self._punch(judgement)
            self._tell(pass_done=min(at + _WINDOW, len(numbers)))
        self._tell(doing="", segment=0)
        return kept

    def _affordable(self, judgements: Sequence[Judgement], share: float) -> list[Run]:
        """The log's order; on a full disk each by itself, what frees most for its copy first."""
        if self._store.space().free > self._floor:
            return self._runs(judgements, share)
        runs = [run for judgement in judgements for run in self._runs([judgement], share)]
        return sorted(runs, key=lambda run: run.keeps_bytes / (run.frees_bytes + 1))

    @property
    def _floor(self) -> int:
        return self._options.rules.free_bytes_min

    async def _judgement(self, passing: CompactionPass, number: int) -> Judgement | None:
        """None for a segment that is gone or damaged: recovery and scrub tell about that."""
        try:
            return await passing.judge(number)
        except (ValueError, OSError, DataCorruptError) as error:
            self._tell(skipped=self.figures.skipped + 1)
            log.warning("segment skipped by compaction", segment=number, reason=str(error))
            return None

    async def _punch(self, judgement: Judgement) -> None:
        holes = sum(whole_blocks(extent)[1] for extent in judgement.punchable)
        if holes * _PUNCH_SHARE < judgement.nbytes:
            return
        self._tell(doing="punching", segment=judgement.number)
        try:
            given = await self._store.punch(judgement, self._pace)
        except OSError as error:
            self._tell(skipped=self.figures.skipped + 1)
            log.warning("no holes made", segment=judgement.number, reason=str(error))
            return
        self._count(given, punched=given)

    async def _compact(self, passing: CompactionPass, run: Run) -> bool:
        """Whether it was done. A copy may take a segment of the floor: it soon gives back more."""
        spare = self._store.space().free - self._floor + self._options.store.segment_bytes
        if spare < run.keeps_bytes and run.frees_bytes < _BARGAIN * run.keeps_bytes:
            self._skip(run, "the disk has no room to spare for the copy")
            return False
        self._tell(doing="copying", segment=run.segments[0])
        try:
            done = await passing.compact(run, self._pace)
        except (ValueError, OSError, StoreFullError, DataCorruptError) as error:
            self._skip(run, str(error), soon=not isinstance(error, OSError))
            return False
        self._count(done.freed, copied=run.keeps_bytes)
        for problem in done.problems:
            await self._ledger.record(problem)
        return True

    def _skip(self, run: Run, reason: str, *, soon: bool = True) -> None:
        """A run that may go another time; `soon` is the next round."""
        self._tell(skipped=self.figures.skipped + len(run.segments))
        for number in run.segments if soon else ():
            self._judged_at.pop(number, None)
        log.warning("compaction postponed", segments=run.segments, reason=reason)

    def _count(self, freed: int, *, copied: int = 0, punched: int = 0) -> None:
        told = self.figures
        self._tell(
            freed=told.freed + max(0, freed),
            pass_freed=told.pass_freed + max(0, freed),
            copied=told.copied + copied,
            punched=told.punched + punched,
        )

    def _tell(self, *, doing: str | None = None, **figures: int) -> None:
        told = self.figures.doing if doing is None else doing
        self.figures = replace(self.figures, doing=told, **figures)


def _held_back(judgement: Judgement) -> int:
    """Bytes of tombstones that may not go."""
    return 0 if judgement.tombstones_free else judgement.tombstone_bytes


def _planned(judgement: Judgement) -> u.PlannedSegment:
    live = judgement.live_bytes + _held_back(judgement)
    frees = max(0, judgement.allocated - live)
    return u.PlannedSegment(judgement.number, judgement.allocated, live, frees)
