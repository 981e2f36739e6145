"""What /metrics tells of an index: from memory, as its jobs gathered it last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import trio
from prometheus_client import Metric

from ostnode.ids import PrincipalKind
from ostnode.node.metrics import Family
from ostnode.roles.index import Bucket, BucketState, Insight

_INDEX: Final = Family("ostnode_index_")
_gauge, _counter = _INDEX.gauge, _INDEX.counter
_AWAY: Final = frozenset({BucketState.PENDING, BucketState.REVOKED})


def index_figures(insight: Insight) -> Iterator[Metric]:
    """Users, charges and grants in sum, the buckets, and the leader's jobs."""
    yield from _accounts(insight)
    yield from _buckets(insight)
    yield from _jobs(insight)


def _accounts(insight: Insight) -> Iterator[Metric]:
    figures, totals = insight.figures, insight.figures.totals
    age_s = trio.current_time() - figures.totals_at
    yield _gauge("totals_age_seconds", "Since the six sums below were gathered", age_s)
    yield _gauge("users", "Registrations that are not deleted", totals.users)
    yield _gauge("charges", "Blobs charged to them", totals.charges)
    yield _gauge("open_grants", "Grants of theirs that no bucket has closed", totals.open_grants)
    yield _gauge("used_bytes", "Of their charges", totals.bytes_used)
    yield _gauge("reserved_bytes", "Of their open grants", totals.bytes_reserved)
    yield _gauge("rejected_events", "Outbox events set aside, up to 10,000", totals.rejected_events)


def _buckets(insight: Insight) -> Iterator[Metric]:
    overview, acked = insight.figures.overview, insight.fleet.feed_acked
    states = Counter(bucket.state for bucket in overview.buckets)
    yield _INDEX.gauges(
        "buckets", "Buckets by state", "state", {state: states[state] for state in BucketState}
    )
    yield _gauge("feed_seq", "Events ever stamped into the feed", overview.feed_seq)
    present = [bucket for bucket in overview.buckets if bucket.state not in _AWAY]
    lags = {
        _text(bucket): max(0, overview.feed_seq - acked.get(bucket.principal, 0))
        for bucket in present
    }
    yield _INDEX.gauges("feed_lag", "Events of the feed not acknowledged", "bucket", lags)
    free = {_text(bucket): bucket.free for bucket in present}
    yield _INDEX.gauges("bucket_free_bytes", "By its last report", "bucket", free)


def _jobs(insight: Insight) -> Iterator[Metric]:
    fleet = insight.fleet
    yield _gauge("leading", "1 on the node that does the leader's jobs", insight.leader.leading)
    yield _gauge("top_up_alert", "1 while an operator must see to the buckets", bool(fleet.alert))
    yield _counter("top_up_activated", "Buckets activated that stood by", fleet.activated)
    yield _counter("top_up_ordered", "Orders for new buckets, repeated ones too", fleet.ordered)
    failures = {"stamping": insight.heartbeat.failures, **insight.upkeep.failures}
    yield _INDEX.counters("job_failures", "Beats that ended with an error", "job", failures)


def _text(bucket: Bucket) -> str:
    return bucket.principal.text(PrincipalKind.BUCKET)
