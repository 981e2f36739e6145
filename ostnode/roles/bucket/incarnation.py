"""Beginning anew: a bucket that was set back, or whose index was.

A bucket restored from a copy of its directory has made promises that it no longer knows. It takes
a new incarnation, in which no grant of the one before counts, and tells the index what it holds.
One whose index was restored only refuses the grants of the index's earlier life.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from ostnode.env import Clock
from ostnode.errors import InvalidArgumentError, OstError
from ostnode.ids import Principal
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.closing import close_upload
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.desk import Desk
from ostnode.roles.bucket.records import FeedCursor, GrantsEnded, Init, OutboxAcked, Reason
from ostnode.wire import messages as m

STEP_US: Final = 1_000_000
_UPLOADS_MAX: Final = 64
_GRANTS_MAX: Final = 250

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SetBack:
    """The index's word that one side was set back: its incarnation, and the bucket's as it knows
    that. `behind`: the bucket has lost what the index has acknowledged.
    """

    index: int
    bucket: int
    behind: bool

    @classmethod
    def told_by(cls, error: OstError) -> SetBack | None:
        """What a refusal with the detail `resync` says; None for any other refusal."""
        details = error.details
        index, bucket = details.get("index"), details.get("bucket")
        if not isinstance(error, InvalidArgumentError) or not details.get("resync"):
            return None
        if not isinstance(index, int) or not isinstance(bucket, int):
            return None
        return cls(index, bucket, bool(details.get("behind")))


async def begin_anew(desk: Desk, clock: Clock, told: SetBack) -> None:
    """Do here what has to be done before the resync begins; done again, it changes nothing more."""
    now_us = int(clock.now() * STEP_US)
    took = await desk.decide(partial(_take_incarnation, told=told, now_us=now_us))
    if took:
        log.error("bucket was set back, and begins anew", incarnation=took)
    if await desk.decide(partial(_acknowledge, index=told.index)):
        log.error("the index was set back, and begins anew", incarnation=told.index)
    own = desk.state.number(t.INCARNATION)
    after: int | None = 0
    while after is not None:
        close = partial(_close_uploads, after=after, index=told.index, every=own != told.bucket)
        after = await desk.decide(close)
    place: bytes | None = b"" if own != told.bucket else None
    while place is not None:
        place = await desk.decide(partial(_name_ends, after=place))


def _take_incarnation(draft: Draft, told: SetBack, now_us: int) -> int:
    """The new incarnation, 0 when none is needed. What waits for the index is of the old one: the
    resync says it better. The feed is read again from its start, for what was asked there and
    answered in events that are lost.
    """
    own, index = draft.number(t.INCARNATION), draft.index()
    if index is None or not (own < told.bucket or (told.behind and own == told.bucket)):
        return 0
    incarnation = max(now_us, own + STEP_US, told.bucket + STEP_US)
    draft.add(Init(incarnation, Principal(index)))
    last = draft.number(t.OUTBOX_NEXT) - 1
    if last > draft.number(t.OUTBOX_ACKED):
        draft.add(OutboxAcked(last))
    _read_from_start(draft, draft.feed_cursor()[0], draft.feed_life())
    return incarnation


def _acknowledge(draft: Draft, index: int) -> bool:
    """Read the feed of the index's new life from its start; grants of the old one are refused."""
    before, _ = draft.feed_cursor()
    if before == index:
        return False
    _read_from_start(draft, index, draft.feed_life() + 1 if before else 0)
    return True


def _read_from_start(draft: Draft, index: int, life: int) -> None:
    draft.add(FeedCursor(index, 0, draft.feed_level() or None, life or None))


def _close_uploads(draft: Draft, after: int, index: int, every: bool) -> int | None:  # noqa: FBT001
    """Close a slice of uploads whose grants count no more; behind which number to go on."""
    uploads = draft.uploads(after, _UPLOADS_MAX)
    for _, upload in uploads:
        if every or upload.grant_id.incarnation != index:
            close_upload(draft, upload, Reason.REVOKED)
    return uploads[-1][0] if uploads else None


def _name_ends(draft: Draft, after: bytes) -> bytes | None:
    """Closed grants of the old incarnation, of which the index may never hear, need not be kept
    beyond the end that was seen.
    """
    unended, place = draft.grants_unended(after, _GRANTS_MAX)
    if unended:
        draft.add(GrantsEnded(tuple(m.ClosedEnd(name, 0) for name in unended)))
    return place or None
