"""Checking the segments of a log, one after the other, while nobody writes to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ostnode.store.checking import SegmentCheck, Suspect, named
from ostnode.store.disk import Disk, File
from ostnode.store.format import (
    FLAG_END,
    FLAG_FIRST,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
)
from ostnode.store.layout import SegmentFile
from ostnode.store.record import Damage, Problem
from ostnode.store.scan import Bad, Found, judge
from ostnode.store.segment import read, segment_name


class Flaw(NamedTuple):
    """Something wrong in the log. `detail` says what the problem alone does not."""

    suspect: Suspect
    detail: str = ""


class Step(NamedTuple):
    """A piece of a segment that was read: its bytes, whether it is a record, what is wrong."""

    nbytes: int
    is_record: bool
    flaws: list[Flaw]


class Torn(NamedTuple):
    """What recovery will cut off the end of the log: pieces of a batch, or a seal half written."""

    segment: int
    offset: int
    nbytes: int


class Order:
    """Whether the records of one segment follow each other as they were written.

    What the log wrote counts on without a hole, in whole batches. A compaction's output has holes
    where records were dropped; so has what follows a damaged range.
    """

    def __init__(self, header: SegmentHeader) -> None:
        self._has_holes = header.generation > 0
        self._seq, self._batch = header.first_seq - 1, header.first_batch - 1
        self._ended = True

    def skip(self) -> None:
        """A range that cannot be read lies here."""
        self._has_holes = True

    def check(self, head: RecordHeader) -> str:
        """What is wrong with the next record's place; empty when nothing is."""
        seq, batch, ended = self._seq, self._batch, self._ended
        self._seq, self._batch = head.seq, head.batch
        self._ended = bool(head.flags & FLAG_END)
        if head.seq <= seq or head.batch < batch:
            return f"sequence {head.seq} of batch {head.batch} after {seq} of batch {batch}"
        if self._has_holes:
            return ""
        if head.seq != seq + 1:
            return f"sequence {head.seq} follows {seq}"
        if (head.batch == batch + 1) != ended or head.batch > batch + 1:
            return (
                f"batch {head.batch} follows {batch}, which {'ended' if ended else 'did not end'}"
            )
        if bool(head.flags & FLAG_FIRST) != ended:
            return f"batch {head.batch} has the wrong first record"
        return ""


class LogCheck:
    """Reads segments whole. Blocking."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.torn: Torn | None = None
        """The torn tail of the last segment that was checked as such."""

    def segment(self, segment: SegmentFile, *, is_last: bool) -> Iterator[Step]:
        """Everything in a segment; the last of the log need not be sealed."""
        file = self._disk.open(segment_name(segment.number))
        try:
            yield Step(SEGMENT_HEADER_BYTES, is_record=False, flaws=list(_header(file, segment)))
            check = SegmentCheck(file, segment.number)
            if is_last and not check.sealed and not segment.is_output:
                yield from self._unsealed(check, segment)
            else:
                yield from _sealed(check, segment)
        finally:
            file.close()

    def _unsealed(self, check: SegmentCheck, segment: SegmentFile) -> Iterator[Step]:
        """As recovery reads it: what is torn is not damage."""
        items = list(check.items())
        judged = judge(items, segment.header.first_batch)
        order = Order(segment.header)
        for item in judged.items:
            flaws = [] if isinstance(item, Bad) else list(_misplaced(segment.number, item, order))
            if isinstance(item, Bad):
                order.skip()
                problem = Problem(Damage.RANGE, segment.number, item.offset, item.length)
                flaws = [Flaw(Suspect(problem))]
            elif not item.whole:
                flaws.append(Flaw(named(segment.number, item.offset, item.header)))
            yield Step(item.end - item.offset, isinstance(item, Found), flaws)
        end = items[-1].end if items else SEGMENT_HEADER_BYTES
        if end > judged.end:
            self.torn = Torn(segment.number, judged.end, end - judged.end)


def _header(file: File, segment: SegmentFile) -> Iterator[Flaw]:
    try:
        whole = read(file, 0, SEGMENT_HEADER_BYTES) == segment.header.pack()
    except OSError:
        whole = False
    if not whole:
        problem = Problem(Damage.SEGMENT, segment.number, 0, SEGMENT_HEADER_BYTES)
        yield Flaw(Suspect(problem), "one copy of its header is damaged, the other is read")


def _sealed(check: SegmentCheck, segment: SegmentFile) -> Iterator[Step]:
    order, end = Order(segment.header), SEGMENT_HEADER_BYTES
    for item in check.items():
        flaws = [Flaw(suspect) for suspect in check.judge(item)]
        if isinstance(item, Found):
            flaws += _misplaced(segment.number, item, order)
        else:
            order.skip()
        end = item.end
        yield Step(item.end - item.offset, isinstance(item, Found), flaws)
    rest = [Flaw(suspect) for suspect in (*check.whole_file(), *check.rest(end))]
    yield Step(max(check.size - end, 0), is_record=False, flaws=rest)


def _misplaced(segment: int, item: Found, order: Order) -> Iterator[Flaw]:
    detail = order.check(item.header)
    if detail:
        problem = named(segment, item.offset, item.header).problem
        yield Flaw(Suspect(problem), detail)
