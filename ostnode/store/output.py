"""Writing a compaction's output: what is needed of a run of segments, copied and verified."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from typing_extensions import Buffer, override

from ostnode.store.contents import problem_of, read_contents
from ostnode.store.disk import Disk, File
from ostnode.store.errors import NoSpaceError, StoreFailedError
from ostnode.store.format import (
    FLAG_DAMAGED,
    FOOTER_ENTRY_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    FooterEntry,
    RecordHeader,
    SegmentHeader,
    payload_digest,
    record_bytes,
    segment_key,
)
from ostnode.store.judging import Verdict, judged
from ostnode.store.keyspace import Reader
from ostnode.store.record import ROLE_KIND_MAX, Damage, Problem
from ostnode.store.scan import Window
from ostnode.store.schema import Schema, Worth
from ostnode.store.segment import read, read_header, segment_name, write_seal

SLICE_BYTES: Final = 4 << 20
_SLICE_RECORDS: Final = 256
_WRITE_BYTES: Final = 1 << 20
_SYNC_BYTES: Final = 16 << 20
"""Written between two syncs: what the kernel has to write at once when the log syncs, too."""
_WINDOW_BYTES: Final = 1 << 20


class ExactWindow(Window):
    """A window that raises OSError when what was asked for cannot be read.

    A disk may refuse for a while only: zeros in a copy would make that final.
    """

    @override
    def get(self, offset: int, length: int) -> memoryview:
        try:
            return super().get(offset, length)
        except OSError:
            self._have = 0
            return memoryview(read(self._file, offset, length))

    @override
    def _read(self, offset: int) -> int:
        return self._file.read_into(offset, self._buffer)


class Copy:
    """One output being made. Blocking, a slice at a time; one thread at a time.

    Order is everything: the records are synced, then the seal is written and synced, then the
    directory. So a valid seal proves the records, and until there is one the inputs are the log.

    Raises NoSpaceError when the disk is full; any other error of a write or a sync is a
    StoreFailedError: nobody knows what the disk holds then. A record that is needed and cannot be
    read raises OSError: the inputs stay. One that can be read, and is damaged, is copied as it is.
    """

    def __init__(
        self,
        disk: Disk,
        header: SegmentHeader,
        inputs: Sequence[int],
        schema: Schema,
        rows: Reader,
        tombstones_until: int,
    ) -> None:
        self.header = header
        self.problems: list[Problem] = []
        self.kept = self.dropped = 0
        self.sealed = False
        self.nbytes = SEGMENT_HEADER_BYTES
        """Where the next record goes; the file's length once it is sealed."""
        self._disk, self._inputs = disk, inputs
        self._schema, self._rows, self._tombstones_until = schema, rows, tombstones_until
        self._name = segment_name(header.number)
        self._file: File | None = None
        self._key = segment_key(header.uuid)
        self._entries = bytearray()
        self._pieces: list[Buffer] = []
        self._waiting = 0
        self._synced = 0
        self._last_batch = 0
        self.last_seq = 0
        """Where the inputs' range ends."""
        self._slices = self._copy_all()

    def create(self, length: int) -> None:
        """Make the file, reserve `length` bytes, and make the header durable.

        The header first: records behind one that a crash took would look like a lost segment.
        """
        with _writing():
            self._file = self._disk.open(self._name, create=True)
            self._file.allocate(length)
            self._file.write(0, [self.header.pack()])
            self._file.sync()

    def step(self) -> int:
        """Copy a slice; the bytes read and written, or 0 when all is copied."""
        return next(self._slices, 0)

    def seal(self, last_seq: int, judged_at: int) -> None:
        """Make the records durable, then the seal, then the name.

        `last_seq` is said to be the inputs' last: a damaged trailer may have told too little.
        `judged_at` is the batch that the key index had come to when the last record was judged.
        """
        file = self._opened()
        self.last_seq = max(self.last_seq, last_seq)
        with _writing():
            self._flush()
            file.sync()
            place = (self.last_seq, self._last_batch)
            write_seal(file, self._key, self.nbytes, self._entries, place, number=judged_at)
            self._disk.sync_names()
        self.sealed = True
        file.drop_cache(self._synced, self.nbytes - self._synced)
        self.nbytes = file.size()

    def discard(self) -> None:
        """Remove what there is; nothing refers to it."""
        self.close()
        with suppress(OSError):
            self._disk.remove(self._name)

    def close(self) -> None:
        """Release the file."""
        self._slices.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def entries(self) -> Iterator[FooterEntry]:
        """What was copied, in the order of the log."""
        for at in range(0, len(self._entries), FOOTER_ENTRY_BYTES):
            yield FooterEntry.parse(bytes(self._entries[at : at + FOOTER_ENTRY_BYTES]))

    def _copy_all(self) -> Generator[int, None, None]:
        for number in self._inputs:
            source = self._disk.open(segment_name(number))
            try:
                yield from self._copy_segment(source, number)
                source.drop_cache(0, source.size())
            finally:
                source.close()

    def _copy_segment(self, source: File, number: int) -> Iterator[int]:
        header = read_header(source)
        if header is None:
            raise ValueError(f"the header of segment {number} is damaged")
        contents = read_contents(source, header)
        if contents.footer_damaged:
            self.problems.append(Problem(Damage.FOOTER, number, 0, source.size()))
        self._last_batch, self.last_seq = contents.last_batch, contents.last_seq
        window = ExactWindow(source, _WINDOW_BYTES)
        verdicts = judged(window, number, contents.entries, self._schema, self._rows)
        done = records = 0
        for verdict in verdicts:
            records += 1
            done += self._take(window, number, verdict)
            if done >= SLICE_BYTES or records >= _SLICE_RECORDS:
                yield done
                done = records = 0
        yield done + RECORD_HEADER_BYTES

    def _take(self, window: Window, segment: int, verdict: Verdict) -> int:
        """Copy a record if it is needed; returns the bytes read and written."""
        head = verdict.entry.header
        if not self._needed(verdict):
            self.dropped += 0 < head.kind <= ROLE_KIND_MAX
            if head.kind == 0:
                self.problems.append(problem_of(segment, verdict.entry))
            return FOOTER_ENTRY_BYTES
        self.kept += 1
        payload = bytes(window.get(verdict.entry.offset + RECORD_HEADER_BYTES, head.length))
        payload = payload.ljust(head.length, b"\0")
        damaged = bool(head.flags & FLAG_DAMAGED) or payload_digest(payload) != head.digest
        self._append(head._replace(flags=head.flags & ~FLAG_DAMAGED), payload, damaged=damaged)
        return 2 * record_bytes(head.length)

    def _needed(self, verdict: Verdict) -> bool:
        if verdict.worth is Worth.TOMBSTONE:
            return verdict.entry.header.seq > self._tombstones_until
        return verdict.worth is Worth.LIVE

    def _append(self, head: RecordHeader, payload: bytes, *, damaged: bool) -> None:
        at = self.nbytes
        footer = head._replace(flags=head.flags | FLAG_DAMAGED) if damaged else head
        self._entries += FooterEntry(footer, at).pack()
        if damaged:
            self.problems.append(problem_of(self.header.number, FooterEntry(head, at)))
        size = record_bytes(head.length)
        padding = bytes(size - RECORD_HEADER_BYTES - head.length)
        self._pieces += (head.pack(self._key, at), payload, padding)
        self._waiting += size
        self.nbytes += size
        if self._waiting >= _WRITE_BYTES:
            with _writing():
                self._flush()

    def _flush(self) -> None:
        file = self._opened()
        if self._pieces:
            file.write(self.nbytes - self._waiting, self._pieces)
            self._pieces, self._waiting = [], 0
        if self.nbytes - self._synced >= _SYNC_BYTES:
            file.sync()
            file.drop_cache(self._synced, self.nbytes - self._synced)
            self._synced = self.nbytes

    def _opened(self) -> File:
        assert self._file is not None
        return self._file


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except NoSpaceError:
        raise
    except OSError as error:
        raise StoreFailedError(f"a compaction's output could not be written: {error}") from error
