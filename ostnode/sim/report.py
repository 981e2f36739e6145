"""What a simulation tells: seeds, promises broken, and how to see it again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ostnode.sim.plan import Fault
from ostnode.sim.running import Outcome

HISTORY_SHOWN: Final = 25
"""Lines of the history that stand in a report; the file has more."""


@dataclass(slots=True)
class Totals:
    """Sums over the seeds that were run; `digest` is of all their traces' hashes, in order."""

    seeds: int = 0
    steps: int = 0
    faults: int = 0
    simulated_s: float = 0.0
    real_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)
    _digests: hashlib.blake2b = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def add(self, outcome: Outcome) -> None:
        """Take in one seed's outcome."""
        self.seeds += 1
        self.steps += len(outcome.case.steps)
        self.faults += len(outcome.case.plan.faults)
        self.simulated_s += outcome.simulated_s
        self.real_s += outcome.real_s
        self.counts.update(outcome.counts)
        self._digests.update(outcome.digest.encode())
        if outcome.problem:
            self.failed.append(outcome)

    @property
    def digest(self) -> str:
        """A single seed's is its trace's."""
        return self._digests.hexdigest()

    @property
    def speed(self) -> float:
        """Simulated seconds per second of processor time."""
        return self.simulated_s / self.real_s if self.real_s else 0.0


def outcome_json(outcome: Outcome) -> dict[str, str | int | float | list[str]]:
    """A broken promise: what, after how much, with which faults, and what came before."""
    plan = outcome.case.plan
    return {
        "seed": plan.seed,
        "problem": outcome.problem,
        "simulated_s": round(outcome.simulated_s, 1),
        "steps": [step.told() for step in outcome.case.steps],
        "faults": [fault_text(fault) for fault in plan.faults],
        "history": list(outcome.history),
    }


def outcome_text(outcome: Outcome) -> str:
    """The same for people, without what they can look up."""
    case = outcome.case
    lines = [f"FOUND {outcome.problem}"]
    lines.append(f"  seed {case.plan.seed}, {len(case.steps)} steps, faults:")
    lines += [f"    {fault_text(fault)}" for fault in case.plan.faults] or ["    none"]
    lines.append("  the end of the history:")
    lines += [f"    {line}" for line in outcome.history[-HISTORY_SHOWN:]]
    return "\n".join(lines)


def fault_text(fault: Fault) -> str:
    """A fault on one line."""
    words = [f"{fault.at_s:.3f} s: {fault.kind} {fault.node}"]
    if fault.other != "*":
        words.append(f"and {fault.other}")
    if fault.for_s:
        words.append(f"for {fault.for_s:g} s")
    if fault.amount:
        words.append(f"({fault.amount:g})")
    return " ".join(words)


def counts_text(counts: Mapping[str, int]) -> list[str]:
    """What was done how often, without who did it."""
    return [f"{count} × {what}" for what, count in sorted(counts.items())]
