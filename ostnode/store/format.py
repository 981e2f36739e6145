"""The bytes of a segment file. Pure: bytes in, values out.

A segment is
- a 4 KiB header: `SegmentHeader`, twice (at 0 and at 2048, so that one bad sector cannot make
  every record behind it unreadable), the rest zero;
- records: a 96-byte header and the payload, padded with zeros to 8 bytes;
- once sealed: the seal record, whose payload is one 96-byte `FooterEntry` per record sorted by
  (blob, sequence), and a 64-byte `Trailer` that ends the file.

Integers are little-endian, except in footer entries, which are big-endian so that sorting their
bytes sorts them by blob and sequence. Every checksum after the segment header is keyed with the
segment's uuid and covers the offset it is stored at: a stale, copied or misplaced record never
parses, and neither does a payload that imitates one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from blake3 import blake3
from typing_extensions import Buffer

FORMAT_VERSION: Final = 1
SEGMENT_HEADER_BYTES: Final = 4096
RECORD_HEADER_BYTES: Final = 96
FOOTER_ENTRY_BYTES: Final = 96
TRAILER_BYTES: Final = 64
ALIGNMENT: Final = 8
DIGEST_BYTES: Final = 16

FLAG_END: Final = 1
"""The last record of its batch."""
FLAG_FIRST: Final = 2
"""The first record of its batch."""
FLAG_DAMAGED: Final = 0x80
"""Only in footer entries: the record was found damaged when the segment was sealed."""

RECORD_MAGIC: Final = b"OsR1"
_SEGMENT_MAGIC: Final = b"OstSeg\x00\x01"
_TRAILER_MAGIC: Final = b"OstEnd\x00\x01"
_SECOND_COPY_AT: Final = 2048
_KEY_CONTEXT: Final = "ostnode 2025 segment store: header and trailer checksums"

# magic, version, generation, number, uuid, owner, created, first sequence, first batch, checksum
_SEGMENT: Final = struct.Struct("<8sIIQ16s32sQQQ16s")
# magic, kind, flags, version, payload length, chunk index, seq, batch, number, blob, digest, and
# the check, which is made with the record's offset in its place
_RECORD: Final = struct.Struct("<4sBBHIIQQQ32s16sQ")
# blob, seq, batch, number, offset, payload length, chunk index, kind, flags, version, pad, digest
_ENTRY: Final = struct.Struct(">32sQQQQIIBBH4s16s")
ENTRY_GLANCE: Final = struct.Struct(">40xQ25xB22x")
"""Batch and flags of a footer entry: whether it need be parsed at all."""
# magic, offset of the seal record, entries, reserved, last seq, last batch, digest, and the check,
# made likewise
_TRAILER: Final = struct.Struct("<8sQIIQQ16sQ")
_OFFSET: Final = struct.Struct("<Q")

assert _SEGMENT.size <= _SECOND_COPY_AT
assert _RECORD.size == RECORD_HEADER_BYTES
assert _ENTRY.size == FOOTER_ENTRY_BYTES
assert ENTRY_GLANCE.size == FOOTER_ENTRY_BYTES
assert _TRAILER.size == TRAILER_BYTES


def record_bytes(payload_length: int) -> int:
    """What a record takes in a segment: header, payload, padding."""
    return RECORD_HEADER_BYTES + payload_length + -payload_length % ALIGNMENT


def seal_bytes(entries: int) -> int:
    """What sealing a segment of so many records takes: seal record and trailer."""
    return RECORD_HEADER_BYTES + entries * FOOTER_ENTRY_BYTES + TRAILER_BYTES


def payload_digest(payload: Buffer) -> bytes:
    """BLAKE3 of the payload, truncated to 16 bytes (8 GB/s here, faster than CRC-32)."""
    return blake3(payload).digest(length=DIGEST_BYTES)


def segment_key(uuid: bytes) -> bytes:
    """The key of a segment's checksums."""
    return blake3(uuid, derive_key_context=_KEY_CONTEXT).digest()


def checks_of(key: bytes) -> blake3:
    """What makes the checksums of a segment, for many: a copy costs less than a new one."""
    return blake3(key=key)


def _with_check(checks: blake3, packed: bytes) -> bytes:
    """What ends with the offset it is for, with the checksum of all that in the offset's place."""
    return packed[:-8] + checks.copy().update(packed).digest(length=8)


def _check(key: bytes, data: bytes, offset: int) -> bytes:
    return blake3(data + _OFFSET.pack(offset), key=key).digest(length=8)


HeaderFields = tuple[int, int, int, int, int, int, int, bytes, bytes]
"""What a `RecordHeader` has, in its order: a plain tuple takes a fifth of the time to make."""
LENGTH_FIELD: Final = 2


def pack_header(fields: HeaderFields, checks: blake3, offset: int) -> bytes:
    """A record's 96 bytes, valid only in the segment of `checks` and at `offset`."""
    kind, flags, length, index, seq, batch, number, blob, digest = fields
    # fmt: off
    packed = _RECORD.pack(
        RECORD_MAGIC, kind, flags, FORMAT_VERSION, length, index, seq, batch, number, blob, digest,
        offset,
    )
    # fmt: on
    return _with_check(checks, packed)


def pack_entry(fields: HeaderFields, offset: int) -> bytes:
    """The 96 bytes that a footer has for it: they sort by blob, then sequence."""
    kind, flags, length, index, seq, batch, number, blob, digest = fields
    # fmt: off
    return _ENTRY.pack(
        blob, seq, batch, number, offset, length, index, kind, flags, FORMAT_VERSION, b"", digest
    )
    # fmt: on


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Who a segment belongs to and where it stands in the log. `created` is in microseconds.

    `generation` is 0 when the log wrote it; a compaction's output has one more than the highest
    of the segments it was made from.
    """

    number: int
    uuid: bytes
    owner: bytes
    created: int
    first_seq: int
    first_batch: int
    version: int = FORMAT_VERSION
    generation: int = 0

    def pack(self) -> bytes:
        """The whole 4 KiB."""
        fields = (self.uuid, self.owner, self.created, self.first_seq, self.first_batch)
        kind = (self.version, self.generation)
        body = _SEGMENT.pack(_SEGMENT_MAGIC, *kind, self.number, *fields, b"")
        body = body[:-DIGEST_BYTES] + payload_digest(body[:-DIGEST_BYTES])
        copy = body.ljust(_SECOND_COPY_AT, b"\0")
        return copy + copy

    @classmethod
    def parse(cls, data: bytes) -> Self | None:
        """The header from a segment's first 4 KiB, or None when both copies are damaged."""
        for at in (0, _SECOND_COPY_AT):
            copy = data[at : at + _SEGMENT.size]
            if len(copy) < _SEGMENT.size or payload_digest(copy[:-16]) != copy[-16:]:
                continue
            magic, *kind, number, uuid, owner, created, seq, batch, _ = _SEGMENT.unpack(copy)
            if magic == _SEGMENT_MAGIC:
                return cls(number, uuid, owner, created, seq, batch, *kind)
        return None


class RecordHeader(NamedTuple):
    """The fixed part of a record."""

    kind: int
    flags: int
    length: int
    chunk_index: int
    seq: int
    batch: int
    number: int
    blob: bytes
    digest: bytes

    def pack(self, key: bytes, offset: int) -> bytes:
        """96 bytes, valid only in the segment of `key` and at `offset`."""
        return pack_header(self, checks_of(key), offset)

    @classmethod
    def parse(cls, data: bytes, key: bytes, offset: int) -> Self | None:
        """The header in `data` (96 bytes), or None when it does not belong here."""
        if len(data) != RECORD_HEADER_BYTES or data[:4] != RECORD_MAGIC:
            return None
        if data[-8:] != _check(key, data[:-8], offset):
            return None
        _, kind, flags, _, length, index, seq, batch, number, blob, digest, _ = _RECORD.unpack(data)
        return cls(kind, flags, length, index, seq, batch, number, blob, digest)


class FooterEntry(NamedTuple):
    """A record as the footer of its sealed segment lists it; kind 0 is a damaged range."""

    header: RecordHeader
    offset: int

    def pack(self) -> bytes:
        """96 bytes that sort by blob, then sequence."""
        return pack_entry(self.header, self.offset)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The inverse of `pack`; integrity is the footer digest's."""
        blob, seq, batch, number, offset, length, index, kind, flags, _, _, digest = _ENTRY.unpack(
            data
        )
        return cls(
            RecordHeader(kind, flags, length, index, seq, batch, number, blob, digest), offset
        )


@dataclass(frozen=True, slots=True)
class Trailer:
    """The last 64 bytes of a sealed segment."""

    seal_offset: int
    entries: int
    last_seq: int
    last_batch: int
    digest: bytes

    def pack(self, key: bytes, offset: int) -> bytes:
        """64 bytes, valid only in the segment of `key` and at `offset`."""
        place = (self.seal_offset, self.entries, 0, self.last_seq, self.last_batch)
        return _with_check(
            checks_of(key), _TRAILER.pack(_TRAILER_MAGIC, *place, self.digest, offset)
        )

    @classmethod
    def parse(cls, data: bytes, key: bytes, offset: int) -> Self | None:
        """The trailer in `data`, or None when the segment does not end with one here."""
        if len(data) != TRAILER_BYTES or data[:8] != _TRAILER_MAGIC:
            return None
        if data[-8:] != _check(key, data[:-8], offset):
            return None
        _, seal_offset, entries, _, last_seq, last_batch, digest, _ = _TRAILER.unpack(data)
        return cls(seal_offset, entries, last_seq, last_batch, digest)
