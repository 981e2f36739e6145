"""Seeded crashes of a bucket at work: power cuts and kills at any disk operation."""

from __future__ import annotations

import pytest

from tests.support.bucketcrash import crash_run
from tests.support.storecrash import BrokenPromiseError

STATES = 40


@pytest.mark.slow
@pytest.mark.parametrize("block", range(3))
def test_b40_b53_what_was_told_is_so_after_any_crash(block: int) -> None:
    crashes = sum(crash_run(seed) for seed in range(block * STATES, (block + 1) * STATES))
    assert crashes > STATES // 2


@pytest.mark.deep
def test_b40_b53_thousands_of_crashes() -> None:
    for seed in range(100_000, 103_000):
        crash_run(seed)


@pytest.mark.slow
def test_a_disk_that_forgets_a_sync_is_noticed() -> None:
    with pytest.raises(BrokenPromiseError):
        _crash_runs(100)


def _crash_runs(states: int) -> None:
    for seed in range(states):
        crash_run(seed, lazy_sync=True)
