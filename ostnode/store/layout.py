"""The segments on disk, in the order of the log.

The order is that of the sequence numbers: segments sorted by the first one in their header. Numbers
only name files, and say which of two is older. A sealed output of a compaction stands for every
older segment whose first sequence number lies in its range; those are what a crash left over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from ostnode.store.disk import Disk, File
from ostnode.store.errors import NotAFileError
from ostnode.store.format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
    Trailer,
    segment_key,
)
from ostnode.store.record import Damage, Problem
from ostnode.store.segment import (
    read,
    read_footer,
    read_header,
    read_trailer,
    segment_name,
    segment_number,
)

_ZEROS: Final = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """A segment as its header and trailer describe it; sizes in bytes."""

    header: SegmentHeader
    trailer: Trailer | None
    """None when it is not sealed, or when the trailer is damaged."""
    nbytes: int
    allocated: int
    judged_at: int = 0
    """Of an output: the batch up to which the rows had come when its records were judged. A key
    index that is behind it may still want what was dropped. 0 when its seal is damaged."""

    @property
    def number(self) -> int:
        """The number that names it."""
        return self.header.number

    @property
    def first_seq(self) -> int:
        """Where its range begins."""
        return self.header.first_seq

    @property
    def last_seq(self) -> int | None:
        """Where its range ends; None when no trailer says so."""
        return self.trailer.last_seq if self.trailer else None

    @property
    def is_output(self) -> bool:
        """Whether a compaction made it."""
        return self.header.generation > 0

    def replaces(self, other: SegmentFile) -> bool:
        """Whether this is a sealed output made from `other`."""
        if not self.is_output or self.last_seq is None or other.number >= self.number:
            return False
        return self.first_seq <= other.first_seq <= self.last_seq


@dataclass(slots=True)
class Layout:
    """What lies in a data directory."""

    log: list[SegmentFile] = field(default_factory=list)
    """The segments that count, in the order of the log."""
    leftovers: list[SegmentFile] = field(default_factory=list)
    """Segments that one of the log stands for."""
    unfinished: list[int] = field(default_factory=list)
    """Numbers of outputs without a seal, whose inputs are there."""
    blank: list[int] = field(default_factory=list)
    """Numbers of files that were made and never written to."""
    lost: list[tuple[int, int]] = field(default_factory=list)
    """Number and bytes of files whose header is unreadable."""
    strange: list[NotAFileError] = field(default_factory=list)
    """Why those of the lost are that are no files."""
    highest: int = 0
    """The highest number that names a file."""

    def find(self, number: int) -> SegmentFile | None:
        """The segment of that number, a leftover too."""
        files = (file for file in (*self.log, *self.leftovers) if file.number == number)
        return next(files, None)

    def standing_for(self, number: int) -> int:
        """The place in `log` of the segment of that number, or of the output that replaced it."""
        for place, file in enumerate(self.log):
            if file.number == number:
                return place
        leftover = next(file for file in self.leftovers if file.number == number)
        return next(place for place, file in enumerate(self.log) if file.replaces(leftover))

    def replaced_by(self, output: SegmentFile) -> list[SegmentFile]:
        """The leftovers that `output` stands for."""
        return [file for file in self.leftovers if output.replaces(file)]

    def problems(self) -> list[Problem]:
        """Files without a header, and sequence numbers that are in no segment."""
        found = [Problem(Damage.SEGMENT, number, 0, size) for number, size in self.lost]
        if self.log and self.log[0].first_seq > 1:
            found.append(_gap(self.log[0], 1))
        for before, after in pairwise(self.log):
            if before.last_seq is not None and before.last_seq + 1 < after.first_seq:
                found.append(_gap(after, before.last_seq + 1))
        return found

    def numbers_to_skip(self, gaps: int) -> int:
        """How many sequence and batch numbers the newest lost files may have used.

        A lost file that left no gap in front of a later segment may have been the last one.
        """
        if len(self.lost) <= gaps:
            return 0
        return sum(size // RECORD_HEADER_BYTES for _, size in self.lost)


def read_layout(disk: Disk) -> Layout:
    """Look at header and trailer of every segment; nothing is changed. Raises OSError."""
    layout, files = Layout(), list[SegmentFile]()
    for number in sorted(number for name in disk.names() if (number := segment_number(name))):
        try:
            file = disk.open(segment_name(number))
        except FileNotFoundError:
            continue  # the store that is running has just removed it
        except NotAFileError as error:
            layout.strange.append(error)
            layout.lost.append((number, 0))
            continue
        layout.highest = number
        try:
            found = look(file, number)
            if found is not None:
                files.append(found)
            elif _is_blank(file):
                layout.blank.append(number)
            else:
                layout.lost.append((number, file.size()))
        finally:
            file.close()
    _order(layout, _finished(disk, layout, files))
    return layout


def look(file: File, number: int) -> SegmentFile | None:
    """What header and trailer say of a segment; None when its header is damaged."""
    header = read_header(file)
    if header is None or header.number != number:
        return None
    key = segment_key(header.uuid)
    trailer = read_trailer(file, key)
    judged_at = _judged_at(file, key, trailer) if trailer and header.generation else 0
    return SegmentFile(header, trailer, file.size(), file.allocated(), judged_at)


def _judged_at(file: File, key: bytes, trailer: Trailer) -> int:
    at = trailer.seal_offset
    try:
        seal = RecordHeader.parse(read(file, at, RECORD_HEADER_BYTES), key, at)
    except OSError:
        return 0
    return seal.number if seal else 0


def _is_blank(file: File) -> bool:
    """No valid header and nothing but zeros behind it: no batch was ever written here."""
    try:
        size = file.size()
        # Zeros that a read ahead left in the cache would count as data.
        file.drop_cache(0, size)
        at = file.next_data(SEGMENT_HEADER_BYTES)
        while at < size and (data := read(file, at, len(_ZEROS))):
            # A comparison, not `any`: of 256 MiB that took two seconds, this a tenth of one.
            if data != _ZEROS[: len(data)]:
                return False
            at = file.next_data(at + len(data))
    except OSError:
        return False
    return True


def _finished(disk: Disk, layout: Layout, files: list[SegmentFile]) -> list[SegmentFile]:
    """Set apart outputs that never got a whole seal; if the inputs are gone, there was one once."""
    oldest: dict[int, int] = {}
    for file in files:
        oldest.setdefault(file.first_seq, file.number)
    kept = []
    for file in files:
        if file.is_output and oldest[file.first_seq] < file.number and not _is_sealed(disk, file):
            layout.unfinished.append(file.number)
        else:
            kept.append(file)
    return kept


def _is_sealed(disk: Disk, output: SegmentFile) -> bool:
    """Whether seal, footer and trailer are whole: a crash may have kept any part of them."""
    if output.trailer is None or not output.judged_at:
        return False
    file = disk.open(segment_name(output.number))
    try:
        return read_footer(file, output.trailer) is not None
    finally:
        file.close()


def _order(layout: Layout, files: list[SegmentFile]) -> None:
    for file in sorted(files, key=lambda file: (file.first_seq, -file.number)):
        if layout.log and layout.log[-1].replaces(file):
            layout.leftovers.append(file)
        else:
            layout.log.append(file)


def _gap(after: SegmentFile, first: int) -> Problem:
    missing = after.first_seq - first
    return Problem(Damage.GAP, after.number, 0, missing, seq=first)
