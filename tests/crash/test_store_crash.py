"""Seeded crash states: power cuts and kills at any disk operation, also during recovery."""

from __future__ import annotations

import pytest

from tests.support.storecrash import BrokenPromiseError, crash_run

STATES = 150


@pytest.mark.slow
@pytest.mark.parametrize("block", range(4))
def test_b40_acknowledged_survives_and_nothing_is_half_there(block: int) -> None:
    crashes = sum(crash_run(seed) for seed in range(block * STATES, (block + 1) * STATES))
    assert crashes > STATES


@pytest.mark.deep
def test_b40_thousands_of_crash_states() -> None:
    for seed in range(100_000, 110_000):
        crash_run(seed)


@pytest.mark.parametrize("mutant", ["lazy_sync", "lazy_names"])
def test_a_store_that_forgets_a_sync_is_caught(mutant: str) -> None:
    with pytest.raises(BrokenPromiseError):
        _crash_runs(200, **{mutant: True})


def _crash_runs(states: int, **mutant: bool) -> None:
    for seed in range(states):
        crash_run(seed, **mutant)
