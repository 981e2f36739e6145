"""The buckets: which are known, which take new blobs, and where a blob goes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from ostnode.errors import InvalidArgumentError, NoBucketError, NotFoundError
from ostnode.ids import BlobId, Principal
from ostnode.placement import PartitionMap, Site, weight_of
from ostnode.roles.index.core.rows import Bucket, BucketState
from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import messages as m

_State = BucketState
SETTABLE: Final = frozenset({_State.STANDBY, _State.ACTIVE, _State.FULL, _State.RETIRED})
"""What operators may decide for a bucket."""
_HEARD_OF: Final = frozenset({*SETTABLE, _State.DRAINING})
_SERVING: Final = frozenset({*_HEARD_OF, _State.LOST})
"""Those that a reader may be sent to: a lost one may answer whom the index does not hear."""
_OUT_OF_REACH: Final = {
    _State.PENDING: "the bucket of this blob is not in the cluster now",
    _State.LOST: "the bucket of this blob has not been heard of for a while",
    _State.REVOKED: "the bucket of this blob was revoked by an operator",
}


def enlist(tables: Tables, approved: Collection[Principal]) -> None:
    """Let the approved buckets take part, once they report.

    Any other keeps its row and its blobs' places, and gets no grant.
    """
    for bucket in tables.buckets.where():
        if bucket.principal not in approved and bucket.state is not BucketState.REVOKED:
            tables.buckets.put(replace(bucket, state=BucketState.PENDING))
    for principal in approved:
        bucket = tables.buckets.get(principal) or Bucket(principal, BucketState.REVOKED)
        if bucket.state is BucketState.REVOKED:
            tables.buckets.put(replace(bucket, state=BucketState.PENDING))


def shut_out(tables: Tables, principal: Principal) -> None:
    """Give nothing more to a bucket that was revoked."""
    bucket = tables.buckets.get(principal) or Bucket(principal)
    tables.buckets.put(replace(bucket, state=BucketState.REVOKED))


def reported(bucket: Bucket, rules: Rules, report: m.SyncBucket, now: int) -> Bucket:
    """The bucket as it is after a report of its space, and of zone and weight if it tells them.

    The first one decides what it is for: all are activated, unless the cluster has a target; then
    it waits until it is needed.
    """
    if bucket.intent is BucketState.PENDING:
        intent = BucketState.STANDBY if rules.target_active else BucketState.ACTIVE
        bucket = replace(bucket, intent=intent)
    space = report.space
    return replace(
        bucket,
        state=_state_with(bucket, space, rules),
        total=space.total,
        free=space.free,
        stored=space.stored,
        last_seen=now,
        zone=bucket.zone if report.zone is None else report.zone,
        weight=bucket.weight if report.weight is None else report.weight,
    )


def _state_with(bucket: Bucket, space: m.Space, rules: Rules) -> BucketState:
    """The state of one that reports this space; between the two shares it stays as it is."""
    if bucket.intent is not BucketState.ACTIVE:
        return bucket.intent
    in_use = 1 - space.free / space.total if space.total else 0
    if in_use >= rules.bucket_full_at:
        return BucketState.FULL
    if bucket.state is BucketState.FULL and in_use > rules.bucket_back_at:
        return BucketState.FULL
    return BucketState.ACTIVE


def decide_state(
    tables: Tables, rules: Rules, principal: Principal, intent: BucketState
) -> BucketState:
    """Follow an operator's word on a bucket; the state it has now.

    One that is silent, not approved or full takes it up as soon as it can. Raises
    InvalidArgumentError for a state that nobody sets or a revoked bucket, NotFoundError.
    """
    if intent not in SETTABLE:
        raise InvalidArgumentError(f"a bucket is set to {', '.join(sorted(SETTABLE))}")
    bucket = tables.buckets.get(principal)
    if bucket is None:
        raise NotFoundError("there is no such bucket in this cluster")
    if bucket.state is BucketState.REVOKED:
        raise InvalidArgumentError("the bucket is revoked: approve it first")
    bucket = intended(bucket, rules, intent)
    tables.buckets.put(bucket)
    return bucket.state


def intended(bucket: Bucket, rules: Rules, intent: BucketState) -> Bucket:
    """The bucket with another intent, taken up at once unless the index does not hear of it."""
    bucket = replace(bucket, intent=intent)
    if bucket.state not in _HEARD_OF:
        return bucket
    space = m.Space(bucket.total, bucket.free, bucket.stored)
    return replace(bucket, state=_state_with(bucket, space, rules))


def mark_lost(tables: Tables, silent: Mapping[Principal, int]) -> list[Principal]:
    """Mark buckets lost that have not reported since the times given; those that were marked."""
    marked = []
    for principal, last_seen in silent.items():
        bucket = tables.buckets.get(principal)
        if bucket and bucket.last_seen == last_seen and bucket.state in _HEARD_OF:
            tables.buckets.put(replace(bucket, state=BucketState.LOST))
            marked.append(principal)
    return marked


def heard_of(tables: Tables) -> dict[Principal, int]:
    """When each bucket that takes part, and is not lost, reported last."""
    return {
        row.principal: row.last_seen for row in tables.buckets.where() if row.state in _HEARD_OF
    }


class Chooser:
    """Chooses buckets for new blobs; remembers the map of the set it saw last."""

    def __init__(self) -> None:
        self._map: PartitionMap | None = None
        self._mapped: list[Bucket] = []

    def bucket_for(self, tables: Tables, blob_id: BlobId, size: int = 0) -> Bucket:
        """The bucket that has the blob, else the one a new blob of `size` bytes gets.

        A bucket keeps what was placed there, whatever becomes of it. Raises NoBucketError.
        """
        placement = tables.placements.get(blob_id)
        if placement is None:
            return self._choose(tables, blob_id, size)
        bucket = tables.buckets.get(placement.bucket)
        reason = _OUT_OF_REACH.get(bucket.state if bucket else BucketState.PENDING)
        if bucket is None or reason:
            raise NoBucketError(reason or "")
        return bucket

    def looked_for_in(self, tables: Tables, blob_id: BlobId) -> Bucket:
        """Where a reader is sent: as `bucket_for`, but to a lost bucket too.

        When no bucket takes new blobs it is some bucket all the same: with an error in its place,
        a full cluster would tell the placed blobs from the others.
        """
        placement = tables.placements.get(blob_id)
        if placement is not None:
            bucket = tables.buckets.get(placement.bucket)
            if bucket is not None and bucket.state is BucketState.LOST:
                return bucket
            return self.bucket_for(tables, blob_id)
        serving = [row for row in tables.buckets.where() if row.state in _SERVING]
        active = [row for row in serving if row.state is BucketState.ACTIVE]
        known = active or serving
        if not known:
            raise NoBucketError("no bucket is active")
        return _named(known, self._map_of(known).bucket_of(blob_id))

    def _choose(self, tables: Tables, blob_id: BlobId, size: int) -> Bucket:
        roomy = require_taker(tables, size)
        active = tables.buckets.where(state=BucketState.ACTIVE)
        chosen = _named(active, self._map_of(active).bucket_of(blob_id))
        if _has_room(chosen, size):
            return chosen
        return _named(roomy, PartitionMap(_sites(roomy)).bucket_of(blob_id))

    def _map_of(self, active: list[Bucket]) -> PartitionMap:
        # Within a transaction these are the same rows again, and the comparison costs nothing.
        if self._map is None or active != self._mapped:
            sites = _sites(active)
            if self._map is None or self._map.sites != sites:
                self._map = PartitionMap(sites)
            self._mapped = active
        return self._map


def require_taker(tables: Tables, size: int) -> list[Bucket]:
    """The buckets that would take a new blob of this size; raises NoBucketError."""
    active = tables.buckets.where(state=BucketState.ACTIVE)
    if not active:
        raise NoBucketError("no bucket is active and has room")
    roomy = [row for row in active if _has_room(row, size)]
    if not roomy:
        raise NoBucketError(f"no bucket has room for {size} bytes")
    return roomy


def _named(buckets: Collection[Bucket], principal: Principal) -> Bucket:
    return next(bucket for bucket in buckets if bucket.principal == principal)


def _sites(buckets: Collection[Bucket]) -> dict[Principal, Site]:
    return {
        bucket.principal: Site(bucket.weight or weight_of(bucket.total), bucket.zone)
        for bucket in buckets
    }


def _has_room(bucket: Bucket, size: int) -> bool:
    """By its last report; one that cannot tell its space is taken to have some."""
    return bucket.free >= size or bucket.total == 0
