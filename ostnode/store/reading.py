"""Reading payloads back: descriptors kept open, digests checked once, threads only when cold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ostnode.env import Worker
from ostnode.errors import DataCorruptError
from ostnode.store.disk import Disk, File
from ostnode.store.format import RECORD_HEADER_BYTES, RecordHeader, payload_digest, segment_key
from ostnode.store.pins import Pins
from ostnode.store.record import Extent
from ostnode.store.segment import read_header, segment_name

_INLINE_HASH_MAX: Final = 256 << 10
"""Hashing more than this inline would hold the event loop longer than a thread hop takes."""


class _Segment:
    """An open segment: who is reading it, and which extents have been verified since."""

    def __init__(self, number: int, file: File) -> None:
        header = read_header(file)
        if header is None or header.number != number:
            raise DataCorruptError("a segment's header is damaged", segment=number)
        self.file = file
        self.key = segment_key(header.uuid)
        self.verified: set[int] = set()  # bounded by SEGMENT_RECORDS_MAX
        self.readers = 0
        self.retired = False

    def close_when_idle(self) -> None:
        """Close the file once nobody reads it any more."""
        self.retired = True
        if not self.readers:
            self.file.close()


class SegmentReader:
    """Reads of records that are in the segments. `verify` checks a digest before bytes leave."""

    def __init__(self, disk: Disk, worker: Worker, open_max: int, *, verify: bool) -> None:
        self._disk, self._worker = disk, worker
        self._open_max, self._verify = open_max, verify
        self._segments: OrderedDict[int, _Segment] = OrderedDict()
        self.pins = Pins()
        self.corrupt_reads = 0

    async def read(self, extent: Extent, offset: int, length: int) -> memoryview:
        """`length` bytes of the payload from `offset`, which lie inside it.

        The extent must be fresh: looked up in the key space with no await since. Raises
        DataCorruptError when the bytes are not those that were written.
        """
        pin = self.pins.take(extent.segment)
        try:
            return await self._read(extent, offset, length)
        finally:
            self.pins.release(extent.segment, pin)

    async def _read(self, extent: Extent, offset: int, length: int) -> memoryview:
        segment = await self._segment(extent.segment)
        with self._reading(segment):
            if not self._verify or extent.offset in segment.verified:
                start = extent.offset + RECORD_HEADER_BYTES + offset
                return await self._fill(segment, start, length)
            data = await self._fill(segment, extent.offset, RECORD_HEADER_BYTES + extent.length)
            payload = data[RECORD_HEADER_BYTES:]
            header = RecordHeader.parse(
                bytes(data[:RECORD_HEADER_BYTES]), segment.key, extent.offset
            )
            if header is None or header.length != extent.length:
                raise self._corrupt(extent)
            if await self._digest(payload) != header.digest:
                raise self._corrupt(extent)
            segment.verified.add(extent.offset)
            return payload[offset : offset + length]

    def digest(self, extent: Extent) -> bytes:
        """The payload digest in the record's header: one small read, inline."""
        segment = self._segments.get(extent.segment) or self._keep(
            extent.segment, self._open(extent.segment)
        )
        data = bytearray(RECORD_HEADER_BYTES)
        segment.file.read_into(extent.offset, memoryview(data))
        header = RecordHeader.parse(bytes(data), segment.key, extent.offset)
        if header is None or header.length != extent.length:
            raise self._corrupt(extent)
        return header.digest

    def close(self) -> None:
        """Close every file as soon as its readers are done."""
        while self._segments:
            self._segments.popitem()[1].close_when_idle()

    async def _segment(self, number: int) -> _Segment:
        segment = self._segments.get(number)
        if segment is None:
            segment = self._keep(number, await self._worker.run(self._open, number))
        self._segments.move_to_end(number)
        return segment

    def _open(self, number: int) -> _Segment:
        try:
            file = self._disk.open(segment_name(number))
        except FileNotFoundError:
            raise DataCorruptError("a segment is missing", segment=number) from None
        try:
            return _Segment(number, file)
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
            if segment.retired:
                segment.close_when_idle()

    async def _fill(self, segment: _Segment, offset: int, length: int) -> memoryview:
        """Bytes from the page cache at once, the rest from the disk in a thread."""
        view = memoryview(bytearray(length))
        done = segment.file.read_into(offset, view, wait=False)
        if done < length:
            done += await self._worker.run(segment.file.read_into, offset + done, view[done:])
        if done < length:
            raise self._corrupt(Extent(0, offset, length))
        return view

    async def _digest(self, payload: memoryview) -> bytes:
        if len(payload) <= _INLINE_HASH_MAX:
            return payload_digest(payload)
        return await self._worker.run(payload_digest, payload)

    def _corrupt(self, extent: Extent) -> DataCorruptError:
        self.corrupt_reads += 1
        return DataCorruptError(
            "stored bytes failed their digest", segment=extent.segment, offset=extent.offset
        )
