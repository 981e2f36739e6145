"""A small role for tests of the store: its kinds, its reducer, and how to open a store."""

from __future__ import annotations

from collections.abc import Container
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from random import Random

from ostnode.env import InlineWorker, SystemClock, Worker
from ostnode.store.disk import Disk
from ostnode.store.keyspace import RESERVED, KeyIndex, Reader, Writer
from ostnode.store.record import Extent, NewRecord, Record
from ostnode.store.schema import Schema, Worth
from ostnode.store.store import Store, StoreOptions, open_store

CHUNK = 1
"""Bulk: `C blob number index` → extent."""
SET = 2
"""Payload `key=value`: `M key` → value."""
UNSET = 3
"""Payload `key`."""
COUNT = 4
"""Payload `key`: `N key` → how often it was counted; applying a record twice shows."""
BULK_KINDS = frozenset({CHUNK})
OWNER = bytes(range(32))
BLOB = b"b" * 32
SMALL = StoreOptions(segment_bytes=64 << 10, batch_bytes_max=8 << 10, queue_bytes_max=32 << 10)


class SeededRng:
    """Deterministic randomness."""

    def __init__(self, seed: int = 0) -> None:
        self._random = Random(seed)

    def token(self, length: int) -> bytes:
        return self._random.randbytes(length)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


def reduce(record: Record, writer: Writer) -> None:
    """The reducer: accepts anything, also a UNSET of what is not there."""
    if record.kind == CHUNK:
        assert not record.payload
        numbers = record.number.to_bytes(8, "big") + record.chunk_index.to_bytes(4, "big")
        writer.put(b"C" + record.blob + numbers, record.extent.pack())
    elif record.kind == SET:
        key, _, value = record.payload.partition(b"=")
        writer.put(b"M" + key, value)
    elif record.kind == UNSET:
        for key, _ in writer.scan(b"M" + record.payload):
            writer.delete(key)
    elif record.kind == COUNT:
        before = writer.get(b"N" + record.payload) or b"0"
        writer.put(b"N" + record.payload, b"%d" % (int(before) + 1))
    else:
        raise ValueError(f"unknown kind {record.kind}")


class KitSchema(Schema):
    """The test role's schema."""

    bulk_kinds = BULK_KINDS

    def reduce(self, record: Record, rows: Writer) -> None:
        reduce(record, rows)

    def worth(self, record: Record, rows: Reader) -> Worth:
        return Worth.LIVE

    def relocate(self, record: Record, segments: Container[int], rows: Writer) -> None:
        numbers = record.number.to_bytes(8, "big") + record.chunk_index.to_bytes(4, "big")
        key = b"C" + record.blob + numbers
        row = rows.get(key)
        if row is not None and Extent.unpack(row).segment in segments:
            rows.put(key, record.extent.pack())


def opened(
    disk: Disk,
    options: StoreOptions = SMALL,
    *,
    index: KeyIndex | None = None,
    worker: Worker | None = None,
    owner: bytes = OWNER,
    seed: int = 0,
    **changes: object,
) -> AbstractAsyncContextManager[Store]:
    """`open_store` with the test role; `changes` replace single options."""
    return open_store(
        disk,
        replace(options, **changes),  # type: ignore[arg-type]
        KitSchema(),
        owner=owner,
        worker=worker or InlineWorker(),
        clock=SystemClock(),
        rng=SeededRng(seed),
        index=index,
    )


def chunk(data: bytes, number: int = 0, index: int = 0, blob: bytes = BLOB) -> NewRecord:
    return NewRecord(CHUNK, data, blob, number, index)


def set_(key: str, value: str = "") -> NewRecord:
    return NewRecord(SET, f"{key}={value}".encode())


def unset(prefix: str) -> NewRecord:
    return NewRecord(UNSET, prefix.encode())


def count(key: str) -> NewRecord:
    return NewRecord(COUNT, key.encode())


def dump(reader: Reader) -> dict[bytes, bytes]:
    """The role's whole key space."""
    return {key: value for key, value in reader.scan(b"") if not key.startswith(RESERVED)}


def names(reader: Reader) -> list[str]:
    """The keys that are set."""
    return [key[1:].decode() for key, _ in reader.scan(b"M")]


def extents(reader: Reader) -> list[Extent]:
    """Where the chunks lie, in the order of blob, number, index."""
    return [Extent.unpack(value) for _, value in reader.scan(b"C")]
