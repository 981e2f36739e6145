"""Each oracle can fail: builds with one thing wrong are found out, and how soon is told."""

from __future__ import annotations

import time

import pytest

from ostnode.fuzz.cases import Case
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.inprocess import play_in_process
from ostnode.fuzz.making.choosing import Chooser
from ostnode.fuzz.making.material import gather_material
from ostnode.fuzz.playing import Played
from ostnode.fuzz.searching import Limits, Search
from tests.support.fuzzmutants import MUTANTS, Mutant

SEED = 1
CASES_MAX = 3000
pytestmark = pytest.mark.system


class FoundError(Exception):
    """What was looked for came up."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    cast = Cast()
    making = Chooser(SEED, gather_material(cast), mutant.layers)
    mutant.apply(monkeypatch)
    cases = 0

    def play(case: Case) -> Played:
        nonlocal cases
        cases += 1
        played = play_in_process(case, cast)
        if any(mutant.finds in finding.what for finding in played.findings):
            raise FoundError
        return played

    started = time.monotonic()
    limits = Limits(cases_max=CASES_MAX, findings_max=CASES_MAX)
    with pytest.raises(FoundError):
        Search(play, making, seed=SEED).run(limits)
    print(f"{mutant.name}: found after {cases} cases, {time.monotonic() - started:.1f} s")
