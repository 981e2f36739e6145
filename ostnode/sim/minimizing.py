"""Making a case small that breaks a promise: fewer faults, then fewer steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ostnode.shrinking import leave_out
from ostnode.sim.cases import Case
from ostnode.sim.plan import Fault
from ostnode.sim.running import Outcome
from ostnode.sim.workload import Step

TRIES_MAX: Final = 300
_NAMES: Final = re.compile(r"[0-9a-f]{8,}|\d+")


def same_kind(one: str, other: str) -> bool:
    """Whether two problems differ in names and numbers alone."""
    return _NAMES.sub("#", one) == _NAMES.sub("#", other)


def minimize(
    outcome: Outcome,
    run: Callable[[Case], Outcome],
    tell: Callable[[Outcome], None] = lambda _outcome: None,
) -> Outcome:
    """The outcome of a smaller case with the same kind of problem; the same one if there is none.

    `tell` hears of every case that is smaller than the one before.
    """
    budget = _Budget(outcome, run, tell)
    for _ in range(2):  # without some steps, some faults are not needed any more
        leave_out(list(budget.best.case.plan.faults), budget.takes_faults)
        leave_out(list(budget.best.case.steps), budget.takes_steps)
    return budget.best


class _Budget:
    """Asks whether a smaller case still shows it, TRIES_MAX times at most."""

    def __init__(
        self, outcome: Outcome, run: Callable[[Case], Outcome], tell: Callable[[Outcome], None]
    ) -> None:
        self.best = outcome
        self._run, self._tell = run, tell
        self._left = TRIES_MAX

    def takes_faults(self, faults: Sequence[Fault]) -> bool:
        """Whether these faults alone still show it."""
        plan = replace(self.best.case.plan, faults=tuple(faults))
        return self._takes(replace(self.best.case, plan=plan))

    def takes_steps(self, steps: Sequence[Step]) -> bool:
        """Whether these steps alone still show it."""
        return self._takes(replace(self.best.case, steps=tuple(steps)))

    def _takes(self, case: Case) -> bool:
        if self._left == 0:
            return False
        self._left -= 1
        outcome = self._run(case)
        if not same_kind(outcome.problem, self.best.problem):
            return False
        self.best = outcome
        self._tell(outcome)
        return True
