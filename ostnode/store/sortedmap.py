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

    Most of what is staged is durable, and gone from here, before anybody does.
    """

    def __init__(self) -> None:
        self._sorted = sortedcontainers.SortedList()
        self._new: set[bytes] = set()

    def add(self, key: bytes) -> None:
        """Add a key that is not in it."""
        self._new.add(key)

    def discard(self, key: bytes) -> None:
        """Remove a key that is in it."""
        if key in self._new:
            self._new.remove(key)
        else:
            self._sorted.remove(key)

    def clear(self) -> None:
        """Remove every key."""
        self._sorted.clear()
        self._new.clear()

    def first(self, low: bytes, high: bytes | None) -> bytes | None:
        """The first key with low ≤ key < high; None as `high` is no bound."""
        if self._new:
            self._sorted.update(self._new)
            self._new.clear()
        key: bytes | None = next(self._sorted.irange(low, high, (True, False)), None)
        return key
