"""Small changes to cases that were interesting: a byte, a step, an ending."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from ostnode.fuzz.cases import (
    SEND_BYTES_MAX,
    STEPS_MAX,
    Case,
    Deaf,
    Finish,
    Greet,
    Listen,
    Pause,
    Prove,
    Reset,
    Send,
    Step,
)
from ostnode.fuzz.cast import PEERS
from ostnode.fuzz.making.bytewise import scramble

_CHANGES_MAX = 4
_DATA_BYTES_MAX = 200_000


def mutate(rng: Random, case: Case, pool: Sequence[Case]) -> Case:
    """The case with up to four changes; `pool` lends its steps."""
    steps = list(case.steps)
    for _ in range(rng.randint(1, _CHANGES_MAX)):
        rng.choice(_CHANGES)(rng, steps, pool)
    name = case.name if case.name.endswith(", changed") else f"{case.name}, changed"
    return Case(name, case.layer, tuple(steps[:STEPS_MAX]))


def _bytes(rng: Random, steps: list[Step], _pool: Sequence[Case]) -> None:
    places = [at for at, step in enumerate(steps) if isinstance(step, Send) and step.data]
    if not places:
        return
    at = rng.choice(places)
    step = steps[at]
    assert isinstance(step, Send)
    data = bytearray(step.data)
    scramble(rng, data)
    steps[at] = replace(step, data=bytes(data[:_DATA_BYTES_MAX]))


def _pieces(rng: Random, steps: list[Step], _pool: Sequence[Case]) -> None:
    places = [at for at, step in enumerate(steps) if isinstance(step, Send) and len(step.data) > 1]
    if not places:
        return
    at = rng.choice(places)
    step = steps[at]
    assert isinstance(step, Send)
    cuts = tuple(sorted(rng.sample(range(1, len(step.data)), min(4, len(step.data) - 1))))
    times = rng.choice((1, 1, 2, 40))
    if (len(step.data) + step.zeros) * times > SEND_BYTES_MAX // 16:
        times = 1
    steps[at] = replace(step, cuts=cuts, gap=rng.choice((0.0, 0.0, 1.0, 6.0)), times=times)


def _drop(rng: Random, steps: list[Step], _pool: Sequence[Case]) -> None:
    if len(steps) > 1:
        del steps[rng.randrange(len(steps))]


def _twice(rng: Random, steps: list[Step], _pool: Sequence[Case]) -> None:
    if steps:
        at = rng.randrange(len(steps))
        steps.insert(at, steps[at])


def _swap(rng: Random, steps: list[Step], _pool: Sequence[Case]) -> None:
    if len(steps) > 1:
        at = rng.randrange(len(steps) - 1)
        steps[at], steps[at + 1] = steps[at + 1], steps[at]


def _insert(rng: Random, steps: list[Step], _pool: Sequence[Case]) -> None:
    link = rng.choice((0, 0, 0, 1))
    more: tuple[Step, ...] = (
        Pause(rng.choice((0.1, 1.0, 16.0, 35.0))),
        Deaf(link),
        Listen(link),
        Finish(link),
        Reset(link),
    )
    steps.insert(rng.randrange(len(steps) + 1), rng.choice(more))


def _borrow(rng: Random, steps: list[Step], pool: Sequence[Case]) -> None:
    """A run of another case's steps."""
    other = rng.choice(pool).steps
    if other:
        start = rng.randrange(len(other))
        at = rng.randrange(len(steps) + 1)
        steps[at:at] = other[start : start + rng.randint(1, 6)]


def _recast(rng: Random, steps: list[Step], _pool: Sequence[Case]) -> None:
    """Somebody else in the same part."""
    who = rng.choice(PEERS)
    for at, step in enumerate(steps):
        if isinstance(step, Greet | Prove) and step.link == 0:
            steps[at] = replace(step, who=who)


_CHANGES = (_bytes, _bytes, _bytes, _pieces, _drop, _twice, _swap, _insert, _borrow, _recast)
