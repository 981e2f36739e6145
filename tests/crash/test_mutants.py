"""Each proof can fail: a store with one thing wrong is caught, the store as it is passes."""

from __future__ import annotations

import pytest

from tests.support.mutants import MUTANTS, PROOFS, Mutant

SEEDS = 3
pytestmark = pytest.mark.system


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.apply.__name__} {m.proof.__name__}")
def test_a_mutant_is_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.apply(monkeypatch)
    states = 0
    for seed in range(SEEDS):
        tally = mutant.proof(seed)
        states += tally.states
        if tally.broken:
            print(f"caught in {len(tally.broken)} of {states} states: {tally.broken[0]}")
            return
    pytest.fail(f"not caught in {states} states")


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
def test_the_store_as_it_is_passes(proof) -> None:
    tally = proof(0)
    print(f"{tally.states} states")
    assert tally.broken == []
