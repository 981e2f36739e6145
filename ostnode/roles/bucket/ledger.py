"""What scrub writes down in the bucket's log, and reads there: its place, and what is damaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
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

    async def strike_out(self, cycle: ScrubPosition, damaged: Set[bytes], pace: Pace) -> None:
        """Forget findings older than a whole cycle that did not find the blob `damaged` again.

        A disk may fail to read for a while only. Nothing is forgotten of blobs that lie behind
        where the cycle ended.
        """
        after = b""
        while page := list_findings(self._desk.durable, _PAGE, after):
            for finding in page:
                known = finding.found_at >= cycle.started_at or finding.blob in damaged
                if not known and await self._is_whole(finding, cycle.seq, pace):
                    await self._desk.decide(partial(_clear, findings=[finding]))
                    log.info("a blob is readable again", blob=str(finding.blob))
            after = page[-1].key

    async def forget(self) -> None:
        """Strike out all damage that makes no blob unreadable, for an operator who knows of it.

        Whether its place is whole says little: a record that recovery could not read had no effect,
        and has none when it can be read again.
        """
        after, count = b"", 0
        while page := list_findings(self._desk.durable, _PAGE, after):
            lasting = [finding for finding in page if not finding.quarantined]
            if lasting:
                await self._desk.decide(partial(_clear, findings=lasting))
            after, count = page[-1].key, count + len(lasting)
        log.warning("findings were struck out on demand", count=count)

    async def _is_whole(self, finding: Finding, read_to: int, pace: Pace) -> bool:
        """Whether every chunk of the blob is there, was read by the cycle, and can be read now.

        Reading alone does not tell: what was verified once may be taken for whole after that.
        """
        if finding.blob is None or not finding.quarantined or finding.kind != Kind.CHUNK:
            return False
        stored = self._desk.durable.blob(finding.blob)
        if stored is None:
            return False
        read = {info.number for info in self._store.segments() if info.last_seq <= read_to}
        for index in range(max(1, -(-stored.size // stored.chunk_bytes))):
            row = self._desk.durable.own_chunk(stored.number, index)
            if row is None or row.extent.segment not in read:
                return False
            try:
                await self._store.read(row.extent)
            except (DataCorruptError, OSError):
                return False
            await pace.spend(row.extent.length)
        return True


def _clear(draft: Draft, findings: Sequence[Finding]) -> None:
    for finding in findings:
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
