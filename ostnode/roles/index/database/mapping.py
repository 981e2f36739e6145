"""Rows of one table as frozen dataclasses: SQL made once from the fields, values converted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import partial
from operator import attrgetter
from typing import Any, Final, Generic, Protocol, TypeVar, get_type_hints

from typing_extensions import override

from ostnode.ids import FixedBytes
from ostnode.roles.index.core.tables import Column, Rows

R = TypeVar("R")
Key = tuple[Column, ...]
_PLAIN: Final[tuple[type, ...]] = (int, str, bytes)


class Connection(Protocol):
    """Runs statements with `?` parameters; what `sqlite3.Connection` has."""

    def execute(self, sql: str, parameters: Sequence[object] = (), /) -> Iterable[Sequence[Column]]:
        """The statement's rows, possibly none."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[object]], /) -> object:
        """The statement once for each."""
        ...


class SqlRows(Rows[R], Generic[R]):
    """The rows of `table`, whose columns are the fields of dataclass `row` in their order.

    Names come from the code, never from a caller: only values are parameters.
    """

    def __init__(self, connection: Connection, row: type[R], table: str, *key: str) -> None:
        self._connection = connection
        self._row = row
        columns = _columns(row)
        self._values: Callable[[R], Sequence[Column]] = attrgetter(*columns)
        self._key_of = _key_reader(*key)
        self._converters = _converters(row)
        self._order = ", ".join(key)
        self._key = key
        self._questions: dict[tuple[object, ...], str] = {}
        by_key = " AND ".join(f"{name} = ?" for name in key)
        names = ", ".join(columns)
        updates = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
        self._select = f"SELECT {names} FROM {table}"  # noqa: S608  names of ours only
        self._joined = f"SELECT {names} FROM asked CROSS JOIN {table}"  # noqa: S608
        self._get = f"{self._select} WHERE {by_key}"
        self._delete = f"DELETE FROM {table}"  # noqa: S608
        self._drop = f"{self._delete} WHERE {by_key}"
        self._put = (
            f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608
            f"ON CONFLICT ({self._order}) DO {f'UPDATE SET {updates}' if updates else 'NOTHING'}"
        )

    @override
    def get(self, *key: Column) -> R | None:
        for values in self._connection.execute(self._get, key):
            return self._load(values)
        return None

    @override
    def expect(self, keys: Iterable[Key]) -> None:
        pass

    @override
    def put(self, row: R) -> None:
        self._connection.execute(self._put, self._values(row))

    @override
    def drop(self, *key: Column) -> None:
        self._connection.execute(self._drop, key)

    @override
    def where(self, **equal: Column) -> list[R]:
        return self._where(equal)

    def select(self, condition: str, *parameters: Column) -> list[R]:
        """The rows for a condition of ours, which may go on with ORDER BY and LIMIT."""
        return self._read(f"{self._select} WHERE {condition}", parameters)

    def delete(self, condition: str, *parameters: Column) -> None:
        """Delete the rows for a condition of ours."""
        self._connection.execute(f"{self._delete} WHERE {condition}", parameters)

    def _where(self, equal: dict[str, Column]) -> list[R]:
        values = tuple(equal.values())
        truths = tuple(value for value in values if isinstance(value, bool))
        question = (*equal, truths)
        sql = self._questions.get(question)
        if sql is None:
            sql = self._questions[question] = self._question(equal)
        if truths:
            values = tuple(value for value in values if not isinstance(value, bool))
        return self._read(sql, values)

    def _question(self, equal: dict[str, Column]) -> str:
        # A truth value stands in the text: an engine uses a partial index for a literal only.
        tests = [
            f"{name} = {int(value)}" if isinstance(value, bool) else f"{name} = ?"
            for name, value in equal.items()
        ]
        return f"{self._select} WHERE {' AND '.join(tests) or '1 = 1'} ORDER BY {self._order}"

    def _with_keys(self, keys: Sequence[Key]) -> list[R]:
        """The rows with these keys, by one question; a key given twice finds its row twice.

        Of the ways to ask, this is the one that makes SQLite look up several columns in an index:
        for `(a, b) IN (VALUES …)` it reads the whole table.
        """
        asked = [f"key{number}" for number in range(len(self._key))]
        rows = ", ".join([f"({', '.join('?' * len(asked))})"] * len(keys))
        found = " AND ".join(map("{} = {}".format, self._key, asked))
        sql = f"WITH asked ({', '.join(asked)}) AS (VALUES {rows}) {self._joined} WHERE {found}"
        return self._read(sql, [value for key in keys for value in key])

    def _read(self, sql: str, parameters: Sequence[Column]) -> list[R]:
        return [self._load(values) for values in self._connection.execute(sql, parameters)]

    def _load(self, values: Sequence[Column]) -> R:
        converted: list[object] = [*values]
        for position, convert in self._converters:
            converted[position] = convert(converted[position])
        return self._row(*converted)


def _key_reader(*key: str) -> Callable[[object], Key]:
    """Reads a row's key, a tuple however many columns it has."""
    read: Callable[[object], Any] = attrgetter(*key)
    if len(key) > 1:
        return read
    return lambda row: (read(row),)


def _columns(row: type[object]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(row))  # type: ignore[arg-type]  # a dataclass


def _converters(row: type[object]) -> list[tuple[int, Callable[[object], object]]]:
    """Which columns' values must be made the field's type; the others are it already."""
    hints = get_type_hints(row)
    return [
        (position, _maker(hints[name]))
        for position, name in enumerate(_columns(row))
        if hints[name] not in _PLAIN
    ]


def _maker(kind: type[object]) -> Callable[[object], object]:
    # Ids had their length when their row was made; to look again would be half of the time.
    return partial(bytes.__new__, kind) if issubclass(kind, FixedBytes) else kind
