"""What is wrong with a config: every mistake with its key, the problem and a hint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import override

from ostnode.config.values import BadValueError

Location = Sequence[int | str]


@dataclass(frozen=True, slots=True)
class Mistake:
    """`key` is the key's path, like `bucket[0].http`; empty for the file as a whole."""

    key: str
    problem: str
    hint: str

    @override
    def __str__(self) -> str:
        front = f"{self.key}: " if self.key else ""
        return f"{front}{self.problem} (hint: {self.hint})"


class ConfigError(Exception):
    """A config that cannot be used; `mistakes` holds all of them, in the file's order."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = tuple(mistakes)


_TABLES_HINT: Final = "config/index.toml and config/bucket.toml show every key"
_HINTS: Final = {
    "missing": f"add it; {_TABLES_HINT}",
    "int_parsing": "write a whole number",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "float_parsing": "write a number",
    "float_type": "write a number",
    "bool_parsing": "write true or false",
    "bool_type": "write true or false",
    "greater_than": "raise it",
    "greater_than_equal": "raise it",
    "less_than_equal": "lower it",
    "too_short": "name at least one",
    "too_long": "shorten the list",
}
_PROBLEMS: Final = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "tuple_type": "must be a list",
    "model_type": "must be a table",
}


def key_text(location: Location) -> str:
    """`("bucket", 0, "http")` as `bucket[0].http`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def mistakes_of(error: ValidationError, tables: dict[str, type[BaseModel]]) -> list[Mistake]:
    """Pydantic's findings in our words; `tables` maps a table's name ("": the top) to its model."""
    return [_mistake(details, tables) for details in error.errors(include_url=False)]


def _mistake(details: ErrorDetails, tables: dict[str, type[BaseModel]]) -> Mistake:
    location, kind = details["loc"], details["type"]
    key = key_text(location)
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, BadValueError):
        return Mistake(key, cause.problem, cause.hint)
    problem = _PROBLEMS.get(kind, details["msg"].removeprefix("Input ").lower())
    if kind == "extra_forbidden":
        return Mistake(key, problem, _known_keys_hint(location, tables))
    if kind == "literal_error":
        return Mistake(key, problem, f"write one of {details['ctx']['expected']}")
    if kind in {"tuple_type", "model_type"}:
        return Mistake(key, problem, _shape_hint(location))
    return Mistake(key, problem, _HINTS.get(kind, _TABLES_HINT))


def _known_keys_hint(location: Location, tables: dict[str, type[BaseModel]]) -> str:
    table = str(location[0]) if len(location) > 1 else ""
    known = sorted(tables[table].model_fields)
    close = get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"


def _shape_hint(location: Location) -> str:
    table = len(location) == 1 or isinstance(location[-1], int)
    if table and location[0] == "bucket":
        return "write [[bucket]], with two brackets, once for each bucket"
    if table:
        return f"write [{location[0]}] on a line of its own"
    return 'write a list, like ["…", "…"]'
