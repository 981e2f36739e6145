"""What scrub writes down in the bucket's log, and reads there: its place, and what is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import structlog

from ostnode.env import Clock
from ostnode.errors import BusyError, DataCorruptError
from ostnode.ids import BlobId
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.damages import record_problems
from ostnode.roles.bucket.desk import Desk
from ostnode.roles.bucket.findings import (
    Finding,
    clear_finding,
    list_findings,
    scrub_position,
    set_scrub_position,
)
from ostnode.roles.bucket.records import Kind, ScrubPosition
from ostnode.store.pace import Pace
from ostnode.store.record import Problem
from ostnode.store.store import Store
from ostnode.wire import upkeep as u

_COUNTED_MAX: Final = 1000
_PAGE: Final = 64

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Ledger:
    """All that a method has written is durable once it returns."""

    def __init__(self, desk: Desk, store: Store, clock: Clock) -> None:
        self._desk, self._store, self._clock = desk, store, clock

    def place(self) -> ScrubPosition:
        """The place that was written down last."""
        return scrub_position(self._desk.durable)

    async def move(self, place: ScrubPosition) -> None:
        """Write the place down; on a full disk that is left for the next time."""
        try:
            await self._desk.decide(lambda draft: set_scrub_position(draft, place))
        except BusyError:
            log.warning("the place of the scrub was not written down: the disk is full")

    async def record(self, problem: Problem) -> None:
        """Put damage on record, once however often it is found."""
        await record_problems(self._desk, (problem,), self._clock)

    def count(self) -> int:
        """How much damage is on record; counted up to 1,000."""
        return len(self._desk.durable.findings(_COUNTED_MAX))

    def findings(self, limit: int) -> Iterator[u.Finding]:
        """What is damaged now."""
        return map(_told, list_findings(self._desk.durable, limit))

    async def recheck(self, pace: Pace) -> None:
        """Read the damaged chunks' blobs again, and strike out which are whole after all.

        A disk may fail to read for a while only.
        """
        after = b""
        while page := list_findings(self._desk.durable, _PAGE, after):
            for finding in page:
                if await self._is_whole(finding, pace):
                    await self._desk.decide(partial(_clear, finding=finding))
                    log.info("a blob is readable again", blob=str(finding.blob))
            after = page[-1].key

    async def _is_whole(self, finding: Finding, pace: Pace) -> bool:
        """Whether every chunk of the blob can be read and is what was written."""
        if finding.blob is None or not finding.quarantined or finding.kind != Kind.CHUNK:
            return False
        stored = self._desk.durable.blob(finding.blob)
        if stored is None:
            return False
        for index in range(max(1, -(-stored.size // stored.chunk_bytes))):
            row = self._desk.durable.own_chunk(stored.number, index)
            if row is None:
                return False
            try:
                await self._store.read(row.extent)
            except (DataCorruptError, OSError):
                return False
            await pace.spend(row.extent.length)
        return True


def _clear(draft: Draft, finding: Finding) -> None:
    if draft.finding(finding.key):
        clear_finding(draft, finding)


def _told(finding: Finding) -> u.Finding:
    return u.Finding(
        finding.what,
        finding.segment,
        finding.offset,
        finding.length,
        finding.found_at,
        None if finding.blob is None else BlobId(finding.blob),
        finding.accessors,
    )
