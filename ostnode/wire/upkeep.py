"""A bucket's maintenance: what operators ask of compaction and scrub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from ostnode.ids import BlobId, Principal
from ostnode.wire.fields import Amount, Bounds, Message, Request, ShortText
from ostnode.wire.messages import Space

FINDINGS_TOLD_MAX: Final = 64
FINDING_ACCESSORS_MAX: Final = 16
SEGMENTS_TOLD_MAX: Final = 256
"""So that the answers fit the 64 KiB and 4,096 items of a header."""


@dataclass(frozen=True, slots=True)
class MaintenanceStatus(Request):
    """How compaction, scrub and the disk of a bucket do."""


@dataclass(frozen=True, slots=True)
class SegmentTotals(Message):
    """The log on the disk. `dead` is an estimate; `allocated` is what the file system gave."""

    count: Amount
    bytes: Amount
    allocated: Amount
    dead: Amount


@dataclass(frozen=True, slots=True)
class CompactionInfo(Message):
    """`state` is idle, running or paused; `doing` says what: judging, copying, punching or nothing.

    `segment` is the one at hand. `passes` are those on demand that have ended, `asked` what they
    will be; they and the bytes count since the process started, the `pass_` figures within the
    running pass or the last one. `ended_at` is when that ended, 0 while it runs.
    """

    state: ShortText
    doing: ShortText
    segment: Amount
    passes: Amount
    asked: Amount
    pass_done: Amount
    pass_total: Amount
    pass_freed: Amount
    copied: Amount
    freed: Amount
    punched: Amount
    skipped: Amount
    ended_at: Amount


@dataclass(frozen=True, slots=True)
class ScrubInfo(Message):
    """`state` is waiting, running or paused; `cycle` counts passes since the bucket was made.

    `position` is the sequence number up to which this cycle has read, `rate` its bytes per second
    now. Findings count every blob and range that is damaged at the moment.
    """

    state: ShortText
    cycle: Amount
    position: Amount
    bytes_done: Amount
    bytes_total: Amount
    started_at: Amount
    ended_at: Amount
    rate: Amount
    findings: Amount


@dataclass(frozen=True, slots=True)
class Finding(Message):
    """Damage that stands. `accessors` are up to 16 of those that reference the blob."""

    what: ShortText
    segment: Amount
    offset: Amount
    length: Amount
    since: Amount
    blob_id: BlobId | None = None
    accessors: Annotated[tuple[Principal, ...], Bounds(0, FINDING_ACCESSORS_MAX)] = ()


@dataclass(frozen=True, slots=True)
class MaintenanceInfo(Message):
    """The report of one bucket. `full` says that it takes no uploads; `key_index` is bytes."""

    paused: bool
    full: bool
    space: Space
    segments: SegmentTotals
    key_index: Amount
    corrupt_reads: Amount
    compaction: CompactionInfo
    scrub: ScrubInfo
    findings: Annotated[tuple[Finding, ...], Bounds(0, FINDINGS_TOLD_MAX)] = ()


@dataclass(frozen=True, slots=True)
class CompactBucket(Request):
    """Rewrite whatever is more than a tenth dead; with `dry_run` only say what that would free."""

    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PlannedSegment(Message):
    """A segment that would be rewritten, alone or with its neighbours."""

    number: Amount
    allocated: Amount
    live: Amount
    frees: Amount


@dataclass(frozen=True, slots=True)
class CompactionPlan(Message):
    """What a pass would do now. `judged` of `sealed` segments were looked at in the time there was.

    `frees` is of all of them, `segments` the first 256. The pass that was asked for is over once
    `CompactionInfo.passes` reaches `pass_number`; 0 for a dry run.
    """

    pass_number: Amount
    sealed: Amount
    judged: Amount
    planned: Amount
    keeps: Amount
    frees: Amount
    segments: Annotated[tuple[PlannedSegment, ...], Bounds(0, SEGMENTS_TOLD_MAX)] = ()


@dataclass(frozen=True, slots=True)
class PauseMaintenance(Request):
    """Hold compaction and scrub where they are, or let them go on. A restart goes on."""

    paused: bool


@dataclass(frozen=True, slots=True)
class StartScrub(Request):
    """Begin a new scrub cycle at once, as fast as the configuration lets it."""


@dataclass(frozen=True, slots=True)
class ForgetFindings(Request):
    """Strike out all damage that makes no blob unreadable, then begin a scrub cycle.

    It finds what is still there.
    """
