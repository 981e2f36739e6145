"""Reading payloads back: descriptors kept open, digests checked once, threads only when cold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio
from blake3 import blake3

from ostnode.env import Worker
from ostnode.errors import DataCorruptError
from ostnode.store.buffers import Buffers
from ostnode.store.disk import Disk, File
from ostnode.store.format import (
    DIGEST_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
    segment_key,
)
from ostnode.store.pins import Pins
from ostnode.store.record import Extent
from ostnode.store.segment import read, segment_name

_INLINE_READ_MAX: Final = 1 << 20
"""Copying this much out of the page cache takes 0.1 ms, no longer than a hop to a thread."""
_INLINE_HASH_MAX: Final = 256 << 10
"""Reading and hashing more than this inline would hold the event loop longer than a hop takes."""
_PIECE_BYTES: Final = 256 << 10
"""What is hashed but not asked for passes through a buffer of this size."""
_VERIFIED_MAX: Final = 4096
"""Payloads remembered per open segment, some 300 KiB: all chunks of 64 KiB and more that a segment
of the usual size holds. Verifying a small one again costs little."""


class _Segment:
    """An open segment: who is reading it, and which payloads have been verified since."""

    def __init__(self, number: int, file: File, buffers: Buffers) -> None:
        # An error of the disk may pass: it is raised as such, and quarantines nothing.
        header = SegmentHeader.parse(read(file, 0, SEGMENT_HEADER_BYTES))
        if header is None or header.number != number:
            raise DataCorruptError("a segment's header is damaged", segment=number)
        self.key = segment_key(header.uuid)
        self.readers = 0
        self._file, self._buffers = file, buffers
        self._verified: set[int] = set()
        self._retired = False

    def is_verified(self, extent: Extent) -> bool:
        """Whether the payload has matched its digest since the segment was opened."""
        return extent.offset in self._verified

    def remember(self, extent: Extent) -> None:
        """The payload has matched its digest."""
        if len(self._verified) >= _VERIFIED_MAX:
            self._verified.clear()
        self._verified.add(extent.offset)

    def close_when_idle(self) -> None:
        """Close the file once nobody reads it any more."""
        self._retired = True
        self.ended()

    def ended(self) -> None:
        """A reader has left."""
        if self._retired and not self.readers:
            self._file.close()

    def header(self, extent: Extent) -> RecordHeader:
        """The header of the record at `extent`; raises DataCorruptError. May block."""
        data = memoryview(bytearray(RECORD_HEADER_BYTES))
        self._fill(extent, -RECORD_HEADER_BYTES, data, wait=True)
        return self._parse(extent, data)

    def cached(self, extent: Extent, offset: int, length: int) -> memoryview | None:
        """A slice of the payload from the page cache; None when not all of it is there."""
        view = self._buffers.take(length)
        return view if self._fill(extent, offset, view, wait=False) else None

    def waited(self, extent: Extent, offset: int, length: int) -> memoryview:
        """The same from wherever it is."""
        view = self._buffers.take(length)
        self._fill(extent, offset, view, wait=True)
        return view

    def verified_cached(self, extent: Extent, offset: int, length: int) -> memoryview | None:
        """A slice of a payload that matches its digest, from the page cache or None."""
        return self._verified_slice(extent, offset, length, wait=False)

    def verified_waited(self, extent: Extent, offset: int, length: int) -> memoryview:
        """The same from wherever it is."""
        view = self._verified_slice(extent, offset, length, wait=True)
        assert view is not None
        return view

    def _verified_slice(
        self, extent: Extent, offset: int, length: int, *, wait: bool
    ) -> memoryview | None:
        """Holds no more of the payload than the slice and one piece of the rest."""
        view = self._buffers.take(RECORD_HEADER_BYTES + length)
        head, wanted = view[:RECORD_HEADER_BYTES], view[RECORD_HEADER_BYTES:]
        end = offset + length
        hasher = blake3()
        if offset == 0:
            there = self._fill(extent, -RECORD_HEADER_BYTES, view, wait=wait)
        else:
            there = (
                self._fill(extent, -RECORD_HEADER_BYTES, head, wait=wait)
                and self._hash(hasher, extent, (0, offset), wait=wait)
                and self._fill(extent, offset, wanted, wait=wait)
            )
        hasher.update(wanted)
        if not (there and self._hash(hasher, extent, (end, extent.length), wait=wait)):
            return None
        if hasher.digest(length=DIGEST_BYTES) != self._parse(extent, head).digest:
            raise corrupt(extent)
        return wanted

    def _hash(self, hasher: blake3, extent: Extent, span: tuple[int, int], *, wait: bool) -> bool:
        """Hash a span of the payload; False when the page cache lacks some of it."""
        at, end = span
        piece = memoryview(bytearray(min(_PIECE_BYTES, end - at)))
        while at < end:
            view = piece[: end - at]
            if not self._fill(extent, at, view, wait=wait):
                return False
            hasher.update(view)
            at += len(view)
        return True

    def _fill(self, extent: Extent, offset: int, view: memoryview, *, wait: bool) -> bool:
        """Fill `view` from `offset` in the payload; False when the page cache lacks some of it."""
        at = extent.offset + RECORD_HEADER_BYTES + offset
        if self._file.read_into(at, view, wait=wait) == len(view):
            return True
        if wait:
            raise corrupt(extent)
        return False

    def _parse(self, extent: Extent, data: memoryview) -> RecordHeader:
        header = RecordHeader.parse(bytes(data), self.key, extent.offset)
        if header is None or header.length != extent.length:
            raise corrupt(extent)
        return header


class SegmentReader:
    """Reads of records that are in the segments. `verify` checks a digest before bytes leave."""

    def __init__(self, disk: Disk, worker: Worker, open_max: int, *, verify: bool) -> None:
        self._disk, self._worker = disk, worker
        self._open_max, self._verify = open_max, verify
        self._segments: OrderedDict[int, _Segment] = OrderedDict()
        self._buffers = Buffers()
        self.pins = Pins()
        self.corrupt_reads = 0

    async def read(self, extent: Extent, offset: int, length: int) -> memoryview:
        """`length` bytes of the payload from `offset`, which lie inside it.

        The extent must be fresh: looked up in the key space with no await since. The caller owns
        what it gets, and nothing larger is kept alive by it. Raises DataCorruptError when the
        bytes are not those that were written.
        """
        pin = self.pins.take(extent.segment)
        try:
            return await self._read(extent, offset, length)
        except DataCorruptError:
            self.corrupt_reads += 1
            raise
        finally:
            self.pins.release(extent.segment, pin)

    async def _read(self, extent: Extent, offset: int, length: int) -> memoryview:
        segment = self._segments.get(extent.segment)
        if segment is None:
            opened = await self._worker.run(self._open, extent.segment)
            segment = self._keep(extent.segment, opened)
        self._segments.move_to_end(extent.segment)
        trusted = not self._verify or segment.is_verified(extent)
        data = None
        if trusted and length <= _INLINE_READ_MAX:
            data = segment.cached(extent, offset, length)
        elif not trusted and extent.length <= _INLINE_HASH_MAX:
            data = segment.verified_cached(extent, offset, length)
        if data is None:
            with self._reading(segment):
                load = segment.waited if trusted else segment.verified_waited
                data = await self._worker.run(load, extent, offset, length)
        if not trusted:
            segment.remember(extent)
        await trio.lowlevel.checkpoint()
        return data

    def digest(self, extent: Extent) -> bytes:
        """The payload digest in the record's header: one small read, inline."""
        segment = self._segments.get(extent.segment) or self._keep(
            extent.segment, self._open(extent.segment)
        )
        try:
            return segment.header(extent).digest
        except DataCorruptError:
            self.corrupt_reads += 1
            raise

    def drop(self, number: int) -> None:
        """Close a segment's file, if it is open: it is about to be unlinked."""
        segment = self._segments.pop(number, None)
        if segment is not None:
            segment.close_when_idle()

    def close(self) -> None:
        """Close every file as soon as its readers are done."""
        while self._segments:
            self._segments.popitem()[1].close_when_idle()

    def _open(self, number: int) -> _Segment:
        try:
            file = self._disk.open(segment_name(number))
        except FileNotFoundError:
            raise DataCorruptError("a segment is missing", segment=number) from None
        try:
            return _Segment(number, file, self._buffers)
        except BaseException:
            file.close()
            raise

    def _keep(self, number: int, opened: _Segment) -> _Segment:
        """Keep a fresh segment open, unless another task has opened it in the meantime."""
        kept = self._segments.setdefault(number, opened)
        if kept is not opened:
            opened.close_when_idle()
        while len(self._segments) > self._open_max:
            self._segments.popitem(last=False)[1].close_when_idle()
        return kept

    @contextmanager
    def _reading(self, segment: _Segment) -> Iterator[None]:
        segment.readers += 1
        try:
            yield
        finally:
            segment.readers -= 1
            segment.ended()


def corrupt(extent: Extent) -> DataCorruptError:
    """What a reader hears when a payload is not what was written."""
    return DataCorruptError(
        "stored bytes failed their digest", segment=extent.segment, offset=extent.offset
    )
