"""Seeds: every promise is kept in each, and a seed is a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from ostnode.sim.cases import make_case
from ostnode.sim.faults import Kind
from ostnode.sim.report import Totals, outcome_text
from ostnode.sim.running import run_case

SECONDS = 30.0
SEEDS_PER_TEST = 10
DEEP_SEEDS = 20_000
DEEP_TESTS = 40
FIRST_DEEP = 100_000


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 100, SEEDS_PER_TEST))
def test_every_promise_is_kept_under_faults(first: int) -> None:
    totals = Totals()
    for seed in range(first, first + SEEDS_PER_TEST):
        outcome = run_case(make_case(seed, SECONDS))
        again = f"again: ostnode sim --seed {seed} --minutes {SECONDS / 60:g}"
        assert not outcome.problem, f"{outcome_text(outcome)}\n{again}"
        totals.add(outcome)
    # Something must have been done, and gone wrong, for that to mean anything.
    assert totals.counts["reference made"] > 5 * SEEDS_PER_TEST
    assert totals.counts["read ok"] > SEEDS_PER_TEST
    assert totals.faults > 2 * SEEDS_PER_TEST


@pytest.mark.slow
def test_without_faults_everybody_is_answered() -> None:
    outcome = run_case(make_case(1, 60.0, ()))
    assert not outcome.problem, outcome_text(outcome)
    assert outcome.counts["reference made"] > 10
    assert outcome.counts.get("reference open", 0) <= outcome.counts.get("upload left", 0)
    assert "no answer" not in outcome.counts


@pytest.mark.slow
def test_a_seed_has_the_same_trace_in_two_processes() -> None:
    def told(hash_seed: str) -> dict[str, object]:
        command = [sys.executable, "-m", "ostnode", "sim", "--seed", "7", "--json"]
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, env=env, capture_output=True, check=True, timeout=120)
        return json.loads(done.stdout)

    one, other = told("1"), told("2")
    assert one["trace"] == other["trace"]
    assert one["simulated_s"] == other["simulated_s"] > 60


@pytest.mark.slow
def test_another_seed_has_another_trace() -> None:
    digests = {run_case(make_case(seed, 10.0)).digest for seed in (1, 2, 1)}
    assert len(digests) == 2


@pytest.mark.deep
@pytest.mark.parametrize("part", range(DEEP_TESTS))
def test_twenty_thousand_seeds(part: int, capsys: pytest.CaptureFixture[str]) -> None:
    """One in four without faults that end processes, so that the rest is looked at for longer."""
    count = DEEP_SEEDS // DEEP_TESTS
    first = FIRST_DEEP + part * count
    totals, started = Totals(), time.monotonic()
    calm = [Kind.CUT, Kind.CUT_IN_FRAME, Kind.PARTITION, Kind.ONE_WAY, Kind.CLOCK, Kind.DRIFT]
    for seed in range(first, first + count):
        kinds = calm if seed % 4 == 0 else tuple(Kind)
        totals.add(run_case(make_case(seed, 60.0 if seed % 10 else 300.0, kinds, 1 + seed % 4)))
        if totals.seeds % 100 == 0:
            with capsys.disabled():
                spent = time.monotonic() - started
                print(
                    f"\npart {part}: {totals.seeds} of {count} seeds, {spent:.0f} s, "
                    f"{totals.speed:.0f} simulated seconds a second, {len(totals.failed)} failed"
                )
    assert not totals.failed, "\n\n".join(map(outcome_text, totals.failed))
