"""Making a case small that shows something: fewer steps, then fewer bytes (delta debugging).

After Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from ostnode.fuzz.cases import Case, Pause, Send, Step

T = TypeVar("T")
TRIES_MAX: Final = 400


class _Budget:
    """Asks whether a smaller case still shows it, TRIES_MAX times at most."""

    def __init__(self, case: Case, shows: Callable[[Case], bool]) -> None:
        self.case = case
        self._shows = shows
        self._left = TRIES_MAX

    def takes(self, steps: Sequence[Step]) -> bool:
        """Whether these steps still show it; if so they are the case from here on."""
        if self._left == 0:
            return False
        self._left -= 1
        smaller = replace(self.case, steps=tuple(steps))
        if not self._shows(smaller):
            return False
        self.case = smaller
        return True


def minimize(case: Case, shows: Callable[[Case], bool]) -> Case:
    """A smaller case that `shows` says yes to; the case itself when there is none."""
    budget = _Budget(case, shows)
    _reduce(list(case.steps), budget.takes)
    for place in range(len(budget.case.steps)):
        step = budget.case.steps[place]
        if isinstance(step, Send):
            _shrink_send(budget, place)
        elif isinstance(step, Pause) and step.seconds:
            _put(budget, place, Pause(0.0))
    _reduce(list(budget.case.steps), budget.takes)
    return budget.case


def _put(budget: _Budget, place: int, step: Step) -> bool:
    steps = list(budget.case.steps)
    steps[place] = step
    return budget.takes(steps)


def _shrink_send(budget: _Budget, place: int) -> None:
    for changes in ({"cuts": (), "gap": 0.0}, {"zeros": 0}):
        step = _send(budget, place)
        smaller = replace(step, **changes)
        if smaller != step:
            _put(budget, place, smaller)
    while (step := _send(budget, place)).times > 1:
        if not _put(budget, place, replace(step, times=step.times // 2)):
            break

    def takes(data: Sequence[int]) -> bool:
        return _put(budget, place, replace(_send(budget, place), data=bytes(data)))

    _reduce(list(_send(budget, place).data), takes)


def _send(budget: _Budget, place: int) -> Send:
    step = budget.case.steps[place]
    assert isinstance(step, Send)
    return step


def _reduce(items: list[T], takes: Callable[[Sequence[T]], bool]) -> None:
    """Leave out runs of items, long ones first, for as long as what is left is taken."""
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
