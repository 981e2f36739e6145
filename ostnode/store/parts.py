"""How a store is put together over a recovered log."""

from __future__ import annotations

from dataclasses import dataclass

from ostnode.env import Worker
from ostnode.store.auditing import Auditor
from ostnode.store.catalog import Catalog
from ostnode.store.compaction import Compactor
from ostnode.store.disk import Disk
from ostnode.store.keyspace import DurableReader, KeyIndex, Overlay
from ostnode.store.log import Log
from ostnode.store.options import StoreOptions
from ostnode.store.reading import SegmentReader
from ostnode.store.recovery import Recovered
from ostnode.store.schema import Schema
from ostnode.store.scrub import Scrubber
from ostnode.store.staging import Batch, Staging
from ostnode.store.writer import GroupCommit


@dataclass(frozen=True, slots=True)
class Parts:
    """What a store is put together from."""

    schema: Schema
    recovered: Recovered
    disk: Disk
    index: KeyIndex
    overlay: Overlay
    staging: Staging
    commit: GroupCommit
    reading: SegmentReader
    auditor: Auditor
    scrubber: Scrubber
    catalog: Catalog
    compactor: Compactor


def put_together(
    disk: Disk,
    options: StoreOptions,
    schema: Schema,
    recovered: Recovered,
    index: KeyIndex,
    log: Log,
    workers: tuple[Worker, Worker, Worker],
) -> Parts:
    """The parts over a recovered log; `workers` write, read what is cold, and do the upkeep."""
    worker, cold, maintenance = workers
    overlay, durable = Overlay(index), DurableReader(index)
    catalog = Catalog(recovered.segments, durable)
    staging = Staging(
        recovered.position,
        options.segment_bytes,
        options.batch_bytes_max,
        ahead_bytes=options.queue_bytes_max,
        bulk_kinds=schema.bulk_kinds,
    )

    def written(batch: Batch) -> None:
        overlay.retire(batch.changes)
        catalog.completed(batch)

    commit = GroupCommit(
        staging,
        worker,
        log.write,
        written,
        log.space,
        queue_bytes_max=options.queue_bytes_max,
        marker_delay_s=options.marker_delay_s,
    )
    reading = SegmentReader(disk, cold, options.segments_open_max, verify=options.verify_reads)
    auditor = Auditor(index, maintenance, commit.fail)
    scrubber = Scrubber(disk, maintenance, reading.pins, schema, durable, catalog, auditor)
    compactor = Compactor(
        disk=disk,
        worker=maintenance,
        schema=schema,
        durable=durable,
        overlay=overlay,
        staging=staging,
        commit=commit,
        log=log,
        reading=reading,
        catalog=catalog,
    )
    upkeep = (auditor, scrubber, catalog, compactor)
    core = (overlay, staging, commit, reading)
    return Parts(schema, recovered, disk, index, *core, *upkeep)
