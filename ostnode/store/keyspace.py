"""The ordered key space: what is durable (a key index) and what is staged on top of it.

Keys are 1 to 480 bytes and sort bytewise; the first byte is the caller's table id, 0 is the
store's own. Scans are stepwise: each step finds the next key after the last one in the key space as
it is at that step, so a scan may be interleaved with puts, deletes and commits and never holds a
snapshot open.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from typing_extensions import override

from ostnode.store.format import record_bytes
from ostnode.store.record import Extent, Record
from ostnode.store.sortedmap import KeyOrder

KEY_BYTES_MAX: Final = 480
"""LMDB refuses keys over 511 bytes."""
RESERVED: Final = b"\0"
"""Keys that begin so are the store's own: no role reads or writes them."""
_DEAD: Final = RESERVED + b"d"
_DEAD_END: Final = RESERVED + b"e"
_NUMBER: Final = struct.Struct(">Q")
_FIRST_PAGE: Final = 16
_PAGE_MAX: Final = 256

Changes = dict[bytes, bytes | None]
"""Key → new value, or None for a deletion."""
Row = tuple[bytes, bytes]
_Entry = tuple[bytes | None, Changes]
"""A staged value, and the changes of the batch it belongs to."""


class Reader(Protocol):
    """An ordered key space that can be read."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        ...

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[Row]:
        """Keys under `prefix` and greater than `after`, ascending, with their values."""
        ...


class Writer(Reader, Protocol):
    """What a reducer changes the key space through."""

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key` to `value`."""
        ...

    def delete(self, key: bytes) -> None:
        """Remove `key`; an absent key is fine."""
        ...

    def forget(self, extent: Extent) -> None:
        """The record at `extent` is dead from here on: its bytes count as free for the taking.

        Feeds the estimate that says where compaction is worth a look, and decides nothing else.
        """
        ...


Reducer = Callable[[Record, Writer], None]
"""Applies one record to the key space: `Schema.reduce`."""


@dataclass(frozen=True, slots=True)
class Covered:
    """How far a key index has followed the log: every batch up to and including `batch`."""

    segment: int
    uuid: bytes
    batch: int


class KeyIndex(Protocol):
    """The durable half of the key space, derived from the log and rebuilt when it is lost.

    `get` and `page`, and a step of one audit, may be called while another thread is in `commit`.
    All raise IndexDamagedError when they meet damage.
    """

    @property
    def is_proven(self) -> bool:
        """Whether all rows were known to be right when it was opened, or audited since."""
        ...

    def open(self) -> Covered | None:
        """Open it. None when it is missing, damaged or cannot be trusted: then it is empty.

        One that was opened and never `recovered` is not trusted.
        """
        ...

    def reset(self) -> None:
        """Empty it."""
        ...

    def recovered(self) -> None:
        """Recovery has finished; the index follows the log from here on."""
        ...

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        ...

    def page(self, low: bytes, high: bytes | None, limit: int) -> list[Row]:
        """At most `limit` rows with low ≤ key < high, ascending; `high` None is no bound."""
        ...

    def commit(self, changes: Mapping[bytes, bytes | None], covered: Covered) -> None:
        """Apply one batch, atomically with the position it brings the index to.

        Nothing of it is done when it raises NoSpaceError, after which it may be tried again, or
        IndexLimitError, after which it will not do better.
        """
        ...

    def audit(self) -> Generator[None]:
        """Prove all rows, as they are when it begins, in steps of about a millisecond.

        Raises IndexDamagedError; then the next `open` finds nothing to be trusted. Whether it
        ends by itself or is closed, nothing is held afterwards.
        """
        ...

    def nbytes(self) -> int:
        """Bytes of the disk that it takes."""
        ...

    def close(self, *, clean: bool) -> None:
        """Close it; `clean` says that it equals the log and may be trusted after a reboot."""
        ...


def dead_key(segment: int) -> bytes:
    """The key of a segment's estimate of dead bytes.

    An output has one from its swap on: without it the index has missed the swap.
    """
    return _DEAD + _NUMBER.pack(segment)


def dead_rows(rows: Reader) -> dict[int, int]:
    """The estimates of all segments, by number."""
    return {_numbered(key): parse_dead(value) for key, value in rows.scan(_DEAD)}


def dead_changes(changes: Mapping[bytes, bytes | None]) -> dict[int, int | None]:
    """The estimates that a batch changes, by number; None for one that is gone."""
    # Most batches change none, and one look at the least key is all they cost.
    if not changes or min(changes) >= _DEAD_END:
        return {}
    return {
        _numbered(key): None if value is None else parse_dead(value)
        for key, value in changes.items()
        if key.startswith(_DEAD)
    }


def _numbered(key: bytes) -> int:
    return int(_NUMBER.unpack_from(key, len(_DEAD))[0])


def pack_dead(nbytes: int) -> bytes:
    """The value of that row."""
    return _NUMBER.pack(nbytes)


def parse_dead(value: bytes | None) -> int:
    """Dead bytes heard of; 0 when there is no row."""
    return 0 if value is None else int(_NUMBER.unpack(value)[0])


def prefix_end(prefix: bytes) -> bytes | None:
    """The first key behind every key that starts with `prefix`; None when there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


class DurableReader(Reader):
    """What is synced, and nothing else: for answers given without waiting."""

    def __init__(self, index: KeyIndex) -> None:
        self._index = index

    @override
    def get(self, key: bytes) -> bytes | None:
        return self._index.get(key)

    @override
    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[Row]:
        low, high, limit = max(prefix, after + b"\0"), prefix_end(prefix), _FIRST_PAGE
        while True:
            rows = self._index.page(low, high, limit)
            yield from rows
            if len(rows) < limit:
                return
            low, limit = rows[-1][0] + b"\0", _PAGE_MAX


class Overlay(Writer):
    """A key index with the effects of staged records on top of it.

    Effects go in through `apply`, which also gathers them per batch, and leave through
    `retire` once their batch is in the index. A key that a later batch changed again stays.
    """

    def __init__(self, index: KeyIndex) -> None:
        self._index = index
        self._entries: dict[bytes, _Entry] = {}
        self._order = KeyOrder()
        self._changes: Changes | None = None
        self._undo: list[tuple[bytes, _Entry | None, bytes | _Absent | None]] = []
        self._retired = 0

    @override
    def get(self, key: bytes) -> bytes | None:
        entry = self._entries.get(key)
        return self._index.get(key) if entry is None else entry[0]

    @override
    def put(self, key: bytes, value: bytes) -> None:
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise ValueError(f"a key has 1 to {KEY_BYTES_MAX} bytes, not {len(key)}")
        self._set(key, value)

    @override
    def delete(self, key: bytes) -> None:
        self._set(key, None)

    @override
    def forget(self, extent: Extent) -> None:
        key = dead_key(extent.segment)
        dead = parse_dead(self.get(key)) + record_bytes(extent.length)
        self._set(key, pack_dead(dead))

    def _set(self, key: bytes, value: bytes | None) -> None:
        if self._changes is None:
            raise RuntimeError("the key space is changed by reducers only")
        changes = self._changes
        before = self._entries.get(key)
        if before is None:
            self._order.add(key)
        self._undo.append((key, before, changes.get(key, _ABSENT)))
        self._entries[key] = (value, changes)
        changes[key] = value

    def apply(self, records: Iterable[Record], reducer: Reducer, changes: Changes) -> None:
        """Let `reducer` apply records and gather what it changes; if it raises, take all back."""

        def reduce_all(rows: Writer) -> None:
            for record in records:
                reducer(record, rows)

        self.change(reduce_all, changes)

    def change(self, act: Callable[[Writer], None], changes: Changes) -> None:
        """Let `act` change the key space, as `apply` does."""
        self._changes = changes
        try:
            act(self)
        except BaseException:
            self._take_back(changes)
            raise
        finally:
            self._changes = None
            self._undo.clear()

    def _take_back(self, changes: Changes) -> None:
        for key, entry, change in reversed(self._undo):
            if entry is None:
                self._drop(key)
            else:
                self._entries[key] = entry
            if isinstance(change, _Absent):
                del changes[key]
            else:
                changes[key] = change

    def retire(self, changes: Changes) -> None:
        """Drop the effects of a batch that the index now holds; `changes` is the same object.

        Whose a key's entry is decides, not its value: with a delete, a put and a delete of one
        key on their way, the last must outlive the first.
        """
        entries = self._entries
        self._retired += 1
        if len(entries) == len(changes) and all(of is changes for _, of in entries.values()):
            entries.clear()
            self._order.clear()
            return
        for key in changes:
            if entries[key][1] is changes:
                self._drop(key)

    def _drop(self, key: bytes) -> None:
        del self._entries[key]
        self._order.discard(key)

    @override
    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[Row]:
        low, high = max(prefix, after + b"\0"), prefix_end(prefix)
        pages = _Pages(self._index, high)
        while True:
            row = pages.first(low, self._retired)
            key = self._order.first(low, high)
            if key is not None and (row is None or key <= row[0]):
                value = self._entries[key][0]
            elif row is not None:
                key, value = row
            else:
                return
            low = key + b"\0"
            if value is not None:
                yield key, value


class _Pages:
    """Rows of a key index, fetched by pages and fetched again after a batch has been retired."""

    def __init__(self, index: KeyIndex, high: bytes | None) -> None:
        self._index, self._high = index, high
        self._rows: list[Row] = []
        self._at, self._limit, self._more, self._seen = 0, _FIRST_PAGE, True, -1

    def first(self, low: bytes, retired: int) -> Row | None:
        """The first row with key ≥ low; `low` never decreases."""
        if retired != self._seen:
            self._rows, self._at, self._more, self._seen = [], 0, True, retired
        while self._at < len(self._rows) and self._rows[self._at][0] < low:
            self._at += 1
        if self._at == len(self._rows) and self._more:
            self._rows, self._at = self._index.page(low, self._high, self._limit), 0
            self._more = len(self._rows) == self._limit
            self._limit = _PAGE_MAX
        return self._rows[self._at] if self._at < len(self._rows) else None


class _Absent:
    """Marks a key that a batch has not changed (None says that it deletes it)."""


_ABSENT: Final = _Absent()
