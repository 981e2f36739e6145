"""What a decision wants written, and the state as it will be once that is written."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from typing_extensions import override

from ostnode.ids import BlobId
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.payloads import KINDS, Payload, encode_payload
from ostnode.roles.bucket.records import BULK_KINDS, Healed, Kind, Tombstone
from ostnode.roles.bucket.reducer import reduce_record
from ostnode.roles.bucket.views import View
from ostnode.store.keyspace import Reader, Writer
from ostnode.store.record import ZERO_32, Extent, NewRecord, Record
from ostnode.wire.buffers import Buffer
from ostnode.wire.eventcodec import encode_event
from ostnode.wire.events import OutboxEvent


@dataclass(frozen=True, slots=True)
class Pushed:
    """A chunk's bytes and the store's digest of them (the first 16 bytes of their BLAKE3).

    `verified` says that they are the whole blob, for an only chunk.
    """

    index: int
    body: Buffer
    digest: bytes = b""
    verified: bool = False


_NO_DIGEST: Final = bytes(16)
_NOWHERE: Final = Extent(0, 0, 0)
"""No decision looks at the bytes, or the place, of a chunk that it adds itself."""


class Draft(View):
    """Records for one atomic group, with a view of the state behind them.

    `records` are staged together or not at all. What one adds is seen by everything that is read
    through the draft afterwards, by way of the same reducer that will run when they are staged.
    Sequence numbers are the ones they will get, or one less when a segment fills in between.
    """

    def __init__(self, rows: Reader, next_seq: int) -> None:
        self._overlay = _Overlay(rows)
        super().__init__(self._overlay)
        self._next_seq = next_seq
        self.records: list[NewRecord] = []

    @property
    def next_seq(self) -> int:
        """A number that no record before the draft has: good to name what the next one opens."""
        return self._next_seq + len(self.records)

    def add(
        self, payload: Payload, *, blob: bytes = ZERO_32, number: int = 0, chunk_index: int = 0
    ) -> None:
        """Add a record of metadata."""
        data = encode_payload(payload)
        self._append(NewRecord(KINDS[type(payload)], data, blob, number, chunk_index))

    def add_chunk(self, blob: BlobId, number: int, pushed: Pushed) -> None:
        """Add a chunk's bytes."""
        self._append(NewRecord(Kind.CHUNK, pushed.body, blob, number, pushed.index, pushed.digest))

    def tell(self, event: OutboxEvent) -> None:
        """Queue an event for the index."""
        self.tell_as(self.number(t.OUTBOX_NEXT), event)

    def tell_as(self, number: int, event: OutboxEvent) -> None:
        """Put an event in a place that is free."""
        self._append(NewRecord(Kind.OUTBOX, encode_event(event), number=number))

    def release(self, blob_id: BlobId) -> None:
        """Kill the stored blob, if there is one and nothing needs it any more; damage is moot then.

        Not for a blob that the draft itself stores: its commit's number is not certain yet.
        """
        stored = self.blob(blob_id)
        quarantined = self.quarantined(blob_id)
        if (stored is None and not quarantined) or self.needed(blob_id):
            return
        if quarantined:
            self.add(Healed(), blob=blob_id)
        if stored is not None:
            self.add(Tombstone(stored.commit), blob=blob_id, number=stored.number)

    def _append(self, new: NewRecord) -> None:
        record = Record(
            kind=new.kind,
            seq=self.next_seq,
            batch=0,
            number=new.number,
            chunk_index=new.chunk_index,
            blob=new.blob,
            payload=b"" if new.kind in BULK_KINDS else bytes(new.payload),
            digest=_NO_DIGEST,
            extent=_NOWHERE,
        )
        self.records.append(new)
        self._overlay.expect(record)


class _Overlay(Writer):
    """Rows as records will leave them, over rows as they are.

    Records are reduced when the first look-up asks: a decision that ends with what it adds, as
    most chunks do, pays for none of it.
    """

    def __init__(self, rows: Reader) -> None:
        self._rows = rows
        self._changes: dict[bytes, bytes | None] = {}
        self._keys: list[bytes] = []
        self._expected: list[Record] = []

    def expect(self, record: Record) -> None:
        self._expected.append(record)

    @override
    def get(self, key: bytes) -> bytes | None:
        self._catch_up()
        if key in self._changes:
            return self._changes[key]
        return self._rows.get(key)

    @override
    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        self._catch_up()
        changed = self._changed(prefix, after)
        if not changed:
            return self._rows.scan(prefix, after)
        return self._merged(changed, self._rows.scan(prefix, after))

    @override
    def put(self, key: bytes, value: bytes) -> None:
        self._change(key, value)

    @override
    def delete(self, key: bytes) -> None:
        self._change(key, None)

    @override
    def forget(self, extent: Extent) -> None:
        """Nothing: what a decision reads does not say how full the segments are."""

    def _change(self, key: bytes, value: bytes | None) -> None:
        if key not in self._changes:
            insort(self._keys, key)
        self._changes[key] = value

    def _catch_up(self) -> None:
        # Reducing looks rows up as well, so the list is emptied first.
        expected, self._expected = self._expected, []
        for record in expected:
            reduce_record(record, self)

    def _changed(self, prefix: bytes, after: bytes) -> list[tuple[bytes, bytes | None]]:
        changed = []
        for place in range(bisect_left(self._keys, max(prefix, after)), len(self._keys)):
            key = self._keys[place]
            if not key.startswith(prefix):
                break
            if key > after:
                changed.append((key, self._changes[key]))
        return changed

    def _merged(
        self, changed: list[tuple[bytes, bytes | None]], rows: Iterator[tuple[bytes, bytes]]
    ) -> Iterator[tuple[bytes, bytes]]:
        """Both in order; a changed row stands for the old one, a deleted one for nothing."""
        waiting = iter(changed)
        change = next(waiting, None)
        for key, row in rows:
            while change is not None and change[0] < key:
                if change[1] is not None:
                    yield change[0], change[1]
                change = next(waiting, None)
            if change is None or change[0] != key:
                yield key, row
        if change is not None:
            for key, value in chain([change], waiting):
                if value is not None:
                    yield key, value
