"""What /metrics tells Prometheus: read from the parts themselves whenever it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

from ostnode.roles.bucket.maintenance import Maintenance
from ostnode.store.store import Store

Figures = Callable[[], Iterable[Metric]]
"""A role's figures as of now."""


class Family:
    """Figures whose names begin alike."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def gauge(self, name: str, help_text: str, value: float) -> Metric:
        """A figure that goes up and down."""
        return GaugeMetricFamily(self._prefix + name, help_text, value)

    def counter(self, name: str, help_text: str, value: float) -> Metric:
        """A figure that only grows; its name ends with `_total`."""
        return CounterMetricFamily(self._prefix + name, help_text, value)

    def gauges(self, name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
        """One gauge for each value of a label."""
        family = GaugeMetricFamily(self._prefix + name, help_text, labels=[label])
        for value, figure in values.items():
            family.add_metric([value], figure)
        return family

    def counters(
        self, name: str, help_text: str, label: str, values: Mapping[str, float]
    ) -> Metric:
        """One counter for each value of a label."""
        family = CounterMetricFamily(self._prefix + name, help_text, labels=[label])
        for value, figure in values.items():
            family.add_metric([value], figure)
        return family


_BUCKET: Final = Family("ostnode_bucket_")
_gauge, _counter = _BUCKET.gauge, _BUCKET.counter


class _Told(Collector):
    """Figures that were read already. Registries of our own: the library's global one would hold
    figures of every bucket that a process ever had.
    """

    def __init__(self, figures: Iterable[Metric]) -> None:
        self._figures = figures

    @override
    def collect(self) -> Iterable[Metric]:
        return self._figures


def render(figures: Iterable[Metric]) -> tuple[str, bytes]:
    """Content type and text of the exposition format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(list(figures)))
    return CONTENT_TYPE_LATEST, generate_latest(registry)


def bucket_figures(store: Store, maintenance: Maintenance) -> Iterator[Metric]:
    """A bucket's store and its upkeep; counters count since the process started."""
    yield from _space(store, maintenance)
    yield from _log(store)
    yield from _compaction(maintenance)
    yield from _scrub(maintenance)


def _space(store: Store, maintenance: Maintenance) -> Iterator[Metric]:
    space, infos = store.space(), store.segments()
    yield _gauge("disk_total_bytes", "Size of the file system", space.total)
    yield _gauge("disk_free_bytes", "Free for this bucket", space.free)
    yield _gauge("stored_bytes", "In the log's segments", space.stored)
    yield _gauge("full", "1 while uploads are refused for want of space", maintenance.full)
    yield _gauge("segments", "Files of the log", len(infos))
    allocated = sum(info.allocated for info in infos)
    dead = sum(info.dead_bytes for info in infos)
    live = sum(max(0, info.nbytes - info.dead_bytes) for info in infos)
    yield _gauge(
        "segments_allocated_bytes",
        "What they take on the disk; of the open one what is used",
        allocated,
    )
    yield _gauge("dead_bytes", "Of records nothing needs any more: an estimate", dead)
    yield _gauge("live_bytes", "Of all other records: an estimate", live)
    yield _gauge("key_index_bytes", "What the key index takes on the disk", store.index_bytes)


def _log(store: Store) -> Iterator[Metric]:
    yield _gauge("queue_bytes", "Admitted or staged and not yet durable", store.queued_bytes)
    yield _counter("batches", "Batches made durable, each with one sync", store.batches)
    yield _counter("written_bytes", "Bytes of these batches", store.written_bytes)
    yield _counter("corrupt_reads", "Reads that met damaged bytes", store.corrupt_reads)


def _compaction(maintenance: Maintenance) -> Iterator[Metric]:
    told = maintenance.compaction.figures
    yield _gauge("maintenance_paused", "1 while an operator holds it", maintenance.paused)
    yield _gauge("compaction_running", "1 while segments are rewritten", bool(told.doing))
    yield _counter("compaction_passes", "Passes that were asked for and ended", told.passes)
    yield _counter("compaction_copied_bytes", "Bytes copied at most", told.copied)
    yield _counter("compaction_freed_bytes", "Bytes given back to the disk", told.freed)
    yield _counter("compaction_punched_bytes", "Of these, by holes in files", told.punched)
    yield _counter("compaction_skipped_segments", "Damaged, or without room", told.skipped)


def _scrub(maintenance: Maintenance) -> Iterator[Metric]:
    scrub, place = maintenance.scrubbing, maintenance.scrubbing.place
    yield _gauge("scrub_running", "1 within a cycle", scrub.running)
    yield _gauge("scrub_cycle", "Cycles begun since the bucket was made", place.cycle)
    yield _gauge("scrub_position", "Sequence number read up to", place.seq)
    yield _gauge("scrub_cycle_bytes", "Read in this cycle", place.nbytes)
    yield _gauge("scrub_last_completed_seconds", "When a cycle last ended", place.completed_at)
    yield _counter("scrub_read_bytes", "Bytes read and checked", scrub.bytes_read)
    yield _counter("scrub_problems", "Damage met, each time", scrub.problems)
    yield _gauge("findings", "Damage on record", maintenance.ledger.count())
