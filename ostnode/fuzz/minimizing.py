"""Making a case small that shows something: fewer steps, then fewer bytes (delta debugging)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ostnode.fuzz.cases import Case, Pause, Send, Step
from ostnode.shrinking import leave_out

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
    leave_out(list(case.steps), budget.takes)
    for place in range(len(budget.case.steps)):
        step = budget.case.steps[place]
        if isinstance(step, Send):
            _shrink_send(budget, place)
        elif isinstance(step, Pause) and step.seconds:
            _put(budget, place, Pause(0.0))
    leave_out(list(budget.case.steps), budget.takes)
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

    leave_out(list(_send(budget, place).data), takes)


def _send(budget: _Budget, place: int) -> Send:
    step = budget.case.steps[place]
    assert isinstance(step, Send)
    return step
