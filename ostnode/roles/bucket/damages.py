"""Damage that reads meet, on its way to the log."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from ostnode.env import Clock
from ostnode.errors import BusyError, ShuttingDownError
from ostnode.ids import BlobId
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.desk import Desk, News
from ostnode.roles.bucket.findings import accessors_of, fill_gaps, record_problem, record_unreadable
from ostnode.roles.bucket.tables import OUTBOX_ACKED
from ostnode.store.record import Extent, Problem

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_WAITING_MAX: Final = 64
"""Blobs noted and not yet recorded; one that does not fit is met again by its next reader."""
_LOOK_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A chunk of a stored blob that could not be read; `extent` None when there is no chunk."""

    number: int
    index: int
    extent: Extent | None


class Damages:
    """Quarantines what cannot be read, each blob once; readers note and do not wait."""

    def __init__(self, desk: Desk, clock: Clock) -> None:
        self._desk, self._clock = desk, clock
        self._noted: dict[BlobId, Unreadable] = {}
        self._news = News()

    def note(self, blob_id: BlobId, unreadable: Unreadable) -> None:
        """Let it be recorded soon."""
        if len(self._noted) < _WAITING_MAX:
            self._noted.setdefault(blob_id, unreadable)
            self._news.tell()

    async def run(self) -> None:
        """Record what is noted, until the store fails."""
        with suppress(ShuttingDownError):
            while True:
                await self._news.wait(at_most_s=_LOOK_S)
                await self.record_noted()

    async def record_noted(self) -> None:
        """Record all that is noted now. What a full disk has no room for is met again."""
        while self._noted:
            blob_id, found = self._noted.popitem()
            with suppress(BusyError):
                await self._record(blob_id, found)

    async def _record(self, blob_id: BlobId, found: Unreadable) -> None:
        place = (blob_id, found.number, found.index, found.extent)
        news = await self._desk.decide(
            lambda draft: record_unreadable(draft, *place, self._clock.now())
        )
        if news:
            _report(self._desk, blob_id, f"chunk {found.index} cannot be read")


async def record_problems(desk: Desk, problems: tuple[Problem, ...], clock: Clock) -> None:
    """Keep what was found, and report what of it is news."""
    for problem in problems:
        try:
            news = await desk.decide(partial(_problem, problem=problem, now=clock.now()))
        except BusyError:
            news = True
        if news:
            _report(desk, BlobId(problem.blob), str(problem))


async def mend_outbox(desk: Desk, clock: Clock) -> None:
    """Fill the gaps that lost records have left in the outbox, and report that."""
    after: int | None = desk.state.number(OUTBOX_ACKED)
    while after is not None:
        after = await desk.decide(partial(_gaps, after=after, now=clock.now()))


def _problem(draft: Draft, problem: Problem, now: float) -> bool:
    return record_problem(draft, problem, now)


def _gaps(draft: Draft, after: int, now: float) -> int | None:
    following = fill_gaps(draft, after, now)
    if draft.records:
        log.error("events for the index were lost", lost=len(draft.records) // 2)
    return following


def _report(desk: Desk, blob_id: BlobId, problem: str) -> None:
    accessors = [accessor.hex() for accessor in accessors_of(desk.state, blob_id)]
    named = {"blob": blob_id.hex(), "accessors": accessors} if any(blob_id) else {}
    log.error("damage found in the log", problem=problem, **named)
