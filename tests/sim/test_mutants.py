"""The simulator can fail: builds with one thing wrong are found, and in how many seeds is told."""

from __future__ import annotations

import time

import pytest

from ostnode.sim.cases import make_case
from ostnode.sim.running import run_case
from tests.support.simmutants import MUTANTS, Mutant

pytestmark = pytest.mark.system


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mutant.apply(monkeypatch)
    problems: list[str] = []
    started = time.monotonic()
    for seed in range(mutant.seeds):
        problem = run_case(make_case(seed)).problem
        if problem:
            problems.append(problem)
    with capsys.disabled():
        share = f"{len(problems)} of {mutant.seeds} seeds, {time.monotonic() - started:.0f} s"
        print(f"\n{mutant.name:40} {share:22} {min(problems, default='not found')[:100]}")
    assert problems
    # What is wrong must be wrong in the way it is meant: not because the code it is in has changed.
    assert not [problem for problem in problems if "TypeError" in problem]
