"""Records as callers stage them and as reducers see them, and where their payloads lie.

What is made once per record is a NamedTuple: a frozen dataclass takes four times as long to make.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Self

from typing_extensions import Buffer

ZERO_32: Final = bytes(32)
ROLE_KIND_MAX: Final = 199
"""Kinds 1 to 199 belong to the role that uses the store."""
KIND_MARKER: Final = 200
"""An empty batch that closes a burst: it proves that the batch before it was synced."""
KIND_SEAL: Final = 201
"""The sorted footer of a segment; nothing but the trailer follows it."""

_EXTENT: Final = struct.Struct(">IQI")


class Extent(NamedTuple):
    """Where a record lies: segment number, offset of its header, length of its payload in bytes."""

    segment: int
    offset: int
    length: int

    def pack(self) -> bytes:
        """16 bytes, big-endian."""
        return _EXTENT.pack(self.segment, self.offset, self.length)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The inverse of `pack`; raises struct.error for another length."""
        return cls(*_EXTENT.unpack(data))


class NewRecord(NamedTuple):
    """What a role stages. `payload` must not change until the record is durable.

    `digest` is the payload's (`payload_digest`) where the role has hashed it already: a wrong one
    makes the record unreadable. Left empty, the store hashes the payload itself.
    """

    kind: int
    payload: Buffer = b""
    blob: bytes = ZERO_32
    number: int = 0
    chunk_index: int = 0
    digest: bytes = b""


class Record(NamedTuple):
    """What a reducer sees; the same at staging, at replay and in a rebuild.

    `payload` is empty for the kinds named in `bulk_kinds`: their bytes are read through `extent`.
    `digest` is the BLAKE3 of the payload, truncated to 16 bytes, for every kind.
    """

    kind: int
    seq: int
    batch: int
    number: int
    chunk_index: int
    blob: bytes
    payload: bytes
    digest: bytes
    extent: Extent


class Damage(StrEnum):
    """What recovery can find wrong."""

    PAYLOAD = "payload"
    """The header is whole, the payload is not. A bulk record keeps its place in the key space and
    refuses to be read; a metadata record has no effect unless the key index already held it."""
    RANGE = "range"
    """Bytes where at least one record stood; which records is unknown."""
    FOOTER = "footer"
    """A sealed segment's footer or trailer; the records were found by reading all of it."""
    SEGMENT = "segment"
    """A whole segment: its header is unreadable."""
    GAP = "gap"
    """Sequence numbers that no segment holds: a file is gone, or is one without a header.
    `segment` is the one behind them, `seq` the first of them, `length` how many there are."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding of recovery. `blob`, `number` and `seq` are zero unless a header named them."""

    what: Damage
    segment: int
    offset: int
    length: int
    kind: int = 0
    blob: bytes = ZERO_32
    number: int = 0
    chunk_index: int = 0
    seq: int = 0


@dataclass(frozen=True, slots=True)
class SpaceInfo:
    """Bytes: of the file system, still free for this store, and in its segments."""

    total: int
    free: int
    stored: int
