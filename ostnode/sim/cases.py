"""Cases: what a run is made of, from a seed or from a file."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import astuple, dataclass
from typing import Final

from ostnode.sim.faults import Kind
from ostnode.sim.plan import Fault, Plan
from ostnode.sim.schedules import faults_of
from ostnode.sim.workload import (
    ACCOUNTS,
    APP_ACTS,
    DEVICE_ACTS,
    DEVICES_PER_ACCOUNT,
    Step,
    dump_steps,
    load_steps,
    make_steps,
)

FORMAT: Final = 1
BUCKETS: Final = 2
BUCKETS_MAX: Final = 16
SECONDS: Final = 60.0
STEPS_MAX: Final = 100_000


class CaseError(ValueError):
    """A case file that cannot be run: what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A cluster, its faults and its people's steps: the same case, the same run."""

    plan: Plan
    steps: tuple[Step, ...]


def make_case(
    seed: int,
    seconds: float = SECONDS,
    kinds: Collection[Kind] = tuple(Kind),
    buckets: int = BUCKETS,
) -> Case:
    """So much simulated time of work under faults of these kinds."""
    faults = faults_of(seed, kinds, seconds, buckets)
    return Case(Plan(seed=seed, buckets=buckets, faults=faults), make_steps(seed, seconds))


def dump_case(case: Case) -> str:
    """The case as JSON."""
    plan = case.plan
    data = {
        "format": FORMAT,
        "seed": plan.seed,
        "buckets": plan.buckets,
        "faults": [list(astuple(fault)) for fault in plan.faults],
        "steps": dump_steps(case.steps),
    }
    return json.dumps(data)


def load_case(text: str) -> Case:
    """The case of `dump_case`; raises CaseError."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise CaseError(f"it is not JSON: {error}") from None
    match data:
        case {
            "format": 1,
            "seed": int(seed),
            "buckets": int(buckets),
            "faults": list(faults),
            "steps": list(steps),
        } if 0 < buckets <= BUCKETS_MAX and len(steps) <= STEPS_MAX:
            plan = Plan(seed=seed, buckets=buckets, faults=tuple(map(_fault, faults)))
            case = Case(plan, _steps(steps))
            _check(case)
            return case
        case _:
            raise CaseError(f"it is no case of format {FORMAT}")


def _check(case: Case) -> None:
    """Raise CaseError unless everybody that is named is there, and can do what it shall."""
    nodes = {"index", "*", *(f"bucket{number}" for number in range(case.plan.buckets))}
    for fault in case.plan.faults:
        for name in (fault.node, fault.other):
            if name not in nodes or fault.node == "*":
                raise CaseError(f"there is no {name}")
    for step in case.steps:
        if not 0 <= step.actor <= ACCOUNTS * DEVICES_PER_ACCOUNT:
            raise CaseError(f"there is no actor {step.actor}")
        if step.act not in (DEVICE_ACTS if step.actor else APP_ACTS):
            raise CaseError(f"actor {step.actor} does not {step.act}")


def _fault(row: object) -> Fault:
    match row:
        case [
            float() | int() as at_s,
            str(kind),
            str(node),
            float() | int() as for_s,
            str(other),
            float() | int() as amount,
        ] if kind in set(Kind):
            return Fault(float(at_s), kind, node, float(for_s), other, float(amount))
        case _:
            raise CaseError("a fault is [at, kind, node, for, other, amount]")


def _steps(rows: list[object]) -> tuple[Step, ...]:
    try:
        return load_steps(rows)
    except ValueError as error:
        raise CaseError(str(error)) from None
