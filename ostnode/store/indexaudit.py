"""Proving the rows of a key index in LMDB, which keeps no checksums of its own."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from ostnode.store.errors import IndexDamagedError

if TYPE_CHECKING:
    import lmdb

SLICE_ROWS: Final = 512
"""About half a millisecond."""
SUM_MASK: Final = (1 << 64) - 1

T = TypeVar("T")


def row_sum(key: bytes, value: bytes) -> int:
    """What a row adds to the sum of all."""
    return zlib.crc32(value, zlib.crc32(key))


def prove(
    transaction: lmdb.Transaction[bytes],
    tables: Mapping[bytes, lmdb._Database],
    count: int,
    total: int,
) -> Generator[None]:
    """Raise IndexDamagedError unless the rows of all tables have this count and this sum.

    And unless a look-up finds each of them. A walk goes from leaf to leaf and sees nothing of the
    keys above them; a look-up goes through these when it enters a leaf: at its first key going up,
    at its last going down. Yields after every slice. Raises lmdb.Error, too.
    """
    left, found = count, 0
    for name, table in tables.items():
        rows, finder = transaction.cursor(table), transaction.cursor(table)
        inside = 0
        # Bounded: a damaged tree can have no end.
        for some in _slices(iter(rows), left + 1):
            for key, value in some:
                found += row_sum(key, value)
                if key[:1] != name or not finder.set_key(key):
                    raise IndexDamagedError(f"its row {key.hex()} cannot be found")
            inside += len(some)
            yield
        left -= inside
        keys = transaction.cursor(table).iterprev(values=False)
        for some_keys in _slices(iter(keys), inside):
            if not all(map(finder.set_key, some_keys)):
                raise IndexDamagedError("a row of it cannot be found")
            yield
    if left or found & SUM_MASK != total:
        raise IndexDamagedError("its rows do not add up")


def _slices(items: Iterator[T], limit: int) -> Iterator[list[T]]:
    """At most `limit` of the items, some at a time."""
    while some := list(islice(items, min(SLICE_ROWS, limit))):
        yield some
        limit -= len(some)
