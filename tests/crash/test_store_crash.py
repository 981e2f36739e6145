"""Seeded crash states of the store: power cuts and kills anywhere, also during recovery."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.crashstates import Survey, failed_syncs, recoveries, survey, verdict
from tests.support.storecrash import BrokenPromiseError, crash_run

STATES = 60
"""Random runs per block."""
QUICK = Survey(power_cuts=3)
SMALL = Survey(groups=2, power_cuts=4)
DEEP_STATES = 100_000
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_b40_b45_every_place_to_crash_in_two_lives(seed: int) -> None:
    states, cuts, broken = verdict([survey(seed, QUICK)])
    print(f"{states} states from {cuts.total()} places to crash: {dict(cuts)}")
    assert not broken, "\n".join(broken)
    assert states >= 600
    assert min(cuts[what] for what in ("create", "write", "sync", "commit", "truncate")) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_b44_each_sync_fails_once_and_nobody_is_told_what_it_lost(seed: int) -> None:
    states, _, broken = verdict([failed_syncs(seed)])
    print(f"{states} states after failed syncs")
    assert not broken, "\n".join(broken)
    assert states >= 150


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_b40_every_place_to_crash_in_recoveries(seed: int) -> None:
    states, cuts, broken = verdict([recoveries(seed, SMALL)])
    print(f"{states} states from {cuts.total()} places to crash in recoveries")
    assert not broken, "\n".join(broken)
    assert states >= 300


@pytest.mark.slow
@pytest.mark.parametrize("block", range(2))
def test_b40_acknowledged_survives_and_nothing_is_half_there(block: int) -> None:
    crashes = sum(crash_run(seed) for seed in range(block * STATES, (block + 1) * STATES))
    assert crashes > STATES


def test_a_seed_says_everything(tmp_path: Path) -> None:
    """A state that fails is shown again by its name, in another process, with other hashes."""
    program = (
        "from tests.support.crashstates import *\n"
        "from hashlib import sha256\n"
        "digest, seen = sha256(), survey.__globals__['_visit']\n"
        "def visit(state, plan, tally):\n"
        "    parts = [state.name.encode(), repr(state.history.shown[-1]).encode()]\n"
        "    parts += [bytes(inode.durable[4096:]) for inode in state.disk.files.values()]\n"
        "    digest.update(b''.join(parts))\n"
        "survey.__globals__['_visit'] = visit\n"
        "survey(7, Survey(lives=3, groups=4))\n"
        "print(digest.hexdigest())\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashes in ("1", "2")
    }
    assert len(said) == 1


@pytest.mark.deep
def test_b40_a_hundred_thousand_crash_states() -> None:
    states = seed = 0
    while states < DEEP_STATES:
        tallies = [survey(1000 + seed, Survey(lives=3)), failed_syncs(seed), recoveries(seed)]
        found, _, broken = verdict(tallies)
        assert not broken, "\n".join(broken)
        states, seed = states + found, seed + 1
    print(f"{states} states from {seed} seeds")


@pytest.mark.parametrize("mutant", ["lazy_sync", "lazy_names"])
def test_a_store_that_forgets_a_sync_is_caught(mutant: str) -> None:
    with pytest.raises(BrokenPromiseError):
        _crash_runs(200, **{mutant: True})


def _crash_runs(states: int, **mutant: bool) -> None:
    for seed in range(states):
        crash_run(seed, **mutant)
