"""The search: its corpus, its findings, its limits, and that it repeats itself."""

from __future__ import annotations

from pathlib import Path

from ostnode.fuzz.cases import Case, Dial, Layer, Pause, dump_case
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.corpus import Folder, read_case
from ostnode.fuzz.inprocess import play_in_process
from ostnode.fuzz.making.choosing import Chooser
from ostnode.fuzz.making.material import gather_material
from ostnode.fuzz.playing import Finding, Played
from ostnode.fuzz.searching import Limits, Search

LIMITS = Limits(cases_max=8)


class Counting:
    """Makes cases that pause, each longer than the one before."""

    def case(self, number: int, pool: list[Case]) -> Case:
        return Case(f"case {number}", Layer.BYTES, (Dial(0), Pause(float(number))))


def longest(case: Case) -> float:
    return max((step.seconds for step in case.steps if isinstance(step, Pause)), default=0.0)


def play(case: Case) -> Played:
    """Every second case shows something new, and from five seconds on something is wrong."""
    seconds = longest(case)
    findings = [Finding("it sleeps", f"{seconds} s")] if seconds >= 5 else []
    return Played(findings, {f"{seconds // 2}"})


def test_what_shows_something_new_is_kept(tmp_path: Path) -> None:
    corpus = Folder(tmp_path / "corpus")
    report = Search(play, Counting(), seed=1, corpus=corpus).run(LIMITS)
    assert (report.cases, report.pool, report.features) == (8, 4, 4)
    assert {longest(case) for case in corpus.load()} == {0.0, 2.0, 4.0, 6.0}
    again = Search(play, Counting(), seed=1, corpus=corpus).run(Limits(cases_max=0))
    assert (again.cases, again.features) == (4, 4)


def test_a_finding_is_told_once_with_its_reproducer(tmp_path: Path) -> None:
    findings = Folder(tmp_path / "found")
    (found,) = Search(play, Counting(), seed=1, findings=findings).run(LIMITS).found
    assert (found.finding.what, found.number) == ("it sleeps", 6)
    assert found.file is not None
    assert read_case(found.file) == found.case
    assert list(findings.path.iterdir()) == [found.file]


def test_a_finding_can_be_made_small(tmp_path: Path) -> None:
    search = Search(play, Counting(), seed=1, findings=Folder(tmp_path), minimizing=True)
    (found,) = search.run(LIMITS).found
    assert found.case.steps == (Pause(5.0),)


def test_the_case_at_hand_outlives_the_process(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "found")
    case = Counting().case(3, [])
    folder.begin(case)
    assert (folder.path / "running.json").read_text() == dump_case(case)
    assert list(folder.load()) == []
    folder.end()
    assert not folder.path.exists()


def test_it_stops_when_enough_was_found() -> None:
    def broken(case: Case) -> Played:
        return Played([Finding(case.name)])

    report = Search(broken, Counting(), seed=1).run(Limits(cases_max=100, findings_max=3))
    assert len(report.found) == 3


def test_the_same_seed_sees_the_same() -> None:
    cast = Cast()
    material = gather_material(cast)

    def once() -> tuple[int, int, list[str]]:
        seen: list[str] = []

        def noting(case: Case) -> Played:
            played = play_in_process(case, cast)
            seen.append(f"{case.digest} {sorted(played.features)} {played.findings}")
            return played

        report = Search(noting, Chooser(9, material), seed=9).run(Limits(cases_max=16))
        return report.features, report.pool, seen

    assert once() == once()
