"""Ordered keys on `sortedcontainers`, with types; the library comes without any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar, cast

import sortedcontainers

V = TypeVar("V")
D = TypeVar("D")


class SortedMap(Protocol[V]):
    """What is used here of a dict ordered by its keys."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: bytes) -> V: ...
    def __setitem__(self, key: bytes, value: V) -> None: ...
    def __delitem__(self, key: bytes) -> None: ...

    def get(self, key: bytes, default: D) -> V | D:
        """As of a dict."""
        ...

    def pop(self, key: bytes, default: D) -> V | D:
        """As of a dict."""
        ...

    def clear(self) -> None:
        """As of a dict."""
        ...

    def irange(
        self, minimum: bytes, maximum: bytes | None, inclusive: tuple[bool, bool]
    ) -> Iterator[bytes]:
        """The keys between two bounds, ascending; None is no bound."""
        ...


def new_sorted_map() -> SortedMap[V]:
    """An empty map."""
    return cast("SortedMap[V]", sortedcontainers.SortedDict())


class KeyOrder:
    """A set of keys that is put in order when somebody asks for it.

    Most of what is staged is durable, and gone from here, before anybody does. Each table (first
    byte of a key) is put in order on its own: most of what is asked for is in one of them.
    """

    def __init__(self) -> None:
        self._new: set[bytes] = set()
        self._tables: dict[int, _Table] = {}

    def add(self, key: bytes) -> None:
        """Add a key that is not in it."""
        self._new.add(key)

    def discard(self, key: bytes) -> None:
        """Remove a key that is in it."""
        if key in self._new:
            self._new.remove(key)
        else:
            self._tables[key[0]].discard(key)

    def clear(self) -> None:
        """Remove every key."""
        self._new.clear()
        self._tables.clear()

    def first(self, low: bytes, high: bytes | None) -> bytes | None:
        """The first key with low ≤ key < high; None as `high` is no bound."""
        if self._new:
            self._sort_by_table()
        if low and high and low[0] == high[0]:
            table = self._tables.get(low[0])
            return None if table is None else table.first(low, high)
        for name in sorted(self._tables):
            # Where a table has nothing between the bounds, it says so.
            key = self._tables[name].first(low, high)
            if key is not None:
                return key
        return None

    def _sort_by_table(self) -> None:
        for key in self._new:
            table = self._tables.get(key[0])
            if table is None:
                table = self._tables[key[0]] = _Table()
            table.new.add(key)
        self._new.clear()


class _Table:
    __slots__ = ("new", "ordered")

    def __init__(self) -> None:
        self.ordered = sortedcontainers.SortedList()
        self.new: set[bytes] = set()

    def discard(self, key: bytes) -> None:
        if key in self.new:
            self.new.remove(key)
        else:
            self.ordered.remove(key)

    def first(self, low: bytes, high: bytes | None) -> bytes | None:
        if self.new:
            self.ordered.update(self.new)
            self.new.clear()
        key: bytes | None = next(self.ordered.irange(low, high, (True, False)), None)
        return key
