"""cluster_status: the index's view of the cluster."""

from __future__ import annotations

from collections.abc import Mapping

from ostnode.ids import Principal
from ostnode.roles.index.core.feed import index_meta
from ostnode.roles.index.core.rows import Bucket
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import messages as m
from ostnode.wire.status import BucketStatus, ClusterInfo


def cluster_info(tables: Tables, feed_acked: Mapping[Principal, int]) -> ClusterInfo:
    """Totals, and every bucket. `feed_acked` says where each bucket reads the feed."""
    meta = index_meta(tables)
    totals = tables.totals()
    buckets = tables.buckets.where()
    return ClusterInfo(
        cluster_id=meta.cluster_id,
        index=meta.principal,
        incarnation=meta.incarnation,
        feed_seq=meta.feed_seq,
        users=totals.users,
        charges=totals.charges,
        open_grants=totals.open_grants,
        bytes_used=totals.bytes_used,
        bytes_reserved=totals.bytes_reserved,
        rejected_events=totals.rejected_events,
        buckets=tuple(_status(row, feed_acked.get(row.principal, 0)) for row in buckets[:256]),
    )


def _status(bucket: Bucket, feed_acked: int) -> BucketStatus:
    return BucketStatus(
        principal=bucket.principal,
        state=bucket.state,
        http=bucket.http,
        incarnation=bucket.incarnation,
        space=m.Space(bucket.total, bucket.free, bucket.stored),
        last_seen=bucket.last_seen,
        outbox_acked=bucket.acked_seq,
        feed_acked=feed_acked,
    )
