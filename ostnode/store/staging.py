"""Where staged records go: sequence numbers, batches and offsets, decided before any write.

Pure bookkeeping. A group of records staged together stays in one batch, a batch in one segment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import trio

from ostnode.store.format import (
    FLAG_END,
    FLAG_FIRST,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    payload_digest,
    record_bytes,
    seal_bytes,
)
from ostnode.store.keyspace import Changes
from ostnode.store.record import KIND_MARKER, KIND_SEAL, ROLE_KIND_MAX, Extent, NewRecord

SEGMENT_RECORDS_MAX: Final = 65_536
"""Records per segment, whatever their size: bounds the footer (6 MiB) kept for the open segment."""


class Placed(NamedTuple):
    """A record with everything decided but its batch flags."""

    new: NewRecord
    seq: int
    batch: int
    extent: Extent
    digest: bytes

    def header(self, flags: int) -> RecordHeader:
        """Its header once its place in the batch is final."""
        new, length = self.new, self.extent.length
        numbers = (length, new.chunk_index, self.seq, self.batch, new.number)
        return RecordHeader(new.kind, flags, *numbers, new.blob, self.digest)


@dataclass(slots=True, eq=False)
class Batch:
    """What one sync makes durable, all or nothing."""

    number: int
    segment: int
    offset: int
    end: int
    records: list[Placed] = field(default_factory=list)
    changes: Changes = field(default_factory=dict)
    done: trio.Event = field(default_factory=trio.Event)
    durable: bool = False

    @property
    def seals(self) -> bool:
        """Whether it closes its segment; its payload is made when it is written."""
        return self.records[-1].new.kind == KIND_SEAL

    @property
    def is_ours(self) -> bool:
        """Whether it is a marker or a seal: the store's own, which no group joins."""
        return self.records[0].new.kind > ROLE_KIND_MAX

    @property
    def next_seq(self) -> int:
        """The sequence number behind its last record."""
        return self.records[-1].seq + 1

    @property
    def nbytes(self) -> int:
        """What it takes in the segment."""
        return self.end - self.offset

    def headers(self) -> list[RecordHeader]:
        """The records' headers, with the batch's flags."""
        last = len(self.records) - 1
        return [
            placed.header((FLAG_FIRST if i == 0 else 0) | (FLAG_END if i == last else 0))
            for i, placed in enumerate(self.records)
        ]


@dataclass(frozen=True, slots=True)
class Position:
    """Where the log goes on: segment number, and the next sequence and batch numbers."""

    segment: int
    next_seq: int
    next_batch: int


class Plan(NamedTuple):
    """Where a group would go. Nothing is changed until it is accepted."""

    records: list[Placed]
    batch: Batch
    seal: Batch | None
    nbytes: int


class Staging:
    """The queue of batches that wait for the writer, and the place of the next record."""

    def __init__(self, position: Position, segment_bytes: int, batch_bytes_max: int) -> None:
        self.queue: deque[Batch] = deque()
        self.next_seq = position.next_seq
        self._next_batch = position.next_batch
        self._segment = position.segment
        self._following = position.segment + 1
        self._unused = position.segment + 2
        self._offset = SEGMENT_HEADER_BYTES
        self._entries = 0
        self._segment_bytes = segment_bytes
        self._batch_bytes_max = batch_bytes_max

    @property
    def segment_used(self) -> int:
        """Bytes used or promised in the current segment; 0 before anything was staged in it."""
        return self._offset if self._entries else 0

    def plan(self, records: Sequence[NewRecord]) -> Plan:
        """Place a group; raises ValueError when it is empty or fits no segment."""
        if not records:
            raise ValueError("a group has at least one record")
        lengths = [memoryview(record.payload).nbytes for record in records]
        total = sum(map(record_bytes, lengths))
        seq, number = self.next_seq, self._next_batch
        segment, offset, seal = self._segment, self._offset, None
        batch = self._joinable(total)
        if not self._fits(offset, self._entries, total, len(records)):
            if not self._fits(SEGMENT_HEADER_BYTES, 0, total, len(records)):
                raise ValueError(f"a group of {total} bytes fits no segment")
            seal = self._seal()
            batch, seq, number = None, seq + 1, number + 1
            segment, offset = self._following, SEGMENT_HEADER_BYTES
        if batch is None:
            batch = Batch(number, segment, offset, offset)
        placed = []
        for record, length in zip(records, lengths, strict=True):
            extent = Extent(segment, offset, length)
            digest = record.digest or payload_digest(record.payload)
            placed.append(Placed(record, seq, batch.number, extent, digest))
            seq += 1
            offset += record_bytes(length)
        return Plan(placed, batch, seal, total)

    def accept(self, plan: Plan) -> None:
        """Make a plan true; no other plan may have been accepted in between."""
        if plan.seal is not None:
            self.queue.append(plan.seal)
            self._roll()
        batch = plan.batch
        if not batch.records:
            self.queue.append(batch)
            self._next_batch = batch.number + 1
        batch.records += plan.records
        batch.end += plan.nbytes
        self._offset = batch.end
        self._entries += len(plan.records)
        self.next_seq = plan.records[-1].seq + 1

    def close_burst(self) -> None:
        """Queue a batch that proves the one before it: a marker, or the seal if that is due."""
        if self._fits(self._offset, self._entries, record_bytes(0), 1):
            self.accept(self.plan([NewRecord(KIND_MARKER)]))
        else:
            self.close_segment()

    def close_segment(self) -> None:
        """Queue the seal of the current segment, if it holds anything."""
        if self._entries:
            seal = self._seal()
            self.queue.append(seal)
            self._roll()
            self.next_seq, self._next_batch = seal.next_seq, seal.number + 1

    def take_segment(self) -> int:
        """A number that no other segment has or will have."""
        number, self._unused = self._unused, self._unused + 1
        return number

    def _roll(self) -> None:
        self._segment, self._following = self._following, self.take_segment()
        self._offset, self._entries = SEGMENT_HEADER_BYTES, 0

    def _fits(self, offset: int, entries: int, nbytes: int, records: int) -> bool:
        entries += records
        room = self._segment_bytes - offset - seal_bytes(entries)
        return nbytes <= room and entries <= SEGMENT_RECORDS_MAX

    def _joinable(self, nbytes: int) -> Batch | None:
        """The batch still waiting that a group of `nbytes` may join."""
        batch = self.queue[-1] if self.queue else None
        if batch is None or batch.is_ours or batch.nbytes + nbytes > self._batch_bytes_max:
            return None
        return batch

    def _seal(self) -> Batch:
        extent = Extent(self._segment, self._offset, 0)
        record = Placed(NewRecord(KIND_SEAL), self.next_seq, self._next_batch, extent, b"")
        end = self._offset + seal_bytes(self._entries)
        return Batch(self._next_batch, self._segment, self._offset, end, [record])
