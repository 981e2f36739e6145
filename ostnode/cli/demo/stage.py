"""Where the demo shows what it does: steps as they happen, expectations, a table at the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import click
import trio
from rich.console import Console

from ostnode.cli.output import Value, table
from ostnode.cli.progress import PlainProgress, bar, bars
from ostnode.client import ProgressCallback
from ostnode.errors import NotFoundError

EVENTUALLY_S: Final = 20.0
"""Feeds and outboxes settle within a second; a slow machine gets this long."""
_POLL_S: Final = 0.05
T = TypeVar("T")

ProgressOf = Callable[[str], ProgressCallback]


class UnexpectedError(Exception):
    """Something was not as it must be."""

    def __init__(self, what: str, expected: object, seen: object) -> None:
        super().__init__(f"{what}\n  expected: {expected}\n  seen:     {seen}")


@dataclass(slots=True)
class Step:
    """One step: its title, what it found, and how long it took (seconds)."""

    number: int
    title: str
    facts: list[str] = field(default_factory=list)
    took_s: float = 0.0


class Stage:
    """Prints to standard output; with `quiet` only the final table is asked for, as JSON."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console()
        self.steps: list[Step] = []

    def say(self, line: str) -> None:
        """Print a line."""
        if not self._quiet:
            click.echo(line)

    def fact(self, text: str) -> None:
        """Print something the current step found, and keep it for the table."""
        self.steps[-1].facts.append(text)
        self.say(f"   {text}")

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """The next step, timed."""
        step = Step(len(self.steps) + 1, title)
        self.steps.append(step)
        self.say(f"{step.number}. {title}")
        started = trio.current_time()
        yield
        step.took_s = trio.current_time() - started

    @contextmanager
    def transfers(self) -> Iterator[ProgressOf]:
        """Progress of transfers that may run side by side: bars on a terminal, else lines."""
        if self._console.is_terminal and not self._quiet:
            with bars(self._console) as drawn:
                yield lambda name: bar(drawn, name)
        else:
            yield lambda name: PlainProgress(name, lambda line: self.say(f"   {line}"))

    def table(self) -> str:
        """Every step with its time and its first finding."""
        rows = [
            (str(step.number), step.title, f"{step.took_s:.1f} s", "; ".join(step.facts[:1]))
            for step in self.steps
        ]
        return table([("step", "what", "took", "seen"), *rows])

    def data(self) -> list[Value]:
        """Every step, for programs."""
        return [
            {
                "step": step.number,
                "title": step.title,
                "took_s": round(step.took_s, 3),
                "facts": list(step.facts),
            }
            for step in self.steps
        ]


def expect(what: str, expected: object, seen: object) -> None:
    """Raise UnexpectedError unless the two are equal."""
    if expected != seen:
        raise UnexpectedError(what, expected, seen)


def require(what: str, expected: str, seen: object, *, holds: bool) -> None:
    """Raise UnexpectedError unless a condition, told as `expected`, holds."""
    if not holds:
        raise UnexpectedError(what, expected, seen)


@contextmanager
def refused(what: str) -> Iterator[None]:
    """A block that must end in NotFoundError, the one refusal of every read."""
    try:
        yield
    except NotFoundError:
        return
    raise UnexpectedError(what, "not_found", "no refusal")


async def eventually(what: str, expected: T, probe: Callable[[], Awaitable[T]]) -> None:
    """Ask until the answer is `expected`; raises UnexpectedError after EVENTUALLY_S."""
    seen = await probe()
    with trio.move_on_after(EVENTUALLY_S):
        while seen != expected:
            await trio.sleep(_POLL_S)
            seen = await probe()
    expect(what, expected, seen)
