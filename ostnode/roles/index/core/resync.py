"""Incarnations: an index or a bucket that was set back begins anew, and nothing is lost by it.

An index restored from a backup takes a new incarnation. Every bucket acknowledges it with a full
resync: what it holds is added, what both sides know to be deleted stays deleted, and what only the
index knows is kept and named. Until all have, nothing is granted: the accounts are not whole.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ostnode.errors import BusyError, InvalidArgumentError, NotAuthorizedError
from ostnode.ids import NULL_ACCESSOR, Principal, Uid
from ostnode.roles.index.core import feed, ledger
from ostnode.roles.index.core.accessors import burn_accessor
from ostnode.roles.index.core.feed import index_meta
from ostnode.roles.index.core.rows import (
    THE_INDEX,
    Agreement,
    Bucket,
    BucketState,
    Meta,
    OpenGrant,
    Restoration,
    User,
)
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.core.users import delete_uid
from ostnode.wire import messages as m
from ostnode.wire.checking import Compare

ENDED_MAX: Final = 200
"""Grants ended in one transaction, some 20 ms."""
STEP_US: Final = 1_000_000
"""Incarnations, in microseconds since 1970, differ by at least a second."""
_EVERY_NUMBER: Final = (1 << 63) - 1
LIVE_S: Final = 30
"""A bucket reports every ten seconds; one that has been silent for three times that has ended."""


class IndexBehindError(Exception):
    """A bucket has heard what this index never said: it was set back, and must begin anew."""

    def __init__(self, above: int) -> None:
        super().__init__(above)
        self.above = above


def take_incarnation(tables: Tables, now_us: int, above: int = 0) -> Meta:
    """Begin anew: an incarnation above this database's, and above any that a peer reports."""
    meta = index_meta(tables)
    meta = replace(meta, incarnation=max(now_us, meta.incarnation + STEP_US, above + STEP_US))
    tables.meta.put(meta)
    tables.restorations.put(Restoration(THE_INDEX, meta.incarnation, now_us // STEP_US))
    return meta


def missing(tables: Tables) -> list[Principal]:
    """Buckets that have not acknowledged the incarnation of a restored index.

    Revoked ones take no part, and are not waited for.
    """
    restoration = tables.restorations.get(THE_INDEX)
    if restoration is None:
        return []
    return [
        bucket.principal
        for bucket in tables.buckets.where()
        if bucket.incarnation
        and bucket.state is not BucketState.REVOKED
        and not _acknowledged(tables.agreements.get(bucket.principal), restoration)
    ]


def admit(tables: Tables, bucket: Bucket, request: m.SyncBucket, now: int) -> Bucket:
    """The bucket as it may sync; a first contact is taken up.

    Raises InvalidArgumentError: with detail `resync` when either side was set back, which the
    bucket answers with BEGIN; NotAuthorizedError for a bucket that was forgotten; BusyError for one
    that was set back while another process speaks in its name.
    """
    if not request.first_seq:
        raise InvalidArgumentError("outbox events count from 1")
    agreement = tables.agreements.get(bucket.principal)
    if agreement is not None and agreement.forgotten:
        return _rejoined(tables, bucket, agreement, request)
    if bucket.incarnation == 0 and request.incarnation and request.first_seq == 1:
        _agree(tables, bucket.principal)
        bucket = replace(bucket, incarnation=request.incarnation)
    if bucket.incarnation != request.incarnation or not request.incarnation:
        behind = request.incarnation < bucket.incarnation
        require_alone(bucket, now)
        raise resync_error(tables, bucket, "the bucket is of another incarnation", behind=behind)
    require_agreement(tables, bucket)
    if request.first_seq > bucket.acked_seq + 1:
        reason = f"the next outbox event is {bucket.acked_seq + 1}, not {request.first_seq}"
        raise resync_error(tables, bucket, reason, behind=False)
    if not request.events and request.first_seq <= bucket.acked_seq:
        # Whatever was acknowledged and it does not know of, it would have sent again.
        require_alone(bucket, now)
        raise resync_error(
            tables, bucket, "the bucket has lost events that were acknowledged", behind=True
        )
    return bucket


def require_alone(bucket: Bucket, now: int) -> None:
    """Raise BusyError while the bucket as the index knows it is alive.

    Two processes with one key, or with copies of one directory, would otherwise take new
    incarnations in turns: the one that was there first goes on.
    """
    if abs(now - bucket.last_seen) < LIVE_S:
        raise BusyError(
            "this bucket was set back, and one that was not spoke in its name within the last "
            f"{LIVE_S} s: is its key or its directory in use twice?",
            retry_after_s=LIVE_S,
        )


def require_agreement(tables: Tables, bucket: Bucket) -> None:
    """Raise InvalidArgumentError with `resync` for one that has to begin a resync first."""
    restoration = tables.restorations.get(THE_INDEX)
    if restoration is None or bucket.incarnation == 0:
        return
    agreement = tables.agreements.get(bucket.principal)
    begun = agreement is not None and agreement.begun == restoration.incarnation
    if not begun and not _acknowledged(agreement, restoration):
        raise resync_error(tables, bucket, "the index was restored from a backup", behind=False)


def check_cursor(tables: Tables, principal: Principal, request: m.Feed) -> None:
    """That the bucket may read the feed on from there.

    Raises InvalidArgumentError with `resync` for a cursor in an earlier life of the index, and
    IndexBehindError for one that is ahead of everything this index has said.
    """
    meta, bucket = index_meta(tables), require_bucket(tables, principal)
    require_agreement(tables, bucket)
    if (request.incarnation, request.seq) == (0, 0) or request.incarnation < meta.incarnation:
        if request.incarnation:
            raise resync_error(tables, bucket, "the index began anew", behind=False)
        return
    if (request.incarnation, request.seq) > (meta.incarnation, meta.feed_seq):
        raise IndexBehindError(request.incarnation)


def resync_error(
    tables: Tables, bucket: Bucket, reason: str, *, behind: bool
) -> InvalidArgumentError:
    """What tells a bucket to resync: both incarnations, and whether it must take a new one."""
    return InvalidArgumentError(
        reason,
        resync=1,
        index=index_meta(tables).incarnation,
        bucket=bucket.incarnation,
        behind=int(behind),
        acked_seq=bucket.acked_seq,
    )


def begin(tables: Tables, principal: Principal, request: Compare, now: int) -> None:
    """Count the bucket's events anew, from its position in its incarnation.

    Raises InvalidArgumentError with `resync` for an incarnation that is not the latest of either
    side; NotAuthorizedError; BusyError as `admit` does.
    """
    meta, bucket = index_meta(tables), require_bucket(tables, principal)
    agreement = tables.agreements.get(principal) or Agreement(principal, 0)
    if agreement.forgotten:
        raise _forgotten()
    if request.incarnation < bucket.incarnation or not request.incarnation:
        raise resync_error(tables, bucket, "the bucket was set back", behind=True)
    if request.index_incarnation != meta.incarnation:
        raise resync_error(tables, bucket, "the index began anew", behind=False)
    if request.incarnation != bucket.incarnation:
        require_alone(bucket, now)
        bucket = replace(bucket, last_seen=now)
    tables.drop_answers_before(principal, _EVERY_NUMBER)
    tables.buckets.put(replace(bucket, incarnation=request.incarnation, acked_seq=request.position))
    tables.agreements.put(replace(agreement, incarnation=0, begun=meta.incarnation))


def is_begun(tables: Tables, principal: Principal) -> bool:
    """Whether the bucket's resync has begun and not ended."""
    agreement = tables.agreements.get(principal)
    return bool(agreement and not agreement.incarnation and agreement.begun)


def unite_burned(tables: Tables, names: tuple[bytes, ...], now: int) -> None:
    """Accessors that the bucket knows to be gone for ever."""
    for name in names:
        if name != NULL_ACCESSOR:
            burn_accessor(tables, Principal(name), now)


def unite_deleted(tables: Tables, names: tuple[bytes, ...]) -> None:
    """Uids that the bucket knows to be deleted; one that is not known here stays so for ever."""
    for name in names:
        user = tables.users.get(name)
        if user is None:
            # Nobody's: the null accessor's principal, which no one can prove to be.
            tables.users.put(User(Uid(name), NULL_ACCESSOR, 0, "refuse", deleted=True))
            feed.announce_user(tables, Uid(name), urgent=True)
        elif not user.deleted:
            delete_uid(tables, user)


def end_slice(tables: Tables, principal: Principal) -> bool:
    """End the open grants of earlier lives of the index, which the bucket refuses by now.

    Whether that was all; then the bucket has acknowledged.
    """
    meta = index_meta(tables)
    agreement = tables.agreements.get(principal)
    if agreement is None or agreement.begun != meta.incarnation:
        raise InvalidArgumentError("no resync has begun")
    ended, place = 0, (0, b"")
    while page := tables.grants_at(principal, *place, ENDED_MAX):
        for grant in page:
            if _is_older(grant, meta):
                ledger.end_grant(tables, grant)
                ended += 1
        if ended >= ENDED_MAX:
            return False
        place = page[-1].latest_end, page[-1].grant_id
    tables.agreements.put(replace(agreement, incarnation=meta.incarnation))
    return True


def require_bucket(tables: Tables, principal: Principal) -> Bucket:
    """The bucket's row; raises NotAuthorizedError."""
    bucket = tables.buckets.get(principal)
    if bucket is None:
        raise NotAuthorizedError("the index does not know this bucket")
    return bucket


def _is_older(grant: OpenGrant, meta: Meta) -> bool:
    return grant.grant_id.incarnation < meta.incarnation


def _acknowledged(agreement: Agreement | None, restoration: Restoration) -> bool:
    return agreement is not None and agreement.incarnation >= restoration.incarnation


def _agree(tables: Tables, principal: Principal) -> None:
    incarnation = index_meta(tables).incarnation
    tables.agreements.put(Agreement(principal, incarnation, begun=incarnation))


def _rejoined(
    tables: Tables, bucket: Bucket, agreement: Agreement, request: m.SyncBucket
) -> Bucket:
    """A forgotten bucket comes back empty: a later log, none of whose events was ever sent."""
    if request.incarnation <= bucket.incarnation or request.first_seq != 1:
        raise _forgotten()
    if not agreement.freed:
        raise NotAuthorizedError("this bucket is being forgotten: run `bucket forget` to its end")
    _agree(tables, bucket.principal)
    return replace(bucket, incarnation=request.incarnation, acked_seq=0, floor=0)


def _forgotten() -> NotAuthorizedError:
    return NotAuthorizedError(
        "this bucket was forgotten: it can come back only empty, with a new data directory"
    )
