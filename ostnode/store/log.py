"""The blocking half of the writer: batches into segments, then into the key index."""

from __future__ import annotations

from typing import Final

from typing_extensions import Buffer

from ostnode.env import Clock, Rng
from ostnode.store.disk import Disk
from ostnode.store.format import SegmentHeader
from ostnode.store.keyspace import Covered, KeyIndex
from ostnode.store.segment import SegmentWriter
from ostnode.store.staging import Batch

_MICROSECONDS: Final = 1_000_000
_UUID_BYTES: Final = 16


class Log:
    """The end of the log. One thread at a time; an exception leaves it unusable.

    A segment is made with its first batch: a log that is only read stays as it is.
    """

    def __init__(
        self, disk: Disk, index: KeyIndex, segment_bytes: int, owner: bytes, clock: Clock, rng: Rng
    ) -> None:
        self._disk, self._index, self._segment_bytes = disk, index, segment_bytes
        self._owner, self._clock, self._rng = owner, clock, rng
        self._segment: SegmentWriter | None = None

    def write(self, batch: Batch) -> None:
        """Make a batch durable, then visible in the key index: all in one thread hop."""
        if self._segment is None:
            self._segment = self._create(batch)
        if batch.seals:
            self._segment.seal(batch.offset, batch.records[0].seq, batch.number)
            self.close()
            return
        payloads: list[Buffer] = [placed.new.payload for placed in batch.records]
        self._segment.append(batch.offset, batch.headers(), payloads)
        if batch.changes:
            covered = Covered(batch.segment, self._segment.header.uuid, batch.number)
            self._index.commit(batch.changes, covered)

    def close(self) -> None:
        """Release the open segment as it is."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def _create(self, batch: Batch) -> SegmentWriter:
        created = int(self._clock.now() * _MICROSECONDS)
        numbers = (created, batch.records[0].seq, batch.number)
        uuid = self._rng.token(_UUID_BYTES)
        header = SegmentHeader(batch.segment, uuid, self._owner, *numbers)
        return SegmentWriter.create(self._disk, header, self._segment_bytes)
