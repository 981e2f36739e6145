"""The tables with a memory for one transaction: a row is read once and written once.

Writes wait until a question needs them in the database, or the transaction ends; then each table's
go out together. So the row of a user whom five hundred events change is written once, and a
transaction takes few round trips. What a refused operation changed is taken back in memory.

Two things are left to the plain tables: taking back what has been written, and telling whose the
row was that the database would not have. Then `spoiled` is set, and the transaction must be rolled
back and run again without a memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from typing_extensions import override

from ostnode.roles.index.core.tables import Column
from ostnode.roles.index.database.mapping import Connection, Key, SqlRows
from ostnode.roles.index.database.sqltables import LAST_PLACE, SqlTables

R = TypeVar("R")

EXPECTED_TOGETHER_MAX: Final = 500
"""Rows read by one question: SQLite takes 32,766 parameters, other engines more."""
_UNKNOWN: Final = object()

_Step = tuple["_CachedRows[Any]", Key, object, bool]
"""A change of one row: what was known of it before, and whether that waited to be written."""


class CachedTables(SqlTables):
    """Every table of one transaction, from `begin` to `write`."""

    def __init__(self, connection: Connection) -> None:
        self._changes = _Changes()
        self._last_place = 0
        super().__init__(connection)

    @property
    def spoiled(self) -> bool:
        """Whether this transaction must be rolled back and run on plain tables."""
        return self._changes.spoiled

    def begin(self) -> None:
        """Know nothing: others may have written since."""
        self.urgent = False
        self._last_place = 0
        self._changes.begin()

    def write(self) -> None:
        """Write what waits; raises what the engine does, and then this is spoiled."""
        self._changes.write()

    @override
    def alone(self) -> AbstractContextManager[None]:
        return self._changes

    @override
    def next_place(self) -> int:
        if not self._last_place:
            # What waits to be written is older, and got its places from the database too.
            ((self._last_place,),) = super()._ask(LAST_PLACE)
        self._last_place += 1
        return self._last_place

    @override
    def _rows(self, row: type[R], table: str, *key: str) -> SqlRows[R]:
        return _CachedRows(self._changes, self._connection, row, table, *key)

    @override
    def _ask(self, sql: str, parameters: Sequence[Column] = ()) -> Iterable[Sequence[Any]]:
        self._changes.write()
        return super()._ask(sql, parameters)


class _Changes(AbstractContextManager[None]):
    """What a block `alone` changes, so that it can be taken back; blocks may be nested."""

    def __init__(self) -> None:
        self.spoiled = False
        self.steps: list[_Step] = []
        self._tables: list[_CachedRows[Any]] = []
        self._starts: list[int] = []
        self._written = 0
        """How many of the steps are in the database already."""

    def add(self, rows: _CachedRows[Any]) -> None:
        self._tables.append(rows)

    def begin(self) -> None:
        self.spoiled = False
        self._forget_steps()
        self._starts.clear()
        for rows in self._tables:
            rows.forget()

    def write(self) -> None:
        """Write what waits, of every table."""
        self._written = len(self.steps)
        try:
            for rows in self._tables:
                rows.write()
        except BaseException:
            self.spoiled = True
            raise

    @override
    def __enter__(self) -> None:
        self._starts.append(len(self.steps))

    @override
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        start = self._starts.pop()
        if kind is not None:
            self._take_back(start)
        if not self._starts:
            self._forget_steps()

    def _take_back(self, start: int) -> None:
        if self._written > start:
            self.spoiled = True
            return
        while len(self.steps) > start:
            rows, key, before, waited = self.steps.pop()
            rows.take_back(key, before, waited=waited)

    def _forget_steps(self) -> None:
        self.steps.clear()
        self._written = 0


class _CachedRows(SqlRows[R], Generic[R]):
    """One table's rows as the transaction sees them, and which of them the database has not."""

    def __init__(
        self, changes: _Changes, connection: Connection, row: type[R], table: str, *key: str
    ) -> None:
        super().__init__(connection, row, table, *key)
        self._changes = changes
        self._known: dict[Key, R | None] = {}
        self._waiting: dict[Key, None] = {}
        self._found: dict[tuple[tuple[str, Column], ...], list[R]] = {}
        self._by_values: dict[tuple[str, ...], dict[Key, dict[Key, None]]] = {}
        changes.add(self)

    @override
    def get(self, *key: Column) -> R | None:
        if key in self._known:
            return self._known[key]
        row = self._known[key] = super().get(*key)
        return row

    @override
    def expect(self, keys: Iterable[Key]) -> None:
        # What is not known has no change that waits.
        unknown = [key for key in dict.fromkeys(keys) if key not in self._known]
        for first in range(0, len(unknown), EXPECTED_TOGETHER_MAX):
            asked = unknown[first : first + EXPECTED_TOGETHER_MAX]
            self._known.update(dict.fromkeys(asked))
            self._known.update((self._key_of(row), row) for row in self._with_keys(asked))

    @override
    def put(self, row: R) -> None:
        self._change(self._key_of(row), row)

    @override
    def drop(self, *key: Column) -> None:
        self._change(key, None)

    @override
    def where(self, **equal: Column) -> list[R]:
        question = tuple(equal.items())
        found = self._found.get(question)
        if found is None:
            found = self._found[question] = self._as_changed(self._where(equal), equal)
        return [*found]

    @override
    def select(self, condition: str, *parameters: Column) -> list[R]:
        # It may speak of other tables too.
        self._changes.write()
        return [self._remember(row) for row in super().select(condition, *parameters)]

    @override
    def delete(self, condition: str, *parameters: Column) -> None:
        # A step like any other: there is no way back from it.
        self._changes.steps.append((self, (), _UNKNOWN, False))
        self._changes.write()
        super().delete(condition, *parameters)
        self.forget()

    def forget(self) -> None:
        """Know nothing of this table; nothing of it may be waiting."""
        self._known.clear()
        self._waiting.clear()
        self._found.clear()
        self._by_values.clear()

    def write(self) -> None:
        """Write what waits, in the order of the first changes."""
        if not self._waiting:
            return
        known = [(key, self._known[key]) for key in self._waiting]
        self._waiting.clear()
        self._by_values.clear()
        # First what goes: another row may take its place.
        dropped = [key for key, row in known if row is None]
        if dropped:
            self._connection.executemany(self._drop, dropped)
        rows = [self._values(row) for _, row in known if row is not None]
        if rows:
            self._connection.executemany(self._put, rows)

    def take_back(self, key: Key, before: object, *, waited: bool) -> None:
        """Undo a change that has not been written."""
        self._found.clear()
        if before is _UNKNOWN:
            del self._known[key]
        else:
            self._known[key] = before  # type: ignore[assignment]  # it comes from there
        if not waited:
            del self._waiting[key]

    def _change(self, key: Key, row: R | None) -> None:
        before, waited = self._known.get(key, _UNKNOWN), key in self._waiting
        self._changes.steps.append((self, key, before, waited))
        self._known[key] = row
        self._waiting[key] = None
        if self._found:
            self._found.clear()
        if row is not None and self._by_values:
            for names, keys in self._by_values.items():
                keys.setdefault(_values(row, names), {})[key] = None

    def _remember(self, row: R) -> R:
        self._known.setdefault(self._key_of(row), row)
        return row

    def _as_changed(self, found: list[R], equal: dict[str, Column]) -> list[R]:
        """What the database answered, with what waits to be written in its place."""
        rows = {self._key_of(self._remember(row)): row for row in found}
        if not self._waiting:
            return found
        current = {key: row for key, row in rows.items() if key not in self._waiting}
        names, values = tuple(equal), tuple(equal.values())
        for key in self._waiting_with(names).get(values, ()):
            row = self._known.get(key)
            if row is not None and _values(row, names) == values:
                current[key] = row
        return [current[key] for key in sorted(current)]

    def _waiting_with(self, names: tuple[str, ...]) -> dict[Key, dict[Key, None]]:
        """The keys of waiting rows by the columns of a question; more than there are now."""
        by_values = self._by_values.get(names)
        if by_values is None:
            by_values = self._by_values[names] = {}
            for key in self._waiting:
                row = self._known[key]
                if row is not None:
                    by_values.setdefault(_values(row, names), {})[key] = None
        return by_values


def _values(row: object, names: tuple[str, ...]) -> Key:
    return tuple(getattr(row, name) for name in names)
