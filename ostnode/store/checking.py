"""Checking a sealed segment against itself: every record, its digest, and the footer's word.

What is wrong with a record that nothing needs any more is no damage, and its payload may have been
punched out. Whether that is so only the key space can tell, so what is found wrong with a bulk
record is a `Suspect`, to be judged by whoever asked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from typing_extensions import override

from ostnode.store.disk import File
from ostnode.store.format import (
    FLAG_DAMAGED,
    FOOTER_ENTRY_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    FooterEntry,
    RecordHeader,
    SegmentHeader,
    Trailer,
    segment_key,
)
from ostnode.store.keyspace import Reader
from ostnode.store.record import KIND_SEAL, Damage, Extent, Problem, Record
from ostnode.store.scan import Bad, Found, Window, scan
from ostnode.store.schema import Schema, Worth
from ostnode.store.segment import read, read_footer, read_header, read_trailer

_WINDOW_BYTES: Final = 4 << 20
_HEADERS_WINDOW_BYTES: Final = 64 << 10
_OFFSETS: Final = struct.Struct(">56xQ32x")
"""The offset in a footer entry."""
assert _OFFSETS.size == FOOTER_ENTRY_BYTES


class Suspect(NamedTuple):
    """Something wrong in a segment, and the header of the record it is about, where one is known.

    Headers of damaged records come from the footer when the record's own is unreadable.
    """

    problem: Problem
    header: RecordHeader | None = None

    def is_damage(self, schema: Schema, rows: Reader) -> bool:
        """False when it is about a bulk record that nothing needs any more."""
        if self.header is None or self.header.kind not in schema.bulk_kinds:
            return True
        place = Extent(self.problem.segment, self.problem.offset, self.header.length)
        return schema.worth(record_of(self.header, place), rows) is not Worth.DEAD


def record_of(header: RecordHeader, place: Extent, payload: bytes = b"") -> Record:
    """A record as the schema sees it; of a bulk kind it has no payload."""
    numbers = (header.seq, header.batch, header.number, header.chunk_index)
    return Record(header.kind, *numbers, header.blob, payload, header.digest, place)


def named(segment: int, offset: int, header: RecordHeader) -> Suspect:
    """A damaged record whose header is known."""
    names = (header.kind, header.blob, header.number, header.chunk_index, header.seq)
    return Suspect(Problem(Damage.PAYLOAD, segment, offset, header.length, *names), header)


class ColdWindow(Window):
    """A window that asks for the disk's own bytes, not for the page cache's copy of them."""

    def __init__(self, file: File, window_bytes: int) -> None:
        super().__init__(file, window_bytes)
        self._longest = window_bytes

    @override
    def get(self, offset: int, length: int) -> memoryview:
        self._longest = max(self._longest, length)
        return super().get(offset, length)

    @override
    def _read(self, offset: int) -> int:
        self._file.drop_cache(offset, self._longest)
        return super()._read(offset)


@dataclass(slots=True)
class Checked:
    """One step of a check: what is wrong, how far it came, and where to go on.

    `next_offset` is None at the end of the segment; `seq` is the last sequence number seen.
    """

    suspects: list[Suspect] = field(default_factory=list)
    next_offset: int | None = None
    nbytes: int = 0
    seq: int = 0


class SegmentCheck:
    """A sealed segment, open for reading. Every call blocks.

    The footer's rows (at most 65,536) are kept in memory; the file may be closed between two
    steps and opened again with `reopen`. `cold` reads past the page cache; without `payloads`
    they are taken for whole and not read.
    """

    def __init__(
        self, file: File, number: int, *, cold: bool = False, payloads: bool = True
    ) -> None:
        self._number, self._cold, self._payloads = number, cold, payloads
        self.reopen(file)
        self.size = file.size()
        self.header: SegmentHeader | None = read_header(file)
        self._key = b""
        self._trailer: Trailer | None = None
        self._rows: dict[int, bytes] | None = None
        if self.header is not None:
            self._key = segment_key(self.header.uuid)
            self._trailer = read_trailer(file, self._key)
            footer = read_footer(file, self._trailer) if self._trailer else None
            self._rows = None if footer is None else _rows_by_offset(footer)

    def reopen(self, file: File) -> None:
        """Go on with the same segment, opened again."""
        self._file = file
        size = _WINDOW_BYTES if self._payloads else _HEADERS_WINDOW_BYTES
        self._window = ColdWindow(file, size) if self._cold else Window(file, size)

    @property
    def sealed(self) -> bool:
        """Whether its trailer says so."""
        return self._trailer is not None

    def whole_file(self) -> list[Suspect]:
        """What is wrong with the segment's header, footer and trailer."""
        if self.header is None:
            return [Suspect(Problem(Damage.SEGMENT, self._number, 0, self.size))]
        if self._rows is None:
            return [Suspect(Problem(Damage.FOOTER, self._number, 0, self.size))]
        return []

    def offset_of(self, after_seq: int) -> int:
        """Where the first record behind `after_seq` lies, or what stands before it is unclear."""
        at = SEGMENT_HEADER_BYTES
        while True:
            header = self._header_at(at)
            if header is None or header.seq > after_seq or header.kind == KIND_SEAL:
                return at
            at = Found(header, at, whole=True).end

    def step(self, start: int, limit_bytes: int) -> Checked:
        """Check records from `start` on until `limit_bytes` have been read."""
        done = Checked()
        at = start
        for item in self.items(start):
            if isinstance(item, Found):
                if item.header.kind == KIND_SEAL:
                    break
                done.seq = item.header.seq
            done.suspects += self.judge(item)
            at = item.end
            if at - start >= limit_bytes:
                done.next_offset, done.nbytes = at, at - start
                return done
        done.suspects += self.rest(at)
        done.nbytes = self.size - start
        return done

    def items(self, start: int = SEGMENT_HEADER_BYTES) -> Iterator[Found | Bad]:
        """The records from `start` on and what lies between them, the seal included."""
        window, payloads = self._window, self._payloads
        return scan(self._file, self._key, start=start, window=window, payloads=payloads)

    def judge(self, item: Found | Bad) -> Iterator[Suspect]:
        """What is wrong with what stands here."""
        if isinstance(item, Bad):
            yield from self._unreadable(item)
            return
        if item.header.kind == KIND_SEAL:
            return
        if not item.whole:
            yield named(self._number, item.offset, item.header)
        if self._rows is not None and not self._is_listed(item):
            yield Suspect(Problem(Damage.FOOTER, self._number, item.offset, item.header.length))

    def rest(self, at: int) -> Iterator[Suspect]:
        """What is wrong behind the last readable record, which ends at `at`."""
        end = self.size if self._trailer is None else self._trailer.seal_offset
        if at < end and self._rows is not None:
            yield from self._unreadable(Bad(at, end - at))
        header = self._header_at(end)
        if self._rows is not None and (header is None or header.kind != KIND_SEAL):
            yield Suspect(Problem(Damage.FOOTER, self._number, end, RECORD_HEADER_BYTES))

    def _header_at(self, at: int) -> RecordHeader | None:
        try:
            data = read(self._file, at, RECORD_HEADER_BYTES)
        except OSError:
            return None
        return RecordHeader.parse(data, self._key, at)

    def _is_listed(self, item: Found) -> bool:
        assert self._rows is not None
        row = self._rows.get(item.offset)
        if row is None:
            return False
        listed = FooterEntry.parse(row).header
        flags = listed.flags & ~FLAG_DAMAGED
        return listed._replace(flags=flags) == item.header

    def _unreadable(self, item: Bad) -> Iterator[Suspect]:
        """The records that stood in a damaged range, as far as the footer names them."""
        rows = self._rows or {}
        here = sorted(offset for offset in rows if item.offset <= offset < item.end)
        entries = [FooterEntry.parse(rows[offset]) for offset in here]
        records = [entry for entry in entries if entry.header.kind]
        for entry in records:
            yield named(self._number, entry.offset, entry.header)
        if not records:
            yield Suspect(Problem(Damage.RANGE, self._number, item.offset, item.length))


def _rows_by_offset(footer: bytes) -> dict[int, bytes]:
    return {
        offset: footer[at : at + FOOTER_ENTRY_BYTES]
        for at, (offset,) in zip(
            range(0, len(footer), FOOTER_ENTRY_BYTES), _OFFSETS.iter_unpack(footer), strict=True
        )
    }
