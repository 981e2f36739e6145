"""The blocking half of the writer: batches into segments, then into the key index."""

from __future__ import annotations

from functools import partial
from typing import Final

from ostnode.env import Clock, Rng
from ostnode.store.format import SegmentHeader
from ostnode.store.keyspace import Covered, KeyIndex
from ostnode.store.segment import SegmentWriter
from ostnode.store.space import Space
from ostnode.store.staging import Batch
from ostnode.store.upkeep import Upkeep

_MICROSECONDS: Final = 1_000_000
_UUID_BYTES: Final = 16


class Log:
    """The end of the log. One thread at a time.

    After a NoSpaceError the same batch may be written again: nothing of it was synced, or all of
    it and only the key index is behind. Any other exception leaves the log unusable.
    """

    def __init__(
        self,
        space: Space,
        index: KeyIndex,
        indexed: Covered | None,
        owner: bytes,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self.space, self._index = space, index
        self._owner, self._clock, self._rng = owner, clock, rng
        self._segment: SegmentWriter | None = None
        self._covered: Covered | None = None
        self.indexed = indexed
        """Where the key index stands."""

    def write(self, batch: Batch) -> None:
        """Make a batch durable, then visible in the key index: all in one thread hop.

        LMDB ends a commit that found no space as if it had never begun, so that commit alone is
        made again: the batch itself is in the log already.
        """
        if isinstance(batch, Upkeep):
            assert self.indexed is not None
            self._commit(batch, batch.position(self.indexed))
            return
        if self._covered is None or self._covered.batch != batch.number:
            self.space.having_room(partial(self._append, batch))
        if batch.changes and self._covered is not None:
            self._commit(batch, self._covered)

    def _commit(self, batch: Batch, covered: Covered) -> None:
        self.space.having_room(partial(self._index.commit, batch.changes, covered))
        self.indexed = covered

    def _append(self, batch: Batch) -> None:
        if self._segment is None:
            self._segment = self._begin(batch)
        if batch.seals:
            self._segment.seal(batch.offset, batch.records[0].seq, batch.number)
            self.close()
            return
        self._segment.append(batch.offset, batch.headers(), batch.payloads)
        self._covered = Covered(batch.segment, self._segment.header.uuid, batch.number)

    def close(self) -> None:
        """Release the open segment as it is."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def new_header(
        self, number: int, first_seq: int, first_batch: int, generation: int = 0
    ) -> SegmentHeader:
        """The header of a segment that is made now."""
        created = int(self._clock.now() * _MICROSECONDS)
        return SegmentHeader(
            number=number,
            uuid=self._rng.token(_UUID_BYTES),
            owner=self._owner,
            created=created,
            first_seq=first_seq,
            first_batch=first_batch,
            generation=generation,
        )

    def _begin(self, batch: Batch) -> SegmentWriter:
        header = self.new_header(batch.segment, batch.records[0].seq, batch.number)
        file, length = self.space.open(batch.segment)
        try:
            segment = SegmentWriter.begin(file, header, length)
        except BaseException:
            file.close()
            raise
        self.space.taken(batch.segment)
        return segment
