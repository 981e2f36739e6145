"""The bucket's tables in the store's ordered key space: how keys and rows are laid out.

A key is one letter for the table, then the parts; numbers sort as they count. Every part before
the last has a fixed length or says its own, so prefixes are exact. Rows that a blob keeps for as
long as it is stored are packed tightly (400 bytes of index a blob); a change of any layout here
is one of `lmdbindex.LAYOUT`.

| table | key | row |
| --- | --- | --- |
| META | name | a number |
| GRANTS | grant | open: the upload's number; closed: ends, blob, GrantClosed |
| ENDS | end, grant | closed grants whose latest end is known, for the floor |
| UPLOADS | number | Upload |
| PROGRESS | number | received chunks and bytes, latest end of the grant seen |
| USER_UPLOADS | uid, blob, number | |
| CHUNKS | number, index | bytes' extent and digest, or that the stored blob has the same |
| PINS | blob, number | how many chunks of the stored blob this open upload matched |
| BLOBS | blob | number, commit's sequence number, size, chunk_bytes |
| REFERENCES | record's number | blob, accessor, uid, ref_id; expiry, creation, type, filename |
| BLOB_REFERENCES | blob's first 8 bytes, tag of the accessor, record's number | |
| USER_REFERENCES | uid, blob's first 8 bytes, record's number | |
| ACCESSOR_REFERENCES | tag of the accessor, record's number | |
| EXPIRIES | expiry, record's number | |
| COUNTS | uid | number of references |
| USERS | uid | principal, version, bytes left, deleted |
| PRINCIPALS | principal, uid | (live registrations) |
| BURNED | accessor | |
| BLOCKED | principal | version, blocked |
| BLOCKED_BLOBS | blob | version, blocked |
| SINGLE_USES | token | until, target |
| SINGLE_USE_ENDS | until, token | |
| OUTBOX | number | event |
| SWEEPS | target | |
| FINDINGS | quarantined blob | Quarantined |
| FINDINGS | 32 zeros, finding | Quarantined (damage that makes no stored blob unreadable) |
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.roles.bucket.packing import (
    pack_content_type,
    pack_number,
    sortable,
    sorted_number,
    unpack_content_type,
    unpack_numbers,
)
from ostnode.store.record import Extent

META: Final = b"M"
GRANTS: Final = b"G"
ENDS: Final = b"L"
UPLOADS: Final = b"U"
PROGRESS: Final = b"N"
USER_UPLOADS: Final = b"P"
CHUNKS: Final = b"C"
PINS: Final = b"J"
BLOBS: Final = b"B"
REFERENCES: Final = b"R"
USER_REFERENCES: Final = b"V"
BLOB_REFERENCES: Final = b"D"
ACCESSOR_REFERENCES: Final = b"A"
EXPIRIES: Final = b"E"
COUNTS: Final = b"H"
USERS: Final = b"W"
PRINCIPALS: Final = b"Q"
BURNED: Final = b"X"
BLOCKED: Final = b"Z"
BLOCKED_BLOBS: Final = b"I"
SINGLE_USES: Final = b"T"
SINGLE_USE_ENDS: Final = b"Y"
OUTBOX: Final = b"O"
SWEEPS: Final = b"S"
FINDINGS: Final = b"F"

INCARNATION: Final = META + b"incarnation"
INDEX: Final = META + b"index"
FLOOR: Final = META + b"floor"
PROMISED: Final = META + b"promised"
"""Bytes of open uploads that have not arrived: room that is spoken for."""
OUTBOX_NEXT: Final = META + b"outbox_next"
OUTBOX_ACKED: Final = META + b"outbox_acked"
FEED_INCARNATION: Final = META + b"feed_incarnation"
FEED_SEQ: Final = META + b"feed_seq"
FEED_LEVEL: Final = META + b"feed_level"
FEED_LIFE: Final = META + b"feed_life"
SCRUB: Final = META + b"scrub"
"""Not a number: the ScrubPosition."""

OPEN: Final = b"\x00"
CLOSED: Final = b"\x01"
HERE: Final = b"\x00"
MATCHED: Final = b"\x01"

SWEEP_ACCESSOR: Final = b"a"
SWEEP_USER: Final = b"u"
SWEEP_CHUNKS: Final = b"c"
SWEEP_EVICTION: Final = b"e"


def u64(number: int) -> bytes:
    """Eight bytes that sort as the number counts."""
    return number.to_bytes(8, "big")


def number_of(data: bytes) -> int:
    """The number of eight such bytes."""
    return int.from_bytes(data, "big")


def chunks_key(number: int) -> bytes:
    """CHUNKS: what the keys of an upload's chunks begin with."""
    return CHUNKS + sortable(number)


def chunk_key(number: int, index: int) -> bytes:
    """CHUNKS: one chunk of one upload."""
    return CHUNKS + sortable(number) + sortable(index)


def chunk_place(key: bytes) -> tuple[int, int]:
    """The upload's number and the chunk's index in a key of CHUNKS."""
    number, at = sorted_number(key, 1)
    return number, sorted_number(key, at)[0]


_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """Where a chunk's bytes are, and the store's digest of them (BLAKE3, 16 bytes)."""

    extent: Extent
    digest: bytes

    def pack(self) -> bytes:
        """The row."""
        return HERE + self.digest + b"".join(map(pack_number, self.extent))

    @classmethod
    def unpack(cls, row: bytes) -> Self:
        """The chunk of a row that says HERE."""
        numbers, _ = unpack_numbers(row, 3, 1 + _DIGEST_BYTES)
        return cls(Extent(*numbers), row[1 : 1 + _DIGEST_BYTES])


@dataclass(frozen=True, slots=True, order=True)
class ReferenceId:
    """What names a reference: this uid made this blob visible to this accessor, as `ref_id`."""

    blob_id: BlobId
    accessor: Principal
    uid: Uid
    ref_id: bytes

    def pack(self) -> bytes:
        """The first part of its row in REFERENCES; also what a used token's target is made of."""
        length = pack_number(len(self.ref_id))
        return self.blob_id + self.accessor + self.uid + length + self.ref_id

    @classmethod
    def unpack(cls, row: bytes) -> tuple[Self, bytes]:
        """The name in a row of REFERENCES, and the rest of the row."""
        (length,), at = unpack_numbers(row, 1, 72)
        end = at + length
        name = cls(BlobId(row[:32]), Principal(row[32:64]), Uid(row[64:72]), row[at:end])
        return name, row[end:]


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """What a reference says about the blob to whoever reads through it."""

    expires_at: int
    created_at: int
    content_type: str
    filename: str | None

    def pack(self) -> bytes:
        """The row; a filename is never empty, so an empty one stands for none."""
        times = pack_number(self.expires_at) + pack_number(self.created_at)
        return times + pack_content_type(self.content_type) + (self.filename or "").encode()

    @classmethod
    def unpack(cls, row: bytes) -> Self:
        """The reference of a row."""
        (expires_at, created_at), at = unpack_numbers(row, 2)
        content_type, at = unpack_content_type(row, at)
        return cls(expires_at, created_at, content_type, row[at:].decode() or None)

    def expired(self, now: float) -> bool:
        """Whether it counts as absent already."""
        return 0 < self.expires_at <= now


_PROGRESS: Final = struct.Struct("<IQQ")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload is: chunks and bytes received, and its grant's latest end seen."""

    chunks: int
    length: int
    end: int

    def pack(self) -> bytes:
        """The row."""
        return _PROGRESS.pack(self.chunks, self.length, self.end)

    @classmethod
    def unpack(cls, row: bytes) -> Self:
        """The progress of a row."""
        return cls(*_PROGRESS.unpack(row))


@dataclass(frozen=True, slots=True)
class BlobRow:
    """A stored blob: whose chunks it is made of, and the commit that says so."""

    number: int
    commit: int
    size: int
    chunk_bytes: int

    def pack(self) -> bytes:
        """The row."""
        numbers = (self.number, self.commit, self.size, self.chunk_bytes)
        return b"".join(map(pack_number, numbers))

    @classmethod
    def unpack(cls, row: bytes) -> Self:
        """The blob of a row."""
        numbers, _ = unpack_numbers(row, 4)
        return cls(*numbers)


_USER: Final = struct.Struct("<32sQQ?")


@dataclass(frozen=True, slots=True)
class UserRow:
    """A registration as this bucket knows it; a deleted one stays for ever."""

    principal: Principal
    version: int
    bytes_left: int
    deleted: bool

    def pack(self) -> bytes:
        """The row."""
        return _USER.pack(self.principal, self.version, self.bytes_left, self.deleted)

    @classmethod
    def unpack(cls, row: bytes) -> Self:
        """The user of a row."""
        principal, version, bytes_left, deleted = _USER.unpack(row)
        return cls(Principal(principal), version, bytes_left, deleted)


_BLOCKED: Final = struct.Struct("<Q?")


def pack_blocked(version: int, *, blocked: bool) -> bytes:
    """A row of BLOCKED or BLOCKED_BLOBS."""
    return _BLOCKED.pack(version, blocked)


def unpack_blocked(row: bytes) -> tuple[int, bool]:
    """Version, and whether the principal or blob is refused."""
    version, blocked = _BLOCKED.unpack(row)
    return version, blocked


@dataclass(frozen=True, slots=True)
class OpenGrant:
    """A grant whose upload is under way."""

    number: int


@dataclass(frozen=True, slots=True)
class ClosedGrant:
    """A dead grant; `payload` is the GrantClosed record's.

    `end` is its latest end as the index names it, 0 until then; `seen` the latest shown here.
    """

    end: int
    seen: int
    blob_id: BlobId
    payload: bytes

    def pack(self) -> bytes:
        """The row."""
        return CLOSED + u64(self.end) + u64(self.seen) + self.blob_id + self.payload


def unpack_grant(row: bytes) -> OpenGrant | ClosedGrant:
    """A row of GRANTS."""
    if row[:1] == OPEN:
        return OpenGrant(number_of(row[1:9]))
    ends = number_of(row[1:9]), number_of(row[9:17])
    return ClosedGrant(*ends, BlobId(row[17:49]), row[49:])


def end_key(end: int, grant_id: GrantId) -> bytes:
    """ENDS: a closed grant by its latest end."""
    return ENDS + u64(end) + grant_id
