"""Opening a log: repair its end, then bring the key index up to it.

Repair changes only the last segment, and only in ways that leave a crash in the middle of them to
the next start: a half-made file is removed, a torn tail is cut off, the last batch is written
again in place (the sync it waited for may have failed: its pages can look clean and be lost), and
the segment is sealed. A new segment is made only after that, so every other segment is sealed.
What was removed is gone durably before anything new is written: an empty segment that came back
would begin where the one after it does. Inputs of a finished compaction may come back: the output
stands for them again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ostnode.ids import Principal, PrincipalKind
from ostnode.store.contents import contents_of, problem_of, read_contents
from ostnode.store.disk import Disk, File
from ostnode.store.errors import IndexDamagedError, StoreOwnerError
from ostnode.store.format import (
    FLAG_DAMAGED,
    FORMAT_VERSION,
    RECORD_HEADER_BYTES,
    FooterEntry,
    SegmentHeader,
    payload_digest,
    segment_key,
)
from ostnode.store.keyspace import (
    Changes,
    Covered,
    KeyIndex,
    Overlay,
    Writer,
    dead_key,
    pack_dead,
)
from ostnode.store.layout import Layout, SegmentFile, look, read_layout
from ostnode.store.record import (
    ROLE_KIND_MAX,
    Damage,
    Extent,
    Problem,
    Record,
)
from ostnode.store.scan import Bad, Found, Window, judge, scan
from ostnode.store.schema import Schema, Worth
from ostnode.store.segment import read, read_footer, segment_name, write_seal
from ostnode.store.staging import Position
from ostnode.store.swap import AllBut, confirm, copies, move_rows

_COMMIT_CHANGES: Final = 8192
"""Changes gathered, at least, before the key index is brought forward during replay."""
_REPLAY_WINDOW_BYTES: Final = 64 << 10
_BATCH_RECORDS_MAX: Final = 65_536
"""More than a batch has: sequence numbers left out for each that is lost."""


@dataclass(slots=True)
class Recovered:
    """What opening found: where the log goes on, its segments, and what is wrong with it."""

    position: Position
    segments: list[SegmentFile]
    """All sealed, in the order of the log."""
    covered: Covered | None
    """The position of the key index."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def stored(self) -> int:
        """Bytes in segments."""
        return sum(segment.nbytes for segment in self.segments)


def recover(disk: Disk, index: KeyIndex, schema: Schema, owner: bytes) -> Recovered:
    """Repair the log, bring `index` up to it, and say where to go on. Blocking; idempotent.

    Raises StoreOwnerError when the directory is not `owner`'s, NotAFileError when a segment's name
    is that of something else, OSError when the disk refuses.
    """
    layout = read_layout(disk)
    if layout.strange:
        raise layout.strange[0]
    for file in (*layout.log, *layout.leftovers):
        _check_owner(file.header, owner)
    removed, sealed = [*layout.blank, *layout.unfinished], 0
    if layout.log and not layout.log[-1].is_output:
        last = layout.log.pop()
        repaired = _repair(disk, last)
        if repaired is None:
            removed.append(last.number)
        else:
            layout.log.append(repaired)
            sealed = 0 if repaired is last else last.number
    _remove(disk, removed)
    try:
        try:
            recovered = Replay(disk, index, schema, layout, sealed).run()
        except IndexDamagedError:
            # Rebuilds: an index whose replay never came to its end is not trusted.
            recovered = Replay(disk, index, schema, layout, sealed).run()
    except BaseException:
        index.close(clean=False)
        raise
    _remove(disk, [file.number for file in layout.leftovers])
    return recovered


def _remove(disk: Disk, numbers: list[int]) -> None:
    for number in numbers:
        disk.remove(segment_name(number))
    if numbers:
        disk.sync_names()


def _repair(disk: Disk, last: SegmentFile) -> SegmentFile | None:
    """Cut the torn tail off and seal; None when the segment holds nothing."""
    file = disk.open(segment_name(last.number), write=True)
    try:
        key = segment_key(last.header.uuid)
        if last.trailer is not None and read_footer(file, last.trailer) is not None:
            # The sync of the seal may have failed, or never come: it is written again, as the last
            # batch is, and the length with it: reads may show what the disk does not hold.
            file.truncate(last.nbytes)
            _write_again(file, last.trailer.seal_offset, last.nbytes)
            file.sync()
            return last
        judged = judge(list(scan(file, key)), last.header.first_batch)
        if not judged.items:
            return None
        _write_again(file, judged.last, judged.end)
        file.truncate(judged.end)
        file.sync()  # so that no state in between shows torn records behind a seal
        _seal(file, key, judged.end, last.header, judged.items)
        return look(file, last.number)
    finally:
        file.close()


def _write_again(file: File, start: int, end: int) -> None:
    if end > start:
        file.write(start, [read(file, start, end - start)])


def _seal(
    file: File, key: bytes, end: int, header: SegmentHeader, items: list[Found | Bad]
) -> None:
    contents = contents_of(items, header)
    entries = b"".join(entry.pack() for entry in contents.entries)
    write_seal(file, key, end, entries, (contents.last_seq + 1, contents.last_batch + 1))


def _check_owner(header: SegmentHeader, owner: bytes) -> None:
    number = header.number
    if header.version != FORMAT_VERSION:
        raise StoreOwnerError(f"segment {number} has format {header.version}: too new for us")
    if header.owner != owner:
        raise StoreOwnerError(
            f"segment {number} belongs to bucket {_text(header.owner)}, not to {_text(owner)}: "
            "is this the right data directory for the key?"
        )


def _text(owner: bytes) -> str:
    return Principal(owner).text(PrincipalKind.BUCKET)


class Replay:
    """Reads the log from where the key index left it and applies what follows.

    `sealed` is the segment that was sealed just now: its last batch is that seal, or 0.
    """

    def __init__(
        self, disk: Disk, index: KeyIndex, schema: Schema, layout: Layout, sealed: int
    ) -> None:
        self._disk, self._index, self._schema, self._layout = disk, index, schema, layout
        self._sealed = sealed
        self._overlay = Overlay(index)
        self._changes: Changes = {}
        self._covered: Covered | None = None
        self._problems = layout.problems()
        self._suspects: list[tuple[Problem, Record | None]] = []
        self._next_seq, self._next_batch = 1, 1

    def run(self) -> Recovered:
        """Bring the index up to the log."""
        layout = self._layout
        self._covered = covered = known = self._index.open()
        if covered is not None and not self._matches(covered):
            self._index.reset()
            self._covered = covered = None
        self._finish_swaps()
        start = layout.standing_for(covered.segment) if covered else 0
        for file in layout.log[start:]:
            self._segment(file, covered.batch if covered else 0)
        if layout.log:
            self._mark_swaps()
            # Records that were dropped since may have had the last batches.
            last = layout.log[-1].header
            self._commit(Covered(last.number, last.uuid, self._next_batch - 1))
        self._problems += self._damage()
        self._index.recovered()
        skipped = layout.numbers_to_skip(len(self._gaps())) or self._lost_end(known)
        numbers = (self._next_seq + skipped, self._next_batch + skipped)
        position = Position(layout.highest + 1, *numbers)
        return Recovered(position, layout.log, self._covered, self._problems)

    def _lost_end(self, known: Covered | None) -> int:
        """How many numbers the end of the log may have used: none unless the index was ahead of it.

        It only ever follows what is synced, so this was there and is gone.
        """
        found = self._layout.find(known.segment) if known else None
        if known is None or (found is not None and found.header.uuid != known.uuid):
            return 0  # there is none, or it is another log's
        last_batch = self._next_batch - 1 - bool(self._sealed)
        lost = max(0, known.batch - last_batch) * _BATCH_RECORDS_MAX
        if not lost:
            return 0
        gap = Problem(Damage.GAP, self._layout.highest + 1, 0, lost, seq=self._next_seq)
        self._problems.append(gap)
        return lost

    def _gaps(self) -> list[Problem]:
        return [problem for problem in self._problems if problem.what == Damage.GAP]

    def _matches(self, covered: Covered) -> bool:
        """Whether the index followed this very log, is not ahead of it, and misses nothing.

        It would miss what a compaction dropped because later records, which the index has not
        seen either, had undone it.
        """
        found = self._layout.find(covered.segment)
        if found is None or found.header.uuid != covered.uuid:
            return False
        if any(self._is_missed(file, covered) for file in self._layout.log):
            return False
        if found.trailer is not None:
            return covered.batch <= found.trailer.last_batch - (found.number == self._sealed)
        with self._opened(found) as file:
            return covered.batch <= read_contents(file, found.header, 0).last_batch

    def _is_missed(self, file: SegmentFile, covered: Covered) -> bool:
        """Whether the index is from before this output took its inputs' place."""
        if not file.is_output:
            return False
        swapped = self._index.get(dead_key(file.number)) is not None
        return file.judged_at > covered.batch or not (swapped or self._layout.replaced_by(file))

    def _finish_swaps(self) -> None:
        """Let finished outputs take the place of the inputs that are still there."""
        for output in self._layout.log:
            inputs = self._layout.replaced_by(output)
            if inputs:
                with self._opened(output, write=True) as file:
                    confirm(file, output)
                    if self._covered is not None:
                        self._move_rows(file, output, inputs, self._covered)
        if self._layout.leftovers:
            self._disk.sync_names()

    def _mark_swaps(self) -> None:
        keys = [dead_key(file.number) for file in self._layout.log if file.is_output]

        def mark(rows: Writer) -> None:
            for key in keys:
                if rows.get(key) is None:
                    rows.put(key, pack_dead(0))

        self._overlay.change(mark, self._changes)

    def _move_rows(
        self, file: File, output: SegmentFile, inputs: list[SegmentFile], covered: Covered
    ) -> None:
        entries = read_contents(file, output.header, 0).entries
        elsewhere = AllBut({segment.number for segment in self._layout.log})
        for records in copies(output.number, entries, self._schema.bulk_kinds):
            move = partial(move_rows, self._schema, records, elsewhere)
            self._overlay.change(move, self._changes)
            self._commit(covered)
        if covered.segment in {segment.number for segment in inputs}:
            self._commit(Covered(output.number, output.header.uuid, covered.batch))

    @contextmanager
    def _opened(self, segment: SegmentFile, *, write: bool = False) -> Iterator[File]:
        file = self._disk.open(segment_name(segment.number), write=write)
        try:
            yield file
        finally:
            file.close()

    def _segment(self, segment: SegmentFile, seen: int) -> None:
        with self._opened(segment) as file:
            contents = read_contents(file, segment.header, seen)
            if contents.footer_damaged:
                self._problems.append(Problem(Damage.FOOTER, segment.number, 0, file.size()))
            self._apply(file, segment.header, contents.entries, seen)
        self._next_seq = max(self._next_seq, contents.last_seq + 1)
        self._next_batch = max(self._next_batch, contents.last_batch + 1)

    def _apply(
        self, file: File, header: SegmentHeader, entries: list[FooterEntry], batch_seen: int
    ) -> None:
        window = Window(file, _REPLAY_WINDOW_BYTES)
        records: list[Record] = []
        """Of one batch: each way into the overlay costs as much as a small record."""
        for entry in entries:
            record = self._load(window, header.number, entry)
            if record is None or record.batch <= batch_seen:
                continue
            if records and records[0].batch != record.batch:
                self._reduce(records, header, _COMMIT_CHANGES)
                records = []
            records.append(record)
        if records:
            self._reduce(records, header, 0)

    def _reduce(self, records: list[Record], header: SegmentHeader, changes_min: int) -> None:
        """Apply a batch, then commit what has gathered if it is so much."""
        self._overlay.apply(records, self._schema.reduce, self._changes)
        if len(self._changes) >= changes_min:
            self._commit(Covered(header.number, header.uuid, records[0].batch))

    def _commit(self, covered: Covered) -> None:
        self._index.commit(self._changes, covered)
        self._overlay.retire(self._changes)
        self._changes, self._covered = {}, covered

    def _load(self, window: Window, segment: int, entry: FooterEntry) -> Record | None:
        """The record of an entry; None for the store's own and for what damage has made useless."""
        head = entry.header
        damaged = bool(head.flags & FLAG_DAMAGED)
        payload = b""
        is_roles, is_bulk = 0 < head.kind <= ROLE_KIND_MAX, head.kind in self._schema.bulk_kinds
        if is_roles and not is_bulk and not damaged:
            payload = bytes(window.get(entry.offset + RECORD_HEADER_BYTES, head.length))
            damaged = payload_digest(payload) != head.digest
        extent = Extent(segment, entry.offset, head.length)
        numbers = (head.seq, head.batch, head.number, head.chunk_index)
        record = Record(head.kind, *numbers, head.blob, payload, head.digest, extent)
        if damaged:
            self._suspects.append((problem_of(segment, entry), record if is_bulk else None))
        return None if not is_roles or (damaged and not is_bulk) else record

    def _damage(self) -> list[Problem]:
        """What is wrong with records. A dead payload may have been punched: nobody misses it."""
        return [
            problem
            for problem, record in self._suspects
            if record is None or self._schema.worth(record, self._overlay) is not Worth.DEAD
        ]
