"""Reading a segment that has no footer, and judging what its last batch is worth.

A batch is written only after the sync of the one before it. So a valid header of batch N proves
that every earlier batch was whole on the disk once: damage there is corruption, it is reported
and what surrounds it is kept. Damage in the last batch cannot be told from a torn write, so the
last batch counts only when all of it is whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from ostnode.store.disk import File
from ostnode.store.format import (
    ALIGNMENT,
    FLAG_DAMAGED,
    FLAG_END,
    FLAG_FIRST,
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    SEGMENT_HEADER_BYTES,
    FooterEntry,
    RecordHeader,
    payload_digest,
    record_bytes,
)
from ostnode.store.record import KIND_SEAL, ZERO_32

_WINDOW_BYTES: Final = (1 << 20) + (64 << 10)
"""One read per chunk of the usual size; longer windows leave the processor's cache."""
_SEARCH_BYTES: Final = 256 << 10
_ZEROS: Final = bytes(_SEARCH_BYTES)
_PAGE_BYTES: Final = 4096
_DAMAGED_RANGE: Final = (0, 0, 0, 0)


class Window:
    """Bounded reads of a file through one reused buffer; unreadable pages read as zeros."""

    def __init__(self, file: File, window_bytes: int = _WINDOW_BYTES) -> None:
        self._file = file
        self._buffer = memoryview(bytearray(window_bytes))
        self._at, self._have = 0, 0

    def get(self, offset: int, length: int) -> memoryview:
        """Bytes from `offset`, short at the end of the file; valid until the next call."""
        start = offset - self._at
        if start < 0 or start + length > self._have:
            if length > len(self._buffer):
                self._buffer = memoryview(bytearray(length))
            self._at, self._have = offset, self._read(offset)
            start, length = 0, min(length, self._have)
        return self._buffer[start : start + length]

    def _read(self, offset: int) -> int:
        try:
            return self._file.read_into(offset, self._buffer)
        except OSError:
            return self._read_pages(offset, self._buffer)

    def _read_pages(self, offset: int, view: memoryview) -> int:
        """Page by page, with zeros where the disk gives an error: no valid record is all zeros."""
        end = min(len(view), max(self._file.size() - offset, 0))
        at = 0
        while at < end:
            page = view[at : min(at + _PAGE_BYTES - (offset + at) % _PAGE_BYTES, end)]
            try:
                self._file.read_into(offset + at, page)
            except OSError:
                page[:] = bytes(len(page))
            at += len(page)
        return end


class Found(NamedTuple):
    """A record whose header is valid; `whole` says that its payload is too."""

    header: RecordHeader
    offset: int
    whole: bool

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + record_bytes(self.header.length)

    def entry(self) -> FooterEntry:
        """As the footer lists it."""
        head = self.header
        flags = head.flags if self.whole else head.flags | FLAG_DAMAGED
        place = (head.length, head.chunk_index, head.seq, head.batch, head.number)
        return FooterEntry(
            RecordHeader(head.kind, flags, *place, head.blob, head.digest), self.offset
        )


@dataclass(frozen=True, slots=True)
class Bad:
    """Bytes between valid records that are no record."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.length

    def entry(self) -> FooterEntry:
        """As the footer lists it: kind 0."""
        header = RecordHeader(0, FLAG_DAMAGED, self.length, *_DAMAGED_RANGE, ZERO_32, b"")
        return FooterEntry(header, self.offset)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a segment holds: in file order, up to `end`; `last` is the offset of its last batch."""

    items: list[Found | Bad]
    last: int
    end: int


def scan(
    file: File,
    key: bytes,
    *,
    start: int = SEGMENT_HEADER_BYTES,
    window: Window | None = None,
    payloads: bool = True,
) -> Iterator[Found | Bad]:
    """Every valid record from `start` on and what lies between them, up to the last or the seal.

    Payloads are verified, or with `payloads` off taken for whole and not read. The bytes behind
    the last valid record are not reported.
    """
    window = window or Window(file)
    at, end, bad_from = start, file.size(), None
    while at + RECORD_HEADER_BYTES <= end:
        header = RecordHeader.parse(bytes(window.get(at, RECORD_HEADER_BYTES)), key, at)
        if header is None:
            bad_from = at if bad_from is None else bad_from
            at = _next_magic(window, at + ALIGNMENT, end)
            continue
        if bad_from is not None:
            yield Bad(bad_from, at - bad_from)
            bad_from = None
        is_there = at + RECORD_HEADER_BYTES + header.length <= end
        found = Found(header, at, is_there and (not payloads or _is_whole(window, header, at)))
        yield found
        if header.kind == KIND_SEAL:
            return
        at = found.end


def _is_whole(window: Window, header: RecordHeader, at: int) -> bool:
    payload = window.get(at + RECORD_HEADER_BYTES, header.length)
    return payload_digest(payload) == header.digest


def _next_magic(window: Window, at: int, end: int) -> int:
    """The next aligned offset where a record may start, or `end`."""
    while at < end:
        block = bytes(window.get(at, min(_SEARCH_BYTES, end - at)))
        # Comparing bytes is 20 times as fast as searching them (or as comparing a memoryview), and
        # most of an unsealed segment is zeros.
        hit = -1 if block == _ZEROS[: len(block)] else block.find(RECORD_MAGIC)
        while hit != -1:
            if (at + hit) % ALIGNMENT == 0:
                return at + hit
            hit = block.find(RECORD_MAGIC, hit + 1)
        at += max(len(block) - len(RECORD_MAGIC) + 1, ALIGNMENT)
        at += -at % ALIGNMENT
    return end


def judge(items: list[Found | Bad], first_batch: int) -> Judged:
    """Decide what the last segment of the log holds; `first_batch` is from its header.

    The seal is dropped with its batch: whoever asks is about to write a new one.
    """
    last_batch = max((item.header.batch for item in items if isinstance(item, Found)), default=0)
    first = next((i for i, item in enumerate(items) if _in_batch(item, last_batch)), len(items))
    kept, tail = items[:first], items[first:]
    if not tail:
        return Judged([], SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES)
    if _whole(tail) and not _is_seal(tail[-1]):
        return Judged(items, tail[0].offset, tail[-1].end)
    if kept and isinstance(kept[-1], Bad) and _starts_in(kept[:-1], tail[0], first_batch):
        kept.pop()
    end = kept[-1].end if kept else SEGMENT_HEADER_BYTES
    return Judged(kept, end, end)


def _in_batch(item: Found | Bad, batch: int) -> bool:
    return isinstance(item, Found) and item.header.batch == batch


def _whole(tail: list[Found | Bad]) -> bool:
    """Whether this is one batch from its first record to its last, nothing damaged."""
    found = [item for item in tail if isinstance(item, Found) and item.whole]
    if len(found) != len(tail):
        return False
    return bool(found[0].header.flags & FLAG_FIRST and found[-1].header.flags & FLAG_END)


def _starts_in(before: list[Found | Bad], torn: Found | Bad, first_batch: int) -> bool:
    """Whether a damaged range between `before` and `torn` is nothing but the torn batch's start.

    Its own first record is missing, the batch before it ended, and no batch between is missing.
    """
    assert isinstance(torn, Found)
    if torn.header.flags & FLAG_FIRST:
        return False
    if not before:
        return torn.header.batch == first_batch
    last = before[-1]
    assert isinstance(last, Found)
    ended = bool(last.header.flags & FLAG_END)
    return ended and last.header.batch + 1 == torn.header.batch


def _is_seal(item: Found | Bad) -> bool:
    return isinstance(item, Found) and item.header.kind == KIND_SEAL
