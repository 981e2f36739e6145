"""The fuzzer against this build: nothing may be found, in the saved cases and in new ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostnode.fuzz.cast import Cast
from ostnode.fuzz.corpus import Folder, read_case
from ostnode.fuzz.inprocess import play_in_process
from ostnode.fuzz.making.choosing import Chooser
from ostnode.fuzz.making.material import gather_material
from ostnode.fuzz.searching import Limits, Report, Search

CORPUS = Path(__file__).parents[1] / "corpus"
CASES = 250
DEEP_CASES = 20_000


def search(seed: int, limits: Limits, corpus: Path | None = None) -> Report:
    cast = Cast()
    making = Chooser(seed, gather_material(cast))
    folder = None if corpus is None else Folder(corpus)
    return Search(lambda case: play_in_process(case, cast), making, seed=seed, corpus=folder).run(
        limits
    )


@pytest.mark.slow
def test_b47_the_saved_cases_find_nothing() -> None:
    files = sorted(CORPUS.glob("*.json"))
    assert len(files) > 20
    found = {file.name: play_in_process(read_case(file)).findings for file in files}
    assert {name: findings for name, findings in found.items() if findings} == {}


@pytest.mark.slow
def test_b47_new_cases_find_nothing() -> None:
    report = search(20, Limits(cases_max=CASES))
    assert report.found == []
    # Were links refused at once, hardly anything would be seen.
    assert report.features > 100


@pytest.mark.deep
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_b47_very_many_cases_find_nothing(seed: int, tmp_path: Path) -> None:
    for file in CORPUS.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    report = search(seed, Limits(cases_max=DEEP_CASES, seconds_max=600), tmp_path)
    print(f"{report.cases} cases, {report.features} features in {report.seconds:.0f} s")
    assert report.found == []
