"""A role whose records' worth is exact: every kind that adds, one that removes, one that builds on
another record's row. Rows carry the sequence number of the record that made them."""

from __future__ import annotations

from collections.abc import Container
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import trio

from ostnode.env import InlineWorker, SystemClock, Worker
from ostnode.store.compaction import Compacted, CompactionPass
from ostnode.store.disk import Disk
from ostnode.store.judging import Judgement
from ostnode.store.keyspace import KeyIndex, Reader, Writer
from ostnode.store.pace import Pace
from ostnode.store.planning import Run, plan_compaction
from ostnode.store.record import Extent, NewRecord, Record
from ostnode.store.schema import Schema, Worth
from ostnode.store.staging import SEGMENT_RECORDS_MAX
from ostnode.store.store import Store, StoreOptions, open_store
from tests.support.storekit import OWNER, SMALL, SeededRng, dump

ADD = 1
"""Bulk: `C number` → seq, touches, extent. Takes the place of an earlier one."""
SET = 2
"""Payload `key=value`: `M key` → seq, value."""
REMOVE = 3
"""Payload is a row's key; undoes the ADD or SET before it."""
TOUCH = 4
"""Counts in the row of ADD `number`, which copies its extent."""
COUNT = 5
"""Payload `key`: `N key` → how often; applying a record twice, or dropping one, shows."""


class _Free(Pace):
    """No bound, and no memory of a clock."""

    async def spend(self, nbytes: int) -> None:
        await trio.lowlevel.checkpoint()


FREE = _Free(0)


class Row(NamedTuple):
    seq: int
    touches: int
    rest: bytes
    """An extent, or a value."""

    def pack(self) -> bytes:
        return self.seq.to_bytes(8, "big") + self.touches.to_bytes(2, "big") + self.rest

    @classmethod
    def unpack(cls, data: bytes) -> Row:
        return cls(int.from_bytes(data[:8], "big"), int.from_bytes(data[8:10], "big"), data[10:])

    @property
    def extent(self) -> Extent:
        return Extent.unpack(self.rest)


def added_key(number: int) -> bytes:
    return b"C" + number.to_bytes(8, "big")


def key_of(record: Record) -> bytes:
    """The row that a record is about."""
    if record.kind in {ADD, TOUCH}:
        return added_key(record.number)
    if record.kind == SET:
        return b"M" + record.payload.partition(b"=")[0]
    return b"N" + record.payload if record.kind == COUNT else record.payload


def _row(rows: Reader, key: bytes) -> Row | None:
    value = rows.get(key)
    return None if value is None else Row.unpack(value)


class KeepSchema(Schema):
    """The meaning of the kinds above."""

    bulk_kinds = frozenset({ADD})

    def reduce(self, record: Record, rows: Writer) -> None:
        key = key_of(record)
        row = _row(rows, key)
        if record.kind == COUNT:
            before = int(rows.get(key) or b"0")
            rows.put(key, b"%d" % (before + 1))
        elif record.kind == TOUCH:
            if row is not None:
                rows.put(key, row._replace(touches=row.touches + 1).pack())
        elif record.kind == REMOVE:
            if row is not None:
                rows.delete(key)
                self._forget(key, row, rows)
        else:
            if row is not None:
                self._forget(key, row, rows)
            is_add = record.kind == ADD
            rest = record.extent.pack() if is_add else record.payload.partition(b"=")[2]
            rows.put(key, Row(record.seq, 0, rest).pack())

    def _forget(self, key: bytes, row: Row, rows: Writer) -> None:
        if key.startswith(b"C"):
            rows.forget(row.extent)

    def worth(self, record: Record, rows: Reader) -> Worth:
        if record.kind == COUNT:
            return Worth.LIVE
        if record.kind == REMOVE:
            return Worth.TOMBSTONE
        row = _row(rows, key_of(record))
        if row is None:
            return Worth.DEAD
        live = row.seq < record.seq if record.kind == TOUCH else row.seq == record.seq
        return Worth.LIVE if live else Worth.DEAD

    def relocate(self, record: Record, segments: Container[int], rows: Writer) -> None:
        key = key_of(record)
        row = _row(rows, key)
        if row is not None and row.seq == record.seq and row.extent.segment in segments:
            rows.put(key, row._replace(rest=record.extent.pack()).pack())


def opened(
    disk: Disk,
    options: StoreOptions = SMALL,
    *,
    index: KeyIndex | None = None,
    schema: Schema | None = None,
    seed: int = 0,
    worker: Worker | None = None,
    maintenance: Worker | None = None,
) -> AbstractAsyncContextManager[Store]:
    """`open_store` with this role."""
    return open_store(
        disk,
        options,
        schema or KeepSchema(),
        owner=OWNER,
        worker=worker or InlineWorker(),
        maintenance_worker=maintenance,
        clock=SystemClock(),
        rng=SeededRng(seed),
        index=index,
    )


def add(number: int, data: bytes) -> NewRecord:
    return NewRecord(ADD, data, number=number)


def touch(number: int) -> NewRecord:
    return NewRecord(TOUCH, number=number)


def remove(number: int) -> NewRecord:
    return NewRecord(REMOVE, added_key(number))


def set_(key: str, value: str = "") -> NewRecord:
    return NewRecord(SET, f"{key}={value}".encode())


def unset(key: str) -> NewRecord:
    return NewRecord(REMOVE, b"M" + key.encode())


def count(key: str) -> NewRecord:
    return NewRecord(COUNT, key.encode())


def rows_of(reader: Reader) -> dict[bytes, bytes]:
    """The whole key space, but for where the bytes lie."""
    return {
        key: value[:10] if key.startswith(b"C") else value for key, value in dump(reader).items()
    }


def extent_of(reader: Reader, number: int) -> Extent:
    row = _row(reader, added_key(number))
    assert row is not None
    return row.extent


async def judge_all(store: Store, work: CompactionPass) -> list[Judgement]:
    """Every sealed segment, in the order of the log."""
    return [await work.judge(info.number) for info in store.segments() if info.sealed]


async def compact_all(
    store: Store, *, live_share_max: float = 1.0, segment_bytes: int = SMALL.segment_bytes
) -> list[Compacted]:
    """A whole pass."""
    work = store.compaction_pass()
    runs = plan_compaction(
        await judge_all(store, work),
        live_share_max=live_share_max,
        segment_bytes=segment_bytes,
        records_max=SEGMENT_RECORDS_MAX,
    )
    return [await work.compact(run, FREE) for run in runs]


async def compact_one(work: CompactionPass, judgement: Judgement) -> Compacted:
    """Rewrite a segment whether it is worth it or not."""
    place = (judgement.first_seq, judgement.last_seq)
    return await work.compact(Run((judgement.number,), *place, judgement.nbytes, 0), FREE)
