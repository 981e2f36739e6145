"""Where staged records go: sequence numbers, batches and offsets, decided before any write.

Pure bookkeeping. A group of records staged together stays in one batch, a batch in one segment. A
segment is used only when its file is there; groups with bulk payloads leave room for those without.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import trio
from typing_extensions import Buffer

from ostnode.store.errors import StoreFullError
from ostnode.store.format import (
    FLAG_END,
    FLAG_FIRST,
    SEGMENT_HEADER_BYTES,
    HeaderFields,
    payload_digest,
    record_bytes,
    seal_bytes,
)
from ostnode.store.keyspace import Changes
from ostnode.store.record import (
    KIND_MARKER,
    KIND_SEAL,
    ROLE_KIND_MAX,
    ZERO_32,
    Extent,
    NewRecord,
    Record,
)

SEGMENT_RECORDS_MAX: Final = 65_536
"""Records per segment, whatever their size: bounds the footer (6 MiB) kept for the open segment."""
_METADATA_BYTES_MAX: Final = 1 << 20
_METADATA_PART: Final = 16
"""Bulk leaves this part of a segment, or 1 MiB, and as many records: some 4,000 deletions."""
_METADATA_RECORD_BYTES: Final = 256
_AHEAD_PART: Final = 4
_SLACK_BYTES: Final = 1 << 10
"""What a group may take beyond what was asked for it: its headers and their entries in the seal."""


@dataclass(slots=True, eq=False)
class Batch:
    """What one sync makes durable, all or nothing."""

    number: int
    segment: int
    offset: int
    end: int
    records: list[Record] = field(default_factory=list)
    payloads: list[Buffer] = field(default_factory=list)
    """What is written for them, also for bulk kinds."""
    changes: Changes = field(default_factory=dict)
    done: trio.Event = field(default_factory=trio.Event)
    durable: bool = False

    @property
    def seals(self) -> bool:
        """Whether it closes its segment; its payload is made when it is written."""
        return self.records[-1].kind == KIND_SEAL

    @property
    def is_ours(self) -> bool:
        """Whether it is a marker or a seal: the store's own, which no group joins."""
        return self.records[0].kind > ROLE_KIND_MAX

    @property
    def next_seq(self) -> int:
        """The sequence number behind its last record."""
        return self.records[-1].seq + 1

    @property
    def nbytes(self) -> int:
        """What it takes in the segment."""
        return self.end - self.offset

    def headers(self) -> list[HeaderFields]:
        """The records' headers, with the batch's flags."""
        flags = [0] * len(self.records)
        flags[0] |= FLAG_FIRST
        flags[-1] |= FLAG_END
        return [
            (kind, flag, extent.length, index, seq, batch, number, blob, digest)
            for flag, (kind, seq, batch, number, index, blob, _, digest, extent) in zip(
                flags, self.records, strict=True
            )
        ]

    def find(self, extent: Extent) -> int | None:
        """The place among its records of the one at `extent`; None when it is not here."""
        if extent.segment != self.segment or not self.offset <= extent.offset < self.end:
            return None
        place = bisect_left(self.records, extent.offset, key=_offset)
        is_here = place < len(self.records) and self.records[place].extent == extent
        return place if is_here else None


def _offset(record: Record) -> int:
    return record.extent.offset


class Want(NamedTuple):
    """A segment whose file is to be made, or made longer. `urgent`: deletions wait for it."""

    number: int
    urgent: bool


@dataclass(frozen=True, slots=True)
class Position:
    """Where the log goes on: segment number, and the next sequence and batch numbers."""

    segment: int
    next_seq: int
    next_batch: int


class Plan(NamedTuple):
    """Where a group would go. Nothing is changed until it is accepted."""

    records: list[Record]
    payloads: list[Buffer]
    batch: Batch
    seal: Batch | None
    nbytes: int


def group_bytes(group: Sequence[NewRecord]) -> int:
    """What a group takes in a segment."""
    total = 0
    for new in group:
        total += record_bytes(memoryview(new.payload).nbytes)
    return total


def _moved(plan: Plan, batch: Batch, seq: int) -> Plan:
    """The same records, as the first of another batch."""
    records, at = [], batch.offset
    for record in plan.records:
        extent = Extent(batch.segment, at, record.extent.length)
        records.append(record._replace(seq=seq, batch=batch.number, extent=extent))
        seq += 1
        at += record_bytes(extent.length)
    return plan._replace(records=records, batch=batch)


class Staging:
    """The queue of batches that wait for the writer, and the place of the next record.

    The next segment's file is wanted once a quarter of the current one, or less than `ahead_bytes`,
    is left, and when a group did not fit: a small store does not pay for two.
    """

    def __init__(
        self,
        position: Position,
        segment_bytes: int,
        batch_bytes_max: int,
        ahead_bytes: int = 0,
        bulk_kinds: Set[int] = frozenset(),
    ) -> None:
        self.queue: deque[Batch] = deque()
        self.next_seq = position.next_seq
        self.disk_free = 0
        """Bytes, when it was last looked at: for who is refused."""
        self._next_batch = position.next_batch
        self._segment = position.segment
        self._following = position.segment + 1
        self._unused = position.segment + 2
        self._offset = SEGMENT_HEADER_BYTES
        self._entries = 0
        self._length, self._next_length = 0, 0
        """Of the files of the two segments, 0 before they are there."""
        self._missed, self._missed_metadata = False, False
        self.segment_bytes = segment_bytes
        self._batch_bytes_max = batch_bytes_max
        self._ahead_bytes = max(ahead_bytes, segment_bytes // _AHEAD_PART)
        self._kept_bytes = min(_METADATA_BYTES_MAX, segment_bytes // _METADATA_PART)
        kept_records = self._kept_bytes // _METADATA_RECORD_BYTES
        self._kept_records = min(SEGMENT_RECORDS_MAX // _METADATA_PART, kept_records)
        self._bulk_kinds = bulk_kinds

    @property
    def room_bytes(self) -> int:
        """Bytes of the segments' files that are neither used nor promised."""
        used = self._offset if self._entries else 0
        return max(0, self._length - used) + self._next_length

    def wanted(self) -> Want | None:
        """The segment whose file is to be made, or made longer, now; None when all is well.

        The next one only once the current one is in use: so they are begun in order.
        """
        if not self._entries and self._length < self.segment_bytes:
            return Want(self._segment, urgent=not self._length)
        if self._next_length == self.segment_bytes or not self._entries:
            return None
        left = self._left()
        if not self._missed and left >= self._ahead_bytes:
            return None
        low = self._missed_metadata or left < self._kept_bytes // 2
        return Want(self._following, urgent=low and not self._next_length)

    def provided(self, number: int, length: int) -> None:
        """The file of segment `number` is there, that long."""
        if number == self._segment:
            self._length = max(self._length, length)
        elif number == self._following:
            self._next_length = max(self._next_length, length)
            if length:
                self._missed = self._missed_metadata = False

    def has_room(self, groups: int, nbytes: int) -> bool:
        """Whether so many groups of about so many bytes in all, of any kind, find their place; if
        not, a file is wanted.
        """
        left = self._left()
        if self._next_length:
            left = max(left, 0) + self._next_length - SEGMENT_HEADER_BYTES - seal_bytes(0)
        if nbytes + groups * _SLACK_BYTES + self._kept_bytes <= left:
            return True
        self._missed = True
        return False

    def has_bulk(self, group: Sequence[NewRecord]) -> bool:
        """Whether a group has a bulk payload."""
        return any(new.kind in self._bulk_kinds for new in group)

    def plan(self, group: Sequence[NewRecord]) -> Plan:
        """Place a group. Raises ValueError when it is empty or fits no segment, StoreFullError
        when it finds no room in the files that are there.
        """
        if not group:
            raise ValueError("a group has at least one record")
        # Nearly every group follows the last one into its batch: it is placed there first, and
        # moved when that turns out wrong.
        waiting, start, seq, segment = self._joinable(), self._offset, self.next_seq, self._segment
        batch = waiting or Batch(self._next_batch, segment, start, start)
        at, is_bulk, joined = start, False, batch.number
        records, payloads = [], []
        for kind, payload, blob, number, index, given in group:
            length = len(payload) if type(payload) is bytes else memoryview(payload).nbytes
            digest = given or payload_digest(payload)
            if kind in self._bulk_kinds:
                kept, is_bulk = b"", True
            else:
                kept = bytes(payload)
            extent = Extent(segment, at, length)
            records.append(Record(kind, seq, joined, number, index, blob, kept, digest, extent))
            payloads.append(payload)
            seq += 1
            at += record_bytes(length)
        plan = Plan(records, payloads, batch, None, at - start)
        if not self._fits_here(at - start, len(records), bulk=is_bulk):
            return self._into_next(plan, bulk=is_bulk)
        if waiting is not None and waiting.nbytes + plan.nbytes > self._batch_bytes_max:
            return _moved(plan, Batch(self._next_batch, segment, start, start), self.next_seq)
        return plan

    def _into_next(self, plan: Plan, *, bulk: bool) -> Plan:
        """A plan that does not fit this segment, moved into the next one."""
        self._check_next(plan.nbytes, len(plan.records), bulk=bulk)
        number, start = self._next_batch + 1, SEGMENT_HEADER_BYTES
        batch = Batch(number, self._following, start, start)
        return _moved(plan, batch, self.next_seq + 1)._replace(seal=self._seal())

    def accept(self, plan: Plan) -> bool:
        """Make a plan true; no other plan may have been accepted in between. Says whether the
        batch is a new one.
        """
        records, payloads, batch, seal, nbytes = plan
        if seal is not None:
            self.queue.append(seal)
            self._roll()
        is_new = not batch.records
        if is_new:
            self.queue.append(batch)
            self._next_batch = batch.number + 1
        batch.records += records
        batch.payloads += payloads
        batch.end += nbytes
        self._offset = batch.end
        self._entries += len(records)
        self.next_seq = records[-1].seq + 1
        return is_new

    def take_closed(self) -> Batch | None:
        """The oldest batch when it has others behind it. Any thread: nobody joins it any more, as
        groups join only the last, and one is left.
        """
        return self.queue.popleft() if len(self.queue) > 1 else None

    def close_burst(self) -> None:
        """Queue a batch that proves the one before it: a marker, or the seal if that is due."""
        if self._fits_here(record_bytes(0), 1, bulk=False):
            self.accept(self.plan([NewRecord(KIND_MARKER)]))
        else:
            self.close_segment()

    def close_segment(self) -> Batch | None:
        """Queue the seal of the current segment; None when it holds nothing."""
        if not self._entries:
            return None
        seal = self._seal()
        self.queue.append(seal)
        self._roll()
        self.next_seq, self._next_batch = seal.next_seq, seal.number + 1
        return seal

    def take_segment(self) -> int:
        """A number that no other segment has or will have."""
        number, self._unused = self._unused, self._unused + 1
        return number

    def _roll(self) -> None:
        self._segment, self._following = self._following, self.take_segment()
        self._offset, self._entries = SEGMENT_HEADER_BYTES, 0
        self._length, self._next_length = self._next_length, 0

    def _left(self) -> int:
        """Bytes of the current segment for one more record; below zero when it is not there.

        A record that may still be added counts for its part of a segment: small ones run out first.
        """
        records = (SEGMENT_RECORDS_MAX - self._entries) * self.segment_bytes
        left = self._length - self._offset - seal_bytes(self._entries + 1)
        return min(left, records // SEGMENT_RECORDS_MAX)

    def _fits_here(self, nbytes: int, records: int, *, bulk: bool) -> bool:
        room, bulk = self._length - self._offset, bulk and not self._next_length
        return self._fits(room, self._entries + records, nbytes, bulk=bulk)

    def _check_next(self, nbytes: int, records: int, *, bulk: bool) -> None:
        """Raise ValueError when a group fits no segment, StoreFullError when not the next one."""
        room = self.segment_bytes - SEGMENT_HEADER_BYTES
        if not self._fits(room, records, nbytes, bulk=bulk):
            raise ValueError(f"a group of {nbytes} bytes fits no segment")
        room = self._next_length - SEGMENT_HEADER_BYTES
        if not self._fits(room, records, nbytes, bulk=bulk):
            self._missed = True
            self._missed_metadata |= not bulk
            raise StoreFullError(nbytes, self.disk_free)

    def _fits(self, room: int, records: int, nbytes: int, *, bulk: bool) -> bool:
        """Whether `nbytes` more fit beside the seal of so many records; bulk leaves some room."""
        if bulk:
            records += self._kept_records
            room -= self._kept_bytes
        return nbytes <= room - seal_bytes(records) and records <= SEGMENT_RECORDS_MAX

    def _joinable(self) -> Batch | None:
        """The batch still waiting that a group may join, if it does not grow too large."""
        batch = self.queue[-1] if self.queue else None
        return None if batch is None or batch.is_ours else batch

    def _seal(self) -> Batch:
        seq, number, at = self.next_seq, self._next_batch, self._offset
        extent = Extent(self._segment, at, 0)
        digest = payload_digest(b"")
        seal = Record(KIND_SEAL, seq, number, 0, 0, ZERO_32, b"", digest, extent)
        return Batch(number, self._segment, at, at + seal_bytes(self._entries), [seal])
