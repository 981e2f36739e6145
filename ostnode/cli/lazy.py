"""A click group whose commands are imported when they are used.

A command that only prints a key must not pay for the HTTP stack: importing everything takes
several times as long as the command itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

import click
from typing_extensions import override


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """`module:attribute` of a click command, and its line in the group's help."""

    path: str
    summary: str


class LazyGroup(click.Group):
    """Knows its commands' names and summaries, imports one when it is called."""

    def __init__(self, *, lazy: Mapping[str, LazyCommand], help: str) -> None:  # noqa: A002
        super().__init__(help=help)
        self._lazy = dict(lazy)

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return None
        module, attribute = lazy.path.split(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{lazy.path} is not a command")
        return command

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in self._lazy.items()])
