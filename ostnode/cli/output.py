"""What commands print: aligned lines for people, or one JSON object with --json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

import click

Value = None | bool | int | float | str | Sequence["Value"] | Mapping[str, "Value"]
F = TypeVar("F", bound=Callable[..., object])

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP: Final = 1024


class Output:
    """Where a command's result goes. One per invocation, shared through click's context."""

    def __init__(self) -> None:
        self.as_json = False

    def result(self, data: Mapping[str, Value], text: str | None = None) -> None:
        """Print the result: `data` as JSON, else `text`, else the data as aligned lines."""
        if self.as_json:
            click.echo(json_text(data))
        else:
            click.echo(lines_of(data) if text is None else text)


def _set_json(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001
    ctx.ensure_object(Output).as_json |= value


json_option: Final[Callable[[F], F]] = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_set_json,
    help="Print one JSON object; errors too, on standard error.",
)
pass_output: Final = click.make_pass_decorator(Output, ensure=True)


def lines_of(data: Mapping[str, Value]) -> str:
    """`name  value` lines, values in one column; a list's items stand below each other."""
    rows: list[tuple[str, str]] = []
    for name, value in data.items():
        label = name.replace("_", " ")
        if isinstance(value, Mapping):
            rows += [(f"{label} {inner}", text_of(item)) for inner, item in value.items()]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            items = [text_of(item) for item in value] or ["-"]
            rows += zip([label, *[""] * (len(items) - 1)], items, strict=True)
        else:
            rows.append((label, text_of(value)))
    return table(rows)


def text_of(value: Value) -> str:
    """A scalar as people write it."""
    match value:
        case None | "":
            return "-"
        case True:
            return "yes"
        case False:
            return "no"
        case list():
            return ", ".join(text_of(item) for item in value) or "-"
        case _:
            return str(value)


def printable(text: str) -> str:
    """The text with what a terminal would obey or hide written as escapes: others chose it."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def json_text(data: Value) -> str:
    """One line of JSON; in it such characters are escapes too."""
    text = json.dumps(data, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(data)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart."""
    if not rows:
        return ""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def size_text(size: int) -> str:
    """Bytes as `64.0 MiB (67108864 B)`; below 1 KiB as `17 B`."""
    if size < _STEP:
        return f"{size} B"
    amount, unit = float(size), 0
    while amount >= _STEP and unit < len(_UNITS) - 1:
        amount, unit = amount / _STEP, unit + 1
    return f"{amount:.1f} {_UNITS[unit]} ({size} B)"


def time_text(seconds: int) -> str:
    """A time, in seconds since 1970, as `2026-01-31 12:00:00 UTC`; 0 is never."""
    if seconds == 0:
        return "never"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
