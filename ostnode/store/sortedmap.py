"""`sortedcontainers.SortedDict` with bytes keys and types; the library comes without any."""

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

    def bisect_left(self, key: bytes) -> int:
        """How many keys are less than `key`."""
        ...

    def peekitem(self, index: int) -> tuple[bytes, V]:
        """The item at `index` in the order of keys."""
        ...

    def irange(
        self, minimum: bytes, maximum: bytes | None, inclusive: tuple[bool, bool]
    ) -> Iterator[bytes]:
        """The keys between two bounds, ascending; None is no bound."""
        ...


def new_sorted_map() -> SortedMap[V]:
    """An empty map."""
    return cast("SortedMap[V]", sortedcontainers.SortedDict())
