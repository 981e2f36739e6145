"""Rows of one table as frozen dataclasses: SQL made once from the fields, values converted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Final, Generic, Protocol, TypeVar, get_type_hints

from typing_extensions import override

from ostnode.roles.index.core.tables import Column, Rows

R = TypeVar("R")
_PLAIN: Final[tuple[type, ...]] = (int, str, bytes)


class Execute(Protocol):
    """Runs one statement with `?` parameters and returns its rows."""

    def __call__(
        self, sql: str, parameters: Sequence[object] = (), /
    ) -> Iterable[Sequence[Column]]:
        """The rows, possibly none."""
        ...


class SqlRows(Rows[R], Generic[R]):
    """The rows of `table`, whose columns are the fields of dataclass `row` in their order.

    Names come from the code, never from a caller: only values are parameters.
    """

    def __init__(self, execute: Execute, row: type[R], table: str, *key: str) -> None:
        self._execute = execute
        self._row = row
        columns = _columns(row)
        self._values: Callable[[R], Sequence[Column]] = attrgetter(*columns)
        self._converters = _converters(row)
        self._order = ", ".join(key)
        by_key = " AND ".join(f"{name} = ?" for name in key)
        names = ", ".join(columns)
        updates = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
        self._select = f"SELECT {names} FROM {table}"  # noqa: S608  names of ours only
        self._get = f"{self._select} WHERE {by_key}"
        self._drop = f"DELETE FROM {table} WHERE {by_key}"  # noqa: S608
        self._put = (
            f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608
            f"ON CONFLICT ({self._order}) DO UPDATE SET {updates}"
        )

    @override
    def get(self, *key: Column) -> R | None:
        for values in self._execute(self._get, key):
            return self._load(values)
        return None

    @override
    def put(self, row: R) -> None:
        self._execute(self._put, self._values(row))

    @override
    def drop(self, *key: Column) -> None:
        self._execute(self._drop, key)

    @override
    def where(self, **equal: Column) -> list[R]:
        condition = " AND ".join(f"{name} = ?" for name in equal) or "1 = 1"
        return self.select(f"{condition} ORDER BY {self._order}", *equal.values())

    def select(self, condition: str, *parameters: Column) -> list[R]:
        """The rows for a condition of ours, which may go on with ORDER BY and LIMIT."""
        rows = self._execute(f"{self._select} WHERE {condition}", parameters)
        return [self._load(values) for values in rows]

    def _load(self, values: Sequence[Column]) -> R:
        return self._row(
            *(
                convert(value) if convert else value
                for convert, value in zip(self._converters, values, strict=True)
            )
        )


def _columns(row: type[object]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(row))  # type: ignore[arg-type]  # a dataclass


def _converters(row: type[object]) -> tuple[Callable[[Column], object] | None, ...]:
    """How a column's value becomes the field's type; None when it is that already."""
    hints = get_type_hints(row)
    return tuple(None if hints[name] in _PLAIN else hints[name] for name in _columns(row))
