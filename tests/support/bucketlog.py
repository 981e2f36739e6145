"""The bucket's decisions over a log in a list: no disk, no tasks, and crashes at will."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from blake3 import blake3

from ostnode.errors import OstError
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.records import BULK_KINDS
from ostnode.roles.bucket.reducer import reduce_record
from ostnode.roles.bucket.views import View
from ostnode.store.keyspace import Writer
from ostnode.store.record import Extent, NewRecord, Record

T = TypeVar("T")

_FORESEEN = [bytes([letter]) for letter in b"ABDEFGHIJKLMNOPQRSTUVWXYZ"]
"""Every table but CHUNKS: a chunk's place and digest are not known before it is staged."""


class Rows(Writer):
    """An ordered key space in a dictionary."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        last = max(prefix, after)
        place = bisect_left(self._keys, last)
        while place < len(self._keys) and self._keys[place].startswith(prefix):
            key = self._keys[place]
            if key > after:
                yield key, self.values[key]
            place = bisect_left(self._keys, key + b"\0")

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.values:
            insort(self._keys, key)
        self.values[key] = value

    def delete(self, key: bytes) -> None:
        if self.values.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]

    def forget(self, extent: Extent) -> None:
        pass


class LogInAList:
    """Groups of records, the first `synced` of which are durable, and the rows they make.

    An extent's offset is the record's place in `payloads`.
    """

    def __init__(self) -> None:
        self.groups: list[list[NewRecord]] = []
        self.synced = 0
        self._start()

    def _start(self) -> None:
        self.rows = Rows()
        self.payloads: list[bytes] = []
        self.records: list[Record] = []
        groups, self.groups = self.groups, []
        for group in groups:
            self.stage(group)

    @property
    def next_seq(self) -> int:
        return len(self.payloads) + 1

    @property
    def state(self) -> View:
        return View(self.rows)

    def decide(self, decision: Callable[[Draft], T | OstError]) -> T | OstError:
        """As the desk does, without a wait: errors come back, whether they left records or not."""
        draft = Draft(self.rows, self.next_seq)
        try:
            answer = decision(draft)
        except OstError as error:
            return error
        if draft.records:
            # What a decision sees behind its records must be what staging them does.
            foreseen = {table: dict(draft._overlay.scan(table)) for table in _FORESEEN}
            self.stage(draft.records)
            for table, rows in foreseen.items():
                assert rows == dict(self.rows.scan(table))
        return answer

    def stage(self, records: Sequence[NewRecord]) -> None:
        self.groups.append(list(records))
        for new in records:
            payload = bytes(new.payload)
            seq = self.next_seq
            bulk = new.kind in BULK_KINDS
            digest = blake3(payload).digest()[:16]
            extent = Extent(1, len(self.payloads), len(payload))
            self.payloads.append(payload)
            metadata = b"" if bulk else payload
            numbers = (seq, 0, new.number, new.chunk_index)
            record = Record(new.kind, *numbers, new.blob, metadata, digest, extent)
            reduce_record(record, self.rows)
            self.records.append(record)

    def sync(self) -> None:
        self.synced = len(self.groups)

    def crash(self, kept: int) -> None:
        """Start again from the log, with so many groups of those that were not synced."""
        del self.groups[self.synced + kept :]
        self.synced = len(self.groups)
        self._start()

    def read(self, extent: Extent) -> bytes:
        return self.payloads[extent.offset][: extent.length]
