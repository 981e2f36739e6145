"""Opening a log: repair its end, then bring the key index up to it.

Repair changes only the last segment, and only in ways that leave a crash in the middle of them to
the next start: a half-made file is removed, a torn tail is cut off, the last batch is written
again in place (the sync it waited for may have failed: its pages can look clean and be lost), and
the segment is sealed. A new segment is made only after that, so every other segment is sealed.
Removals are not synced: a file that comes back is removed again, or replaced by a synced creation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ostnode.store.disk import Disk, File
from ostnode.store.errors import StoreOwnerError
from ostnode.store.format import (
    FLAG_DAMAGED,
    FORMAT_VERSION,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    FooterEntry,
    SegmentHeader,
    payload_digest,
    segment_key,
)
from ostnode.store.keyspace import Changes, Covered, KeyIndex, Overlay
from ostnode.store.record import (
    KIND_SEAL,
    ROLE_KIND_MAX,
    Damage,
    Extent,
    Problem,
    Record,
)
from ostnode.store.scan import Bad, Found, Window, judge, scan
from ostnode.store.schema import Schema
from ostnode.store.segment import (
    parse_footer,
    read,
    read_footer,
    read_header,
    read_trailer,
    segment_name,
    segment_number,
    write_seal,
)
from ostnode.store.staging import Position

_COMMIT_CHANGES: Final = 8192
"""Changes gathered, at least, before the key index is brought forward during replay."""
_REPLAY_WINDOW_BYTES: Final = 64 << 10
_BLANK_CHECK_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Recovered:
    """What opening found: where the log goes on, its bytes, and what is wrong with it."""

    position: Position
    stored: int
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Contents:
    """A segment's records in the order of the log, and where its numbers end."""

    entries: list[FooterEntry]
    last_seq: int
    last_batch: int
    footer_damaged: bool = False


def recover(disk: Disk, index: KeyIndex, schema: Schema, owner: bytes) -> Recovered:
    """Repair the log, bring `index` up to it, and say where to go on. Blocking; idempotent.

    Raises StoreOwnerError when the directory is not `owner`'s, OSError when the disk refuses.
    """
    numbers = _segments(disk)
    while numbers and _is_half_made(disk, numbers[-1]):
        disk.remove(segment_name(numbers.pop()))
    if numbers and not _repair_last(disk, numbers[-1], owner):
        numbers.pop()
    try:
        return Replay(disk, index, schema, owner).run(numbers)
    except BaseException:
        index.close(clean=False)
        raise


def _segments(disk: Disk) -> list[int]:
    return sorted(number for name in disk.names() if (number := segment_number(name)))


def _is_half_made(disk: Disk, number: int) -> bool:
    """No valid header and nothing but zeros behind it: no batch was ever written here."""
    file = disk.open(segment_name(number))
    try:
        if read_header(file) is not None:
            return False
        return not any(
            any(read(file, at, _BLANK_CHECK_BYTES))
            for at in range(SEGMENT_HEADER_BYTES, file.size(), _BLANK_CHECK_BYTES)
        )
    finally:
        file.close()


def _repair_last(disk: Disk, number: int, owner: bytes) -> bool:
    """Cut the torn tail off and seal. False when the segment held nothing and is removed."""
    file = disk.open(segment_name(number), write=True)
    try:
        header = read_header(file)
        if header is None:
            return True
        _check_owner(header, number, owner)
        key = segment_key(header.uuid)
        trailer = read_trailer(file, key)
        if trailer is not None and read_footer(file, trailer) is not None:
            file.sync()  # the process that sealed it may have been killed before its sync
            return True
        judged = judge(list(scan(file, key)), header.first_batch)
        if judged.items:
            _write_again(file, judged.last, judged.end)
            file.truncate(judged.end)
            file.sync()  # so that no state in between shows torn records behind a seal
            _seal(file, key, judged.end, header, judged.items)
            return True
    finally:
        file.close()
    disk.remove(segment_name(number))
    return False


def _write_again(file: File, start: int, end: int) -> None:
    if end > start:
        file.write(start, [read(file, start, end - start)])


def _seal(
    file: File, key: bytes, end: int, header: SegmentHeader, items: list[Found | Bad]
) -> None:
    contents = _contents(items, header)
    entries = b"".join(entry.pack() for entry in contents.entries)
    write_seal(file, key, end, entries, (contents.last_seq + 1, contents.last_batch + 1))


def _contents(items: list[Found | Bad], header: SegmentHeader) -> Contents:
    found = [item.header for item in items if isinstance(item, Found)]
    return Contents(
        [item.entry() for item in items],
        max((head.seq for head in found), default=header.first_seq - 1),
        max((head.batch for head in found), default=header.first_batch - 1),
    )


def _check_owner(header: SegmentHeader, number: int, owner: bytes) -> None:
    if header.version != FORMAT_VERSION:
        raise StoreOwnerError(f"segment {number} has format {header.version}: too new for us")
    if header.owner != owner:
        raise StoreOwnerError(
            f"segment {number} belongs to bucket {header.owner.hex()}, not to {owner.hex()}: "
            "is this the right data directory for the key?"
        )


class Replay:
    """Reads the log from where the key index left it and applies what follows."""

    def __init__(
        self,
        disk: Disk,
        index: KeyIndex,
        schema: Schema,
        owner: bytes,
    ) -> None:
        self._disk, self._index, self._schema, self._owner = disk, index, schema, owner
        self._overlay = Overlay(index)
        self._changes: Changes = {}
        self._problems: list[Problem] = []
        self._next_seq, self._next_batch = 1, 1

    def run(self, numbers: list[int]) -> Recovered:
        """Bring the index up to the log of these segments."""
        covered = self._index.open()
        if covered is not None and not self._matches(covered, numbers):
            self._index.reset()
            covered = None
        start = numbers.index(covered.segment) if covered else 0
        self._report_gaps(numbers)
        for number in numbers[start:]:
            self._segment(number, covered)
        self._index.recovered()
        stored = sum(self._size(number) for number in numbers)
        position = Position((numbers or [0])[-1] + 1, self._next_seq, self._next_batch)
        return Recovered(position, stored, self._problems)

    def _matches(self, covered: Covered, numbers: list[int]) -> bool:
        """Whether the index followed this very log and is not ahead of it."""
        if covered.segment not in numbers:
            return False
        file = self._disk.open(segment_name(covered.segment))
        try:
            header = read_header(file)
            if header is None or header.uuid != covered.uuid:
                return False
            return covered.batch <= _last_batch(file, header)
        finally:
            file.close()

    def _report_gaps(self, numbers: list[int]) -> None:
        present = set(numbers)
        missing = [n for n in range(1, max(present, default=0)) if n not in present]
        self._problems += [Problem(Damage.SEGMENT, number, 0, 0) for number in missing]

    def _size(self, number: int) -> int:
        file = self._disk.open(segment_name(number))
        try:
            return file.size()
        finally:
            file.close()

    def _segment(self, number: int, covered: Covered | None) -> None:
        file = self._disk.open(segment_name(number))
        try:
            header = read_header(file)
            if header is None:
                self._lost_segment(number, file.size())
                return
            _check_owner(header, number, self._owner)
            seen = covered.batch if covered else 0
            contents = _read_contents(file, header, seen)
            if contents.footer_damaged:
                self._problems.append(Problem(Damage.FOOTER, number, 0, file.size()))
            self._apply(file, header, contents.entries, seen)
        finally:
            file.close()
        self._next_seq = max(self._next_seq, contents.last_seq + 1)
        self._next_batch = max(self._next_batch, contents.last_batch + 1)

    def _lost_segment(self, number: int, size: int) -> None:
        """Report it, and step over every number its records can have used."""
        self._problems.append(Problem(Damage.SEGMENT, number, 0, size))
        self._next_seq += size // RECORD_HEADER_BYTES
        self._next_batch += size // RECORD_HEADER_BYTES

    def _apply(
        self, file: File, header: SegmentHeader, entries: list[FooterEntry], batch_seen: int
    ) -> None:
        window = Window(file, _REPLAY_WINDOW_BYTES)
        at = None
        for entry in entries:
            batch = entry.header.batch
            if at is not None and batch != at.batch and len(self._changes) >= _COMMIT_CHANGES:
                self._commit(at)
            record = self._load(window, header.number, entry)
            if record is not None and batch > batch_seen:
                self._overlay.apply([record], self._schema.reduce, self._changes)
                at = Covered(header.number, header.uuid, batch)
        if at is not None:
            self._commit(at)

    def _commit(self, covered: Covered) -> None:
        self._index.commit(self._changes, covered)
        self._overlay.retire(self._changes)
        self._changes = {}

    def _load(self, window: Window, segment: int, entry: FooterEntry) -> Record | None:
        """The record of an entry; None for the store's own and for what damage has made useless."""
        head = entry.header
        damaged = bool(head.flags & FLAG_DAMAGED)
        payload = b""
        is_roles, is_bulk = 0 < head.kind <= ROLE_KIND_MAX, head.kind in self._schema.bulk_kinds
        if is_roles and not is_bulk and not damaged:
            payload = bytes(window.get(entry.offset + RECORD_HEADER_BYTES, head.length))
            damaged = payload_digest(payload) != head.digest
        if damaged:
            self._problems.append(_problem(segment, entry))
        if not is_roles or (damaged and not is_bulk):
            return None
        extent = Extent(segment, entry.offset, head.length)
        numbers = (head.seq, head.batch, head.number, head.chunk_index)
        return Record(head.kind, *numbers, head.blob, payload, head.digest, extent)


def _problem(segment: int, entry: FooterEntry) -> Problem:
    head = entry.header
    if head.kind == 0:
        return Problem(Damage.RANGE, segment, entry.offset, head.length)
    names = (head.kind, head.blob, head.number, head.chunk_index, head.seq)
    return Problem(Damage.PAYLOAD, segment, entry.offset, head.length, *names)


def _last_batch(file: File, header: SegmentHeader) -> int:
    trailer = read_trailer(file, segment_key(header.uuid))
    return trailer.last_batch if trailer else _read_contents(file, header, 0).last_batch


def _read_contents(file: File, header: SegmentHeader, seen: int) -> Contents:
    """From the footer, or by reading all of the segment when the footer is damaged.

    Whole records of batches up to `seen` are left out when there is a footer.
    """
    key = segment_key(header.uuid)
    trailer = read_trailer(file, key)
    footer = read_footer(file, trailer) if trailer else None
    if trailer is not None and footer is not None:
        return Contents(parse_footer(footer, seen), trailer.last_seq, trailer.last_batch)
    items = list(scan(file, key))
    found = _contents(items, header)
    kept = [entry for entry in found.entries if entry.header.kind != KIND_SEAL]
    return Contents(kept, found.last_seq, found.last_batch, footer_damaged=True)
