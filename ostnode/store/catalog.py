"""Which segments the store has now; belongs to the event loop."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from ostnode.store.format import SEGMENT_HEADER_BYTES
from ostnode.store.keyspace import Reader, dead_changes, dead_rows
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
    """The segments in the order of the log.

    The estimates of dead bytes follow the durable rows without asking for them again.
    """

    def __init__(self, found: Sequence[SegmentFile], rows: Reader) -> None:
        self._dead = dead_rows(rows)
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
                dead_bytes=self._dead.get(file.number, 0),
                sealed=True,
            )
            for file, end in zip(found, ends, strict=True)
        ]
        self._places: dict[int, int] = {}
        self._find_places()
        self._open: SegmentInfo | None = None
        """As it began; `_end` is where it is now: the last sequence number, and bytes."""
        self._end = (0, 0)

    @property
    def sealed(self) -> Sequence[SegmentInfo]:
        """The segments that are written to no more."""
        return self._sealed

    def infos(self) -> list[SegmentInfo]:
        """All of them."""
        return self._sealed + ([self._grown(self._open)] if self._open else [])

    def behind(self, seq: int) -> SegmentInfo | None:
        """The first sealed segment with records behind sequence number `seq`."""
        place = bisect_right(self._sealed, seq, key=attrgetter("last_seq"))
        return self._sealed[place] if place < len(self._sealed) else None

    def run(self, numbers: Sequence[int]) -> list[SegmentInfo]:
        """Adjacent sealed segments; raises ValueError when they are not that any more."""
        start = self._places.get(numbers[0], 0) if numbers else 0
        run = self._sealed[start : start + len(numbers)]
        if not numbers or [info.number for info in run] != list(numbers):
            raise ValueError(f"{list(numbers)} are not adjacent sealed segments")
        return run

    def completed(self, batch: Batch) -> None:
        """A batch is durable: the open segment has grown, or is sealed now."""
        for number, dead in dead_changes(batch.changes).items():
            self._estimated(number, dead)
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
            self._places[batch.segment] = len(self._sealed)
            self._sealed.append(replace(self._grown(self._open), sealed=True))
            self._open = None

    def _estimated(self, number: int, dead: int | None) -> None:
        if dead is None:
            self._dead.pop(number, None)
        else:
            self._dead[number] = dead
        place = self._places.get(number)
        if place is not None:
            self._sealed[place] = replace(self._sealed[place], dead_bytes=dead or 0)

    def _grown(self, began: SegmentInfo) -> SegmentInfo:
        last, nbytes = self._end
        dead = self._dead.get(began.number, 0)
        return replace(began, last_seq=last, nbytes=nbytes, allocated=nbytes, dead_bytes=dead)

    def _find_places(self) -> None:
        self._places = {info.number: place for place, info in enumerate(self._sealed)}

    def replaced(self, inputs: Sequence[SegmentInfo], output: SegmentInfo) -> None:
        """An output stands for its inputs."""
        start = self._places[inputs[0].number]
        dead = self._dead.get(output.number, 0)
        self._sealed[start : start + len(inputs)] = [replace(output, dead_bytes=dead)]
        self._find_places()

    def punched(self, number: int, allocated: int) -> None:
        """A segment takes less of the disk now."""
        place = self._places.get(number)
        if place is not None:
            self._sealed[place] = replace(self._sealed[place], allocated=allocated)
