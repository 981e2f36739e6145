"""Making a list small that shows something: leave out runs of it, long ones first.

After Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def leave_out(items: list[T], takes: Callable[[Sequence[T]], bool]) -> None:
    """Leave out runs of items for as long as what is left is taken."""
    size = len(items)
    while size:
        for start in _starts(items, size):
            rest = items[:start] + items[start + size :]
            if takes(rest):
                items[:] = rest
        size //= 2


def _starts(items: Sequence[T], size: int) -> Iterator[int]:
    """Where runs of this size begin, from the back: what comes last matters least."""
    start = len(items) - size
    while start >= 0:
        yield start
        start -= size
