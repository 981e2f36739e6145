"""A bucket's upkeep beside its calls: compaction and scrub, and what operators ask of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import trio

from ostnode.env import Clock
from ostnode.errors import ShuttingDownError, UnknownCallError
from ostnode.roles.bucket.compaction import Compaction
from ostnode.roles.bucket.desk import Desk
from ostnode.roles.bucket.ledger import Ledger
from ostnode.roles.bucket.options import BucketOptions
from ostnode.roles.bucket.scrubbing import Scrubbing
from ostnode.store.errors import StoreFailedError
from ostnode.store.pace import Pace
from ostnode.store.store import Store
from ostnode.wire import messages as m
from ostnode.wire import upkeep as u
from ostnode.wire.fields import Message, Request


class Maintenance:
    """Two tasks in the background, and the calls of operators. `run` ends when the store fails."""

    def __init__(self, desk: Desk, store: Store, options: BucketOptions, clock: Clock) -> None:
        self._store, self._options, self._clock = store, options, clock
        self._pace = Pace(options.upkeep.compaction_rate)
        self.ledger = Ledger(desk, store, clock)
        self.compaction = Compaction(store, self.ledger, options, self._pace, clock)
        self.scrubbing = Scrubbing(store, self.ledger, options.upkeep, clock)

    async def run(self) -> None:
        """Compact and scrub."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_failed, self.compaction.run)
            nursery.start_soon(_until_failed, self.scrubbing.run)

    @property
    def paused(self) -> bool:
        """Whether both wait before the next bytes they would read or write."""
        return self._pace.paused

    @property
    def full(self) -> bool:
        """Whether uploads are refused for want of space."""
        return self._store.space().free <= self._options.rules.free_bytes_min

    def pause(self, *, paused: bool) -> None:
        """Hold both where they are, or let them go on."""
        if paused:
            self._pace.pause()
            self.scrubbing.pause()
        else:
            self._pace.resume()
            self.scrubbing.resume()

    async def handle(self, request: Request) -> Message:
        """An operator's call; raises UnknownCallError for every other."""
        await trio.lowlevel.checkpoint()
        match request:
            case u.MaintenanceStatus():
                return self.status()
            case u.CompactBucket(dry_run=dry_run):
                return await self._compact(dry_run=dry_run)
            case u.PauseMaintenance(paused=paused):
                self.pause(paused=paused)
                return m.Ok()
            case u.StartScrub():
                self.scrubbing.ask()
                return m.Ok()
            case u.ForgetFindings():
                await self.ledger.forget()
                self.scrubbing.ask()
                return m.Ok()
            case _:
                raise UnknownCallError("a bucket has no such call")

    async def _compact(self, *, dry_run: bool) -> u.CompactionPlan:
        try:
            plan = await self.compaction.plan()
        except StoreFailedError as error:
            raise ShuttingDownError("the store has failed") from error
        return plan if dry_run else replace(plan, pass_number=self.compaction.ask())

    def status(self) -> u.MaintenanceInfo:
        """The report, as of now."""
        space = self._store.space()
        return u.MaintenanceInfo(
            paused=self.paused,
            full=self.full,
            space=m.Space(space.total, space.free, space.stored),
            segments=self._segments(),
            key_index=self._store.index_bytes,
            corrupt_reads=self._store.corrupt_reads,
            compaction=self._compaction(),
            scrub=self._scrub(space.stored),
            findings=tuple(self.ledger.findings(u.FINDINGS_TOLD_MAX)),
        )

    def _segments(self) -> u.SegmentTotals:
        infos = self._store.segments()
        return u.SegmentTotals(
            count=len(infos),
            bytes=sum(info.nbytes for info in infos),
            allocated=sum(info.allocated for info in infos),
            dead=sum(info.dead_bytes for info in infos),
        )

    def _compaction(self) -> u.CompactionInfo:
        told = self.compaction.figures
        busy = "paused" if self.paused else "running"
        return u.CompactionInfo(
            state=busy if told.doing else "idle",
            doing=told.doing,
            segment=told.segment,
            passes=told.passes,
            asked=self.compaction.asked,
            pass_done=told.pass_done,
            pass_total=told.pass_total,
            pass_freed=told.pass_freed,
            copied=told.copied,
            freed=told.freed,
            punched=told.punched,
            skipped=told.skipped,
            ended_at=told.ended_at,
        )

    def _scrub(self, stored: int) -> u.ScrubInfo:
        scrub = self.scrubbing
        busy = "paused" if self.paused else "running"
        return u.ScrubInfo(
            state=busy if scrub.running else "waiting",
            cycle=scrub.place.cycle,
            position=scrub.place.seq,
            bytes_done=scrub.place.nbytes,
            bytes_total=max(stored, scrub.place.nbytes) if scrub.running else scrub.place.nbytes,
            started_at=scrub.place.started_at,
            ended_at=scrub.place.completed_at,
            rate=scrub.rate,
            findings=self.ledger.count(),
        )


async def _until_failed(task: Callable[[], Awaitable[None]]) -> None:
    """Why the store failed is the writer's to raise; beside that this would be a second reason."""
    with suppress(ShuttingDownError, StoreFailedError):
        await task()
