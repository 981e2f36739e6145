"""The bucket's records as its store sees them."""

from __future__ import annotations

from collections.abc import Container

from typing_extensions import override

from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.liveness import worth_of
from ostnode.roles.bucket.records import BULK_KINDS
from ostnode.roles.bucket.reducer import reduce_record
from ostnode.store.keyspace import Reader, Writer
from ostnode.store.record import Record
from ostnode.store.schema import Schema, Worth


class BucketSchema(Schema):
    """What a bucket's records do, and which of them are still needed."""

    @property
    @override
    def bulk_kinds(self) -> frozenset[int]:
        return BULK_KINDS

    @override
    def reduce(self, record: Record, rows: Writer) -> None:
        reduce_record(record, rows)

    @override
    def worth(self, record: Record, rows: Reader) -> Worth:
        return worth_of(record, rows)

    @override
    def relocate(self, record: Record, segments: Container[int], rows: Writer) -> None:
        key = t.chunk_key(record.number, record.chunk_index)
        row = rows.get(key)
        if row is None or row[:1] != t.HERE:
            return
        chunk = t.ChunkRow.unpack(row)
        if chunk.extent.segment in segments and chunk.digest == record.digest:
            rows.put(key, t.ChunkRow(record.extent, record.digest).pack())
