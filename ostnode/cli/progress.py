"""How far a transfer is: a bar on a terminal, a line every quarter elsewhere. On standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from ostnode.client.progress import Phase, Progress, ProgressCallback, ignore_progress

PLAIN_STEP_PERCENT: Final = 25
_VERBS: Final = {Phase.HASH: "hashing", Phase.PUSH: "sending", Phase.DOWNLOAD: "fetching"}

Echo = Callable[[str], None]


@contextmanager
def transfer_progress(name: str, *, quiet: bool = False) -> Iterator[ProgressCallback]:
    """A callback that draws the transfer of `name` while the block runs."""
    if quiet:
        yield ignore_progress
    elif sys.stderr.isatty():
        with bars(Console(stderr=True)) as drawn:
            yield bar(drawn, name)
    else:
        yield PlainProgress(name, _echo)


def bars(console: Console) -> Bars:
    """Bars for transfers that may run side by side."""
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=18),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def bar(drawn: Bars, name: str) -> ProgressCallback:
    """A callback that draws one transfer's phases, one after the other, as one bar."""
    task = drawn.add_task(name, total=None)

    def show(progress: Progress) -> None:
        description = f"{_VERBS[progress.phase]} {name}"
        drawn.update(task, description=description, completed=progress.done, total=progress.total)

    return show


class PlainProgress:
    """Says each phase's start and every further quarter of it, as one line each."""

    def __init__(self, name: str, echo: Echo) -> None:
        self._name = name
        self._echo = echo
        self._phase: Phase | None = None
        self._told = 0

    def __call__(self, progress: Progress) -> None:
        """A ProgressCallback."""
        if progress.phase is Phase.HASH and progress.done < progress.total:
            return  # a stream's end is not known, a file's hash takes moments
        percent = 100 * progress.done // progress.total if progress.total else 100
        step = percent - percent % PLAIN_STEP_PERCENT
        if progress.phase is self._phase and step <= self._told:
            return
        self._phase, self._told = progress.phase, step
        self._echo(f"{_VERBS[progress.phase]} {self._name}: {step} %")


def _echo(line: str) -> None:
    click.echo(line, err=True)
