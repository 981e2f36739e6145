"""Findings: damage that recovery, reads, scrub or compaction met, as the bucket's log keeps it.

A damaged chunk of a stored blob, or its damaged commit, quarantines the blob: it counts as not
stored until it is uploaded again. A damaged chunk of an open upload is dropped, so that it is
pushed again. All else is kept for the operator to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

from ostnode.ids import BlobId, Principal
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.core.healing import fill_outbox, lose_chunks
from ostnode.roles.bucket.records import Healed, Kind, Quarantined, ScrubPosition
from ostnode.roles.bucket.reducer import finding_key
from ostnode.roles.bucket.views import View
from ostnode.store.record import ZERO_32, Damage, Extent, Problem

ACCESSORS_MAX: Final = 16
"""Accessors named with a finding."""
_OUTBOX_SLICE: Final = 256


@dataclass(frozen=True, slots=True)
class Finding:
    """Damage that stands.

    `blob` is None when no blob is known to be hit; `accessors` are up to 16 of those that
    reference it. `kind` is 0 for bytes in which nobody knows what stood. `found_at` is in seconds
    since 1970. `key` names the finding.
    """

    key: bytes
    blob: BlobId | None
    accessors: tuple[Principal, ...]
    kind: int
    what: str
    found_at: int
    segment: int
    offset: int
    length: int
    quarantined: bool


def record_problem(draft: Draft, problem: Problem, now: float) -> bool:
    """Keep what was found, and draw the consequences; whether it was news.

    Damage in what is garbage already is none.
    """
    if problem.kind == Kind.CHUNK and problem.what is Damage.PAYLOAD:
        return _record_chunk(draft, problem, now)
    if problem.kind == Kind.COMMIT:
        return _record_commit(draft, problem, now)
    if problem.kind == Kind.OUTBOX:
        return _record_event(draft, problem, now)
    return _keep(draft, problem, now)


def record_unreadable(
    draft: Draft, blob_id: BlobId, number: int, index: int, extent: Extent | None, now: float
) -> bool:
    """A read met bytes of chunk `index` that are not what was written, or no chunk at all.

    Nothing when the blob is made of other bytes by now.
    """
    stored, row = draft.blob(blob_id), draft.chunk(number, index)
    if stored is None or stored.number != number or extent != (row.extent if row else None):
        return False
    place = extent or Extent(0, 0, 0)
    problem = Problem(Damage.PAYLOAD, *place, Kind.CHUNK, blob_id, number, index)
    return _keep(draft, problem, now, quarantine=True)


def _record_chunk(draft: Draft, problem: Problem, now: float) -> bool:
    row = draft.own_chunk(problem.number, problem.chunk_index)
    if row is None or row.extent[:2] != (problem.segment, problem.offset):
        return False
    if lose_chunks(draft, problem.number, [problem.chunk_index]) is not None:
        return True
    stored = draft.blob(BlobId(problem.blob))
    if stored is None or stored.number != problem.number:
        return False
    return _keep(draft, problem, now, quarantine=True)


def _record_commit(draft: Draft, problem: Problem, now: float) -> bool:
    """Read again without it, the log has no such blob: what refers to it cannot be read."""
    blob_id = BlobId(problem.blob)
    stored = draft.blob(blob_id)
    if stored is None:
        return draft.needed(blob_id) and _keep(draft, problem, now, quarantine=True)
    return stored.commit == problem.seq and _keep(draft, problem, now)


def _record_event(draft: Draft, problem: Problem, now: float) -> bool:
    """An event that is lost before the index had it."""
    if problem.number <= draft.number(t.OUTBOX_ACKED):
        return False
    if draft.outbox_numbers(problem.number - 1, 1) != [problem.number]:
        fill_outbox(draft, [problem.number])
    return _keep(draft, problem, now)


def fill_gaps(draft: Draft, after: int, now: float) -> int | None:
    """Fill the gaps that damage has torn into the outbox, in the slice above event `after`.

    The event above which the next slice begins; None when that was the last.
    """
    after = max(after, draft.number(t.OUTBOX_ACKED))
    last = min(draft.number(t.OUTBOX_NEXT) - 1, after + _OUTBOX_SLICE)
    there = set(draft.outbox_numbers(after, _OUTBOX_SLICE))
    for number in range(after + 1, last + 1):
        if number not in there:
            lost = Problem(Damage.RANGE, 0, number, 0, kind=Kind.OUTBOX, number=number)
            _keep(draft, lost, now)
            fill_outbox(draft, [number])
    return last if last > after else None


def _keep(draft: Draft, problem: Problem, now: float, *, quarantine: bool = False) -> bool:
    finding = Quarantined(
        what=problem.what,
        found_at=int(now),
        blob_id=BlobId(problem.blob),
        kind=problem.kind,
        seq=problem.seq,
        number=problem.number,
        chunk_index=problem.chunk_index,
        segment=problem.segment,
        offset=problem.offset,
        length=problem.length,
    )
    blob = problem.blob if quarantine else ZERO_32
    if draft.finding(finding_key(blob, finding)):
        return False
    draft.add(finding, blob=blob)
    return True


def clear_finding(draft: Draft, finding: Finding) -> None:
    """Forget a finding; a blob it quarantined is read again, if it can be."""
    draft.add(Healed(finding.key[33:]), blob=finding.key[1:33])


def list_findings(view: View, limit: int, after: bytes = b"") -> list[Finding]:
    """Up to `limit` findings, those without a quarantined blob first, behind the key `after`."""
    return [_told(view, key, found) for key, found in view.findings(limit, after)]


def _told(view: View, key: bytes, found: Quarantined) -> Finding:
    named = None if found.blob_id == ZERO_32 else found.blob_id
    return Finding(
        key,
        named,
        () if named is None else accessors_of(view, named),
        found.kind,
        found.what,
        found.found_at,
        found.segment,
        found.offset,
        found.length,
        quarantined=key[1:33] != ZERO_32,
    )


def accessors_of(view: View, blob_id: BlobId) -> tuple[Principal, ...]:
    """Up to ACCESSORS_MAX of those that a blob is visible to."""
    return tuple(islice(view.accessors_of(blob_id), ACCESSORS_MAX))


def scrub_position(view: View) -> ScrubPosition:
    """How far the scrub is."""
    return view.scrub() or ScrubPosition(0, 0, 0, 0, 0)


def set_scrub_position(draft: Draft, position: ScrubPosition) -> None:
    """Remember how far the scrub is, unless that is known."""
    if scrub_position(draft) != position:
        draft.add(position)
