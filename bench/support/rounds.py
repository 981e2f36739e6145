"""Figures of interleaved rounds: medians, ratios, and how they are printed."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Figures(dict[str, list[float]]):
    """Every round's figure under its name."""

    def note(self, name: str, value: float) -> None:
        """One more round's."""
        self.setdefault(name, []).append(value)

    def medians(self) -> dict[str, float]:
        """The middle round's of each."""
        return {name: statistics.median(values) for name, values in self.items()}


class Ratio(NamedTuple):
    """A ratio of two medians, called `name` in JSON and `what` to people; `goal` is text."""

    name: str
    what: str
    ours: str
    reference: str
    goal: str = ""


def arguments_parser(doc: str | None) -> argparse.ArgumentParser:
    """Every program takes `--json`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def add_directory(parser: argparse.ArgumentParser) -> None:
    """For programs that write files."""
    parser.add_argument("--dir", type=Path, help="where to write (default: temporary)")


def with_ratios(figures: Figures, ratios: Iterable[Ratio]) -> dict[str, float]:
    """The medians, and the ratios of them."""
    medians = figures.medians()
    return medians | {
        ratio.name: medians[ratio.ours] / medians[ratio.reference] for ratio in ratios
    }


def print_json(figures: dict[str, float]) -> None:
    """For other programs."""
    print(json.dumps(figures))


def shown(figures: Figures, name: str, digits: int = 0) -> str:
    """The median, and how far the rounds lie apart."""
    values = figures[name]
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def print_ratios(figures: Figures, ratios: Iterable[Ratio], digits: int = 0) -> None:
    """A line for each: ours, the reference, the ratio, the goal."""
    print(f"{'':40}{'median (of all rounds)':>30}{'reference':>30}")
    medians = with_ratios(figures, ratios := tuple(ratios))
    for ratio in ratios:
        ours = shown(figures, ratio.ours, digits)
        reference = shown(figures, ratio.reference, digits)
        goal = f"(goal {ratio.goal})" if ratio.goal else ""
        print(f"{ratio.what:40}{ours:>30}{reference:>30}  ratio {medians[ratio.name]:5.2f}  {goal}")


@contextmanager
def served(program: str, *arguments: str) -> Iterator[list[str]]:
    """The program in a process of its own until the block ends; the words of its first line."""
    with subprocess.Popen(
        [sys.executable, program, *arguments], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()
        finally:
            server.kill()
