"""A key index in memory: for tests and the simulator. It is gone with its process."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from threading import Lock

from typing_extensions import override

from ostnode.store.keyspace import Covered, KeyIndex, Row
from ostnode.store.sortedmap import SortedMap, new_sorted_map


class MemoryIndex(KeyIndex):
    """An ordered dict. Kept and opened again, it acts like an index that survived a crash."""

    def __init__(self) -> None:
        self._rows: SortedMap[bytes] = new_sorted_map()
        self._covered: Covered | None = None
        self._lock = Lock()

    @override
    def open(self) -> Covered | None:
        return self._covered

    @override
    def reset(self) -> None:
        with self._lock:
            self._rows.clear()
            self._covered = None

    @override
    def recovered(self) -> None:
        pass

    @override
    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key, None)

    @override
    def page(self, low: bytes, high: bytes | None, limit: int) -> list[Row]:
        rows: list[Row] = []
        with self._lock:
            for key in self._rows.irange(low, high, (True, False)):
                if len(rows) == limit:
                    break
                rows.append((key, self._rows[key]))
        return rows

    @override
    def commit(self, changes: Mapping[bytes, bytes | None], covered: Covered) -> None:
        with self._lock:
            for key, value in changes.items():
                if value is None:
                    self._rows.pop(key, None)
                else:
                    self._rows[key] = value
            self._covered = covered

    @property
    @override
    def is_proven(self) -> bool:
        return True

    @override
    def audit(self) -> Generator[None]:
        yield

    @override
    def nbytes(self) -> int:
        return sum(len(key) + len(value) for key, value in self.page(b"", None, len(self._rows)))

    @override
    def close(self, *, clean: bool) -> None:
        pass
