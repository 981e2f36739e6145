"""The buckets: which are known, which take new blobs, and where a blob goes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ostnode.errors import NoBucketError
from ostnode.ids import BlobId, Principal
from ostnode.placement import PartitionMap, Site, weight_of
from ostnode.roles.index.core.rows import Bucket, BucketState
from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import messages as m


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


def state_with(state: BucketState, space: m.Space, rules: Rules) -> BucketState:
    """The state of a bucket that reports this space; between the two shares it stays as it is."""
    in_use = 1 - space.free / space.total if space.total else 0
    if in_use >= rules.bucket_full_at:
        return BucketState.FULL
    if state is BucketState.FULL and in_use > rules.bucket_back_at:
        return BucketState.FULL
    return BucketState.ACTIVE


class Chooser:
    """Chooses buckets for new blobs; remembers the map of the set it saw last."""

    def __init__(self) -> None:
        self._map: PartitionMap | None = None

    def bucket_for(self, tables: Tables, blob_id: BlobId, size: int = 0) -> Bucket:
        """The bucket that has the blob, else the one a new blob of `size` bytes gets.

        A full bucket keeps what was placed there. Raises NoBucketError.
        """
        placement = tables.placements.get(blob_id)
        if placement is None:
            return self._choose(tables, blob_id, size)
        bucket = tables.buckets.get(placement.bucket)
        if bucket is None or bucket.state is BucketState.PENDING:
            raise NoBucketError("the bucket of this blob is not in the cluster now")
        if bucket.state is BucketState.REVOKED:
            raise NoBucketError("the bucket of this blob was revoked by an operator")
        return bucket

    def looked_for_in(self, tables: Tables, blob_id: BlobId) -> Bucket:
        """Where a reader is sent: as `bucket_for`, and to a full bucket when all are full.

        With an error in its place, a full cluster would tell the placed blobs from the others.
        """
        full = {row.principal: row for row in tables.buckets.where(state=BucketState.FULL)}
        try:
            return self.bucket_for(tables, blob_id)
        except NoBucketError:
            if not full or tables.placements.get(blob_id) is not None:
                raise
        return full[self._map_of(full.values()).bucket_of(blob_id)]

    def _choose(self, tables: Tables, blob_id: BlobId, size: int) -> Bucket:
        active = {row.principal: row for row in tables.buckets.where(state=BucketState.ACTIVE)}
        if not active:
            raise NoBucketError("no bucket is active and has room")
        chosen = active[self._map_of(active.values()).bucket_of(blob_id)]
        if _has_room(chosen, size):
            return chosen
        roomy = {key: row for key, row in active.items() if _has_room(row, size)}
        if not roomy:
            raise NoBucketError(f"no bucket has room for {size} bytes")
        return roomy[PartitionMap(_sites(roomy.values())).bucket_of(blob_id)]

    def _map_of(self, active: Collection[Bucket]) -> PartitionMap:
        sites = _sites(active)
        if self._map is None or self._map.sites != sites:
            self._map = PartitionMap(sites)
        return self._map


def _sites(buckets: Collection[Bucket]) -> dict[Principal, Site]:
    return {bucket.principal: Site(weight_of(bucket.total)) for bucket in buckets}


def _has_room(bucket: Bucket, size: int) -> bool:
    """By its last report; one that cannot tell its space is taken to have some."""
    return bucket.free >= size or bucket.total == 0
