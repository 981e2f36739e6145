"""What a sealed segment's records are worth now, from its footer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ostnode.store.contents import read_contents
from ostnode.store.disk import Disk
from ostnode.store.format import (
    FLAG_DAMAGED,
    RECORD_HEADER_BYTES,
    FooterEntry,
    payload_digest,
    record_bytes,
)
from ostnode.store.keyspace import Reader
from ostnode.store.record import ROLE_KIND_MAX, Extent, Record
from ostnode.store.scan import Window
from ostnode.store.schema import Schema, Worth
from ostnode.store.segment import read_header, segment_name

PUNCH_BYTES_MIN: Final = 64 << 10
"""Smaller holes give little back and cut the file into pieces."""
BLOCK_BYTES: Final = 4096
_WINDOW_BYTES: Final = 256 << 10
_SLICE_RECORDS: Final = 256


class Verdict(NamedTuple):
    """A record and its worth. The store's own, and damaged ranges, are DEAD."""

    entry: FooterEntry
    worth: Worth
    unreadable: bool
    """Metadata whose payload is damaged: nobody can say what it is worth, so it is LIVE."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a sealed segment holds; records and bytes (of records with their headers)."""

    number: int
    generation: int
    first_seq: int
    last_seq: int
    nbytes: int
    allocated: int
    records: int
    """Of the role: markers and the seal are not counted."""
    kept: int
    """Of these, LIVE and TOMBSTONE."""
    tombstones: int
    live_bytes: int
    dead_bytes: int
    tombstone_bytes: int
    clean: bool
    """Nothing in it is DEAD or unreadable: there is nothing a later tombstone must undo."""
    tombstones_free: bool = False
    """No segment before it has anything a tombstone must undo: rewriting drops its tombstones."""
    punchable: tuple[Extent, ...] = ()
    """Dead payloads of 64 KiB and more that still take space."""


def judged(
    window: Window, segment: int, entries: Iterable[FooterEntry], schema: Schema, rows: Reader
) -> Iterator[Verdict]:
    """The worth of each record; payloads of metadata are read and verified."""
    for entry in entries:
        head = entry.header
        if not 0 < head.kind <= ROLE_KIND_MAX:
            yield Verdict(entry, Worth.DEAD, unreadable=False)
            continue
        payload, whole = b"", True
        if head.kind not in schema.bulk_kinds:
            payload = bytes(window.get(entry.offset + RECORD_HEADER_BYTES, head.length))
            whole = not head.flags & FLAG_DAMAGED and payload_digest(payload) == head.digest
        if not whole:
            yield Verdict(entry, Worth.LIVE, unreadable=True)
            continue
        numbers = (head.seq, head.batch, head.number, head.chunk_index)
        extent = Extent(segment, entry.offset, head.length)
        record = Record(head.kind, *numbers, head.blob, payload, head.digest, extent)
        yield Verdict(entry, schema.worth(record, rows), unreadable=False)


def whole_blocks(extent: Extent) -> tuple[int, int]:
    """Offset and length of the blocks that lie inside the payload entirely."""
    start = extent.offset + RECORD_HEADER_BYTES
    first = start + -start % BLOCK_BYTES
    return first, max(0, (start + extent.length) // BLOCK_BYTES * BLOCK_BYTES - first)


@dataclass(slots=True)
class _Sums:
    records: int = 0
    kept: int = 0
    tombstones: int = 0
    clean: bool = True
    nbytes: dict[Worth, int] = field(default_factory=lambda: dict.fromkeys(Worth, 0))
    punchable: list[Extent] = field(default_factory=list)

    def add(self, verdict: Verdict, segment: int, *, bulk: bool) -> None:
        head = verdict.entry.header
        if head.kind == 0:
            self.nbytes[Worth.DEAD] += head.length
            self.clean = False
            return
        self.nbytes[verdict.worth] += record_bytes(head.length)
        if head.kind > ROLE_KIND_MAX:
            return
        self.records += 1
        dead = verdict.worth is Worth.DEAD
        self.kept += not dead
        self.tombstones += verdict.worth is Worth.TOMBSTONE
        self.clean = self.clean and not dead and not verdict.unreadable
        if dead and bulk and head.length >= PUNCH_BYTES_MIN:
            self.punchable.append(Extent(segment, verdict.entry.offset, head.length))


class Judging:
    """Judges one segment in slices. Blocking; one thread at a time."""

    def __init__(self, disk: Disk, number: int, schema: Schema, rows: Reader) -> None:
        self._number, self._schema = number, schema
        self._file = disk.open(segment_name(number))
        self._sums = _Sums()
        header = read_header(self._file)
        if header is None:
            self.close()
            raise ValueError(f"the header of segment {number} is damaged")
        self._header = header
        contents = read_contents(self._file, header)
        self._last_seq = contents.last_seq
        window = Window(self._file, _WINDOW_BYTES)
        self._verdicts = judged(window, number, contents.entries, schema, rows)

    def step(self) -> bool:
        """Judge some more; False when that was all."""
        for done, verdict in enumerate(self._verdicts, 1):
            bulk = verdict.entry.header.kind in self._schema.bulk_kinds
            self._sums.add(verdict, self._number, bulk=bulk)
            if done == _SLICE_RECORDS:
                return True
        return False

    def result(self) -> Judgement:
        """What was found."""
        sums, allocated, nbytes = self._sums, self._file.allocated(), self._file.size()
        holes = sum(whole_blocks(extent)[1] for extent in sums.punchable)
        # There is no cheap way to ask what was punched before; all of it, if so little is left.
        still_there = allocated > nbytes - holes + BLOCK_BYTES
        return Judgement(
            number=self._number,
            generation=self._header.generation,
            first_seq=self._header.first_seq,
            last_seq=self._last_seq,
            nbytes=nbytes,
            allocated=allocated,
            records=sums.records,
            kept=sums.kept,
            tombstones=sums.tombstones,
            live_bytes=sums.nbytes[Worth.LIVE],
            dead_bytes=sums.nbytes[Worth.DEAD],
            tombstone_bytes=sums.nbytes[Worth.TOMBSTONE],
            clean=sums.clean,
            punchable=tuple(sums.punchable) if still_there else (),
        )

    def close(self) -> None:
        """Release the file."""
        self._file.close()
