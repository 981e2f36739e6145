"""Numbers kept in rows."""

from __future__ import annotations

from ostnode.roles.bucket import tables as t
from ostnode.store.keyspace import Reader, Writer


def number_at(rows: Reader, key: bytes) -> int:
    """The number; 0 when there is none."""
    row = rows.get(key)
    return 0 if row is None else t.number_of(row)


def add_to(rows: Writer, key: bytes, amount: int) -> None:
    """Change a count; one that comes to nothing has no row."""
    total = number_at(rows, key) + amount
    if total > 0:
        rows.put(key, t.u64(total))
    else:
        rows.delete(key)


def raise_to(rows: Writer, key: bytes, number: int) -> None:
    """Make it `number`, unless it is that or more."""
    if number > number_at(rows, key):
        rows.put(key, t.u64(number))
