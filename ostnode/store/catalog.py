"""Which segments the store has now; belongs to the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ostnode.store.format import SEGMENT_HEADER_BYTES
from ostnode.store.keyspace import Reader, dead_key, parse_dead
from ostnode.store.layout import SegmentFile
from ostnode.store.staging import Batch


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A segment; sizes in bytes."""

    number: int
    generation: int
    """0: written by the log; n: by a compaction, of segments up to generation n - 1."""
    first_seq: int
    last_seq: int
    first_batch: int
    nbytes: int
    """Of the open segment: what is used."""
    allocated: int
    """On the disk; less than `nbytes` once something was punched out."""
    dead_bytes: int
    """An estimate: what reducers have said since it was written."""
    sealed: bool


class Catalog:
    """The segments in the order of the log."""

    def __init__(self, found: Sequence[SegmentFile]) -> None:
        # Where no trailer says it, a segment ends where the next one begins.
        ends = [file.first_seq - 1 for file in found[1:]] + [file.first_seq for file in found[-1:]]
        self._sealed = [
            SegmentInfo(
                number=file.number,
                generation=file.header.generation,
                first_seq=file.first_seq,
                last_seq=file.last_seq or end,
                first_batch=file.header.first_batch,
                nbytes=file.nbytes,
                allocated=file.allocated,
                dead_bytes=0,
                sealed=True,
            )
            for file, end in zip(found, ends, strict=True)
        ]
        self._open: SegmentInfo | None = None
        """As it began; `_end` is where it is now: the last sequence number, and bytes."""
        self._end = (0, 0)

    @property
    def sealed(self) -> Sequence[SegmentInfo]:
        """The segments that are written to no more; their `dead_bytes` are 0."""
        return self._sealed

    def infos(self, rows: Reader) -> list[SegmentInfo]:
        """All of them, with the estimates that are in `rows`."""
        every = self._sealed + ([self._grown(self._open)] if self._open else [])
        return [
            replace(info, dead_bytes=parse_dead(rows.get(dead_key(info.number)))) for info in every
        ]

    def run(self, numbers: Sequence[int]) -> list[SegmentInfo]:
        """Adjacent sealed segments; raises ValueError when they are not that any more."""
        places = {info.number: place for place, info in enumerate(self._sealed)}
        start = places.get(numbers[0], 0) if numbers else 0
        run = self._sealed[start : start + len(numbers)]
        if not numbers or [info.number for info in run] != list(numbers):
            raise ValueError(f"{list(numbers)} are not adjacent sealed segments")
        return run

    def completed(self, batch: Batch) -> None:
        """A batch is durable: the open segment has grown, or is sealed now."""
        if not batch.records:
            return
        if self._open is None or self._open.number != batch.segment:
            assert batch.offset == SEGMENT_HEADER_BYTES
            first = batch.records[0].seq
            self._open = SegmentInfo(
                number=batch.segment,
                generation=0,
                first_seq=first,
                last_seq=first,
                first_batch=batch.number,
                nbytes=batch.offset,
                allocated=batch.offset,
                dead_bytes=0,
                sealed=False,
            )
        self._end = (batch.records[-1].seq, batch.end)
        if batch.seals:
            self._sealed.append(replace(self._grown(self._open), sealed=True))
            self._open = None

    def _grown(self, began: SegmentInfo) -> SegmentInfo:
        last, nbytes = self._end
        return replace(began, last_seq=last, nbytes=nbytes, allocated=nbytes)

    def replaced(self, inputs: Sequence[SegmentInfo], output: SegmentInfo) -> None:
        """An output stands for its inputs."""
        start = self._sealed.index(inputs[0])
        self._sealed[start : start + len(inputs)] = [output]

    def punched(self, number: int, allocated: int) -> None:
        """A segment takes less of the disk now."""
        for place, info in enumerate(self._sealed):
            if info.number == number:
                self._sealed[place] = replace(info, allocated=allocated)
