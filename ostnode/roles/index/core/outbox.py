"""sync_bucket: a bucket's outbox, applied in order and exactly once in effect.

A bucket sends its events by sequence number and sends them again until it has heard the answer.
What was answered to an event is kept until the bucket moves past it, so that a repeated event is
answered as the first time and changes nothing. One that cannot be applied is set aside and
reported, and the queue moves on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from blake3 import blake3

from ostnode.errors import InvalidArgumentError, OstError
from ostnode.ids import BlobId, GrantId, Principal
from ostnode.roles.index.core import chores, ledger, resync
from ostnode.roles.index.core.buckets import reported
from ostnode.roles.index.core.membership import raise_epoch, require_approved
from ostnode.roles.index.core.rows import Bucket, Charge, OutboxAnswer, Rejected
from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.eventcodec import decode_event
from ostnode.wire.fields import Message

_DIGEST_BYTES: Final = 16
_REASON_BYTES_MAX: Final = 60
"""500 of them fit a frame's header."""
_FLOOR_MAX: Final = 1 << 62
"""Ends of grants above a floor are to stay numbers that fit a row."""


class _New(NamedTuple):
    """An event that has not been applied yet, or why its bytes are none."""

    seq: int
    data: bytes
    event: Message | OstError


def sync_bucket(
    tables: Tables, rules: Rules, principal: Principal, request: m.SyncBucket, now: int
) -> m.SyncResult:
    """Apply what is new in the batch and answer for all of it.

    Raises InvalidArgumentError with detail `resync` for a gap, a bucket of another incarnation, or
    one that sends something else under numbers it has used: see `core.resync`.
    """
    bucket = _admitted(tables, principal, request, now)
    last = request.first_seq + len(request.events) - 1
    known = bucket.acked_seq - request.first_seq + 1
    answers = _repeated(tables, bucket, request, known, now)
    tables.drop_answers_before(principal, request.first_seq)
    before, floor, applied = bucket.http, bucket.floor, bucket
    events = [
        _New(seq, data, _decoded(data))
        for seq, data in enumerate(request.events, request.first_seq)
        if seq > bucket.acked_seq
    ]
    _expect(tables, [new.event for new in events])
    for new in events:
        applied, answer = _take(tables, applied, new, now)
        answers.append(answer)
    bucket = replace(
        reported(bucket, rules, request, now),
        acked_seq=max(bucket.acked_seq, last),
        floor=applied.floor,
        http=request.http,
    )
    if before != bucket.http:
        raise_epoch(tables, now)
    tables.buckets.put(bucket)
    if bucket.floor > floor:
        chores.free_ended(tables, principal)
    chores.do_slice(tables)
    rejected = tables.rejected_between(principal, request.first_seq, last)
    return _result(bucket, answers, rejected)


def _admitted(tables: Tables, principal: Principal, request: m.SyncBucket, now: int) -> Bucket:
    # Here as well as at the link: it may have been revoked while this waited for its turn.
    require_approved(tables, principal)
    return resync.admit(tables, resync.require_bucket(tables, principal), request, now)


def _repeated(
    tables: Tables, bucket: Bucket, request: m.SyncBucket, known: int, now: int
) -> list[OutboxAnswer]:
    """What was answered to events that are sent again.

    They must be the same bytes: a bucket set back in time sends other ones.
    """
    repeated = request.events[:known]
    last = request.first_seq + len(repeated) - 1
    answers = [*tables.answers_between(bucket.principal, request.first_seq, last)]
    if [answer.digest for answer in answers] != [_digest(data) for data in repeated]:
        resync.require_alone(bucket, now)
        reason = "these numbers were used for other events"
        raise resync.resync_error(tables, bucket, reason, behind=True)
    return answers


def _decoded(data: bytes) -> Message | OstError:
    try:
        return decode_event(data, e.OutboxEvent)
    except OstError as error:
        return error


def _expect(tables: Tables, events: Iterable[Message | OstError]) -> None:
    """The rows of a whole batch are read together."""
    grants, held = [], []
    for event in events:
        if isinstance(event, e.Completed | e.GrantClosed):
            grants.append((event.grant_id,))
        if isinstance(event, e.Completed | e.GrantClosed | e.Released | e.Evicted):
            held.append((event.uid, event.blob_id))
    tables.grants.expect(grants)
    ledger.expect(tables, held)


def _take(tables: Tables, bucket: Bucket, new: _New, now: int) -> tuple[Bucket, OutboxAnswer]:
    """Apply one event or set it aside; the bucket, its floor as the event leaves it."""
    closed, after = None, bucket
    seq, data, event = new
    try:
        with tables.alone():
            if isinstance(event, OstError):
                raise event
            if isinstance(event, e.FloorRaised):
                # Every grant that ends by then can never complete any more.
                if event.floor > _FLOOR_MAX:
                    raise InvalidArgumentError("the floor is beyond all time")
                after = replace(bucket, floor=max(bucket.floor, event.floor))
            else:
                closed = _apply(tables, bucket, event, now)
    except OstError as error:
        # Bytes, for a reason may quote the bucket, and four of them be one character.
        reason = error.message.encode()[:_REASON_BYTES_MAX].decode(errors="ignore")
        tables.rejected.put(Rejected(bucket.principal, seq, reason, data, now))
        closed = _given_up(tables, bucket, event)
    grant_id, end = (closed.grant_id, closed.end) if closed else (b"", 0)
    answer = OutboxAnswer(bucket.principal, seq, _digest(data), grant_id, end)
    tables.answers.put(answer)
    return after, answer


def _given_up(tables: Tables, bucket: Bucket, event: Message | OstError) -> m.ClosedEnd | None:
    """The end of a grant whose closing was set aside, so that the bucket need not keep it for ever.

    If it is the bucket's it is never renewed: its reservation is free once that end has passed.
    """
    if not isinstance(event, e.Completed | e.GrantClosed):
        return None
    grant = tables.grants.get(event.grant_id)
    if grant is None:
        return m.ClosedEnd(event.grant_id, bucket.floor)
    if grant.bucket == bucket.principal:
        ledger.revoke_grant(tables, grant)
    return m.ClosedEnd(event.grant_id, grant.latest_end)


def _apply(tables: Tables, bucket: Bucket, event: Message, now: int) -> m.ClosedEnd | None:
    match event:
        case e.Completed():
            closed = _end_grant(tables, bucket, event)
            charge = Charge(event.uid, event.blob_id, bucket.principal, event.size, now)
            ledger.add_charge(tables, charge)
            return closed
        case e.GrantClosed():
            grant = tables.grants.get(event.grant_id)
            closed = _end_grant(tables, bucket, event)
            if event.reason == "not_held":
                ledger.release_charge(tables, event.uid, event.blob_id, bucket.principal)
            elif event.reason == "bucket_full" and grant is not None:
                _move_elsewhere(tables, bucket, event.blob_id, grant.size)
            return closed
        case e.Evicted():
            ledger.drop_charge(tables, event.uid, event.blob_id, bucket.principal)
            return None
        case _:
            assert isinstance(event, e.Released), "decode_event knows outbox events only"
            ledger.release_charge(tables, event.uid, event.blob_id, bucket.principal)
            return None


def _end_grant(tables: Tables, bucket: Bucket, event: e.Completed | e.GrantClosed) -> m.ClosedEnd:
    """Free the grant the event ends, which must be this bucket's, uid's, blob's and size's."""
    grant = tables.grants.get(event.grant_id)
    if grant is None:
        # It was freed when the floor passed its latest end: the floor is late enough.
        return m.ClosedEnd(event.grant_id, bucket.floor)
    if (grant.bucket, grant.uid, grant.blob_id) != (bucket.principal, event.uid, event.blob_id):
        raise InvalidArgumentError("the grant is another bucket's, uid's or blob's")
    if isinstance(event, e.Completed) and event.size != grant.size:
        # Its reservation was checked against the limit; more than that was never allowed.
        raise InvalidArgumentError("the size is not the grant's")
    ledger.end_grant(tables, grant)
    return m.ClosedEnd(grant.grant_id, grant.latest_end)


def _move_elsewhere(tables: Tables, bucket: Bucket, blob_id: BlobId, size: int) -> None:
    """The bucket has no room for a blob it has no copy of: have its other grants there closed.

    Where grants state different sizes, all but one are wrong: a huge one must not interrupt those
    for which there is room.
    """
    placement = tables.placements.get(blob_id)
    if placement is None or placement.charges or placement.bucket != bucket.principal:
        return
    if not tables.smaller_grant(blob_id, size):
        tables.placements.put(replace(placement, moving=True))
        chores.recall_blob(tables, blob_id)


def _result(
    bucket: Bucket, answers: Sequence[OutboxAnswer], rejected: Sequence[Rejected]
) -> m.SyncResult:
    return m.SyncResult(
        acked_seq=bucket.acked_seq,
        closed=tuple(
            m.ClosedEnd(GrantId(answer.grant_id), answer.latest_end)
            for answer in answers
            if answer.grant_id
        ),
        rejected=tuple(m.RejectedEvent(row.seq, row.reason) for row in rejected),
    )


def _digest(data: bytes) -> bytes:
    return blake3(data).digest(_DIGEST_BYTES)
