"""cluster_status and fleet_status: the index's view of the cluster and of its buckets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from ostnode.ids import Principal
from ostnode.roles.index.core.feed import index_meta
from ostnode.roles.index.core.rows import Bucket, Totals
from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.core.topup import supply
from ostnode.wire import fleet as f
from ostnode.wire import messages as m
from ostnode.wire.status import BucketStatus, ClusterInfo

_ANSWER_BYTES_MAX: Final = 60 * 1024
_STATUS_BYTES_MAX: Final = 320
"""Of one bucket without its address: 32 of its principal, eight numbers, and names of fields."""


def cluster_info(
    tables: Tables, feed_acked: Mapping[Principal, int], recent: Totals | None = None
) -> ClusterInfo:
    """Totals, and as many buckets as one answer takes. `feed_acked` says where each reads the feed.

    All of them are in `fleet_info`. Totals are summed anew unless there are `recent` ones.
    """
    meta = index_meta(tables)
    totals = recent or tables.totals()
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
        buckets=tuple(_status(row, feed_acked.get(row.principal, 0)) for row in _fitting(buckets)),
    )


def fleet_info(
    tables: Tables,
    rules: Rules,
    feed_acked: Mapping[Principal, int],
    alert: str,
    after: Principal | None,
) -> f.FleetInfo:
    """Whether there are enough buckets, and a page of those whose principal comes after `after`."""
    have, feed_seq = supply(tables, 0), index_meta(tables).feed_seq
    making = [row.number for row in tables.provisions.where(arrived=False)]
    rows = (row for row in tables.buckets.where() if row.principal > (after or b""))
    return f.FleetInfo(
        active=have.active,
        target_active=rules.target_active,
        free=have.free,
        headroom=rules.headroom_bytes,
        making=making[0] if making else 0,
        alert=alert,
        buckets=tuple(
            _told(row, feed_seq - feed_acked.get(row.principal, 0))
            for row in islice(rows, f.BUCKETS_TOLD_MAX)
        ),
    )


def _fitting(buckets: Sequence[Bucket]) -> Iterator[Bucket]:
    """Those from the front whose addresses fit an answer, 256 at most."""
    room = _ANSWER_BYTES_MAX
    for bucket in buckets[:256]:
        room -= _STATUS_BYTES_MAX + len(bucket.http.encode())
        if room < 0:
            return
        yield bucket


def _told(bucket: Bucket, feed_behind: int) -> f.FleetBucket:
    return f.FleetBucket(
        principal=bucket.principal,
        state=bucket.state,
        intent=bucket.intent,
        http=bucket.http,
        zone=bucket.zone,
        weight=bucket.weight,
        space=m.Space(bucket.total, bucket.free, bucket.stored),
        last_seen=bucket.last_seen,
        feed_behind=max(0, feed_behind),
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
