"""The search: case after case, keeping those that show something new, until told to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from ostnode.fuzz.cases import Case
from ostnode.fuzz.corpus import Folder
from ostnode.fuzz.minimizing import minimize
from ostnode.fuzz.playing import Finding, Played

POOL_MAX: Final = 4_096
FINDINGS_MAX: Final = 32
"""Distinct ones; a node with more is broken enough to be mended first."""

Play = Callable[[Case], Played]


class Making(Protocol):
    """Where new cases come from."""

    def case(self, number: int, pool: list[Case]) -> Case:
        """Case number so and so; `pool` are those that were interesting."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: after so many made cases or seconds, or once so much was found."""

    cases_max: int | None = None
    seconds_max: float | None = None
    findings_max: int = FINDINGS_MAX


@dataclass(frozen=True, slots=True)
class Found:
    """Something wrong, the case that shows it, and when it came up."""

    finding: Finding
    case: Case
    number: int
    after_s: float
    file: Path | None = None


@dataclass(slots=True)
class Report:
    """What a search did. Everything but the seconds follows from the seed."""

    seed: int
    cases: int = 0
    seconds: float = 0.0
    features: int = 0
    pool: int = 0
    found: list[Found] = field(default_factory=list)


class Search:
    """Runs cases through `play`; `corpus` gives and takes cases, `findings` takes reproducers."""

    def __init__(
        self,
        play: Play,
        making: Making,
        *,
        seed: int,
        corpus: Folder | None = None,
        findings: Folder | None = None,
        minimizing: bool = False,
        tell: Callable[[Report], None] = lambda _report: None,
    ) -> None:
        self._play, self._making = play, making
        self._corpus, self._findings = corpus, findings
        self._minimizing, self._tell = minimizing, tell
        self._pool: list[Case] = []
        self._features: set[str] = set()
        self._started = 0.0
        self.report = Report(seed)

    def run(self, limits: Limits) -> Report:
        """Play the corpus, then cases that are made, until a limit is met."""
        self._started = time.monotonic()
        try:
            for case in () if self._corpus is None else self._corpus.load():
                self._take(case, known=True)
            made = 0
            while not self._done(limits, made):
                self._take(self._making.case(made, self._pool), known=False)
                made += 1
        finally:
            if self._findings is not None:
                self._findings.end()
        return self.report

    def _done(self, limits: Limits, made: int) -> bool:
        if limits.cases_max is not None and made >= limits.cases_max:
            return True
        if limits.seconds_max is not None and self._elapsed() >= limits.seconds_max:
            return True
        return len(self.report.found) >= limits.findings_max

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _take(self, case: Case, *, known: bool) -> None:
        if self._findings is not None:
            self._findings.begin(case)
        played = self._play(case)
        report = self.report
        report.cases += 1
        report.seconds = self._elapsed()
        if not played.features <= self._features:
            self._features |= played.features
            if len(self._pool) < POOL_MAX:
                self._pool.append(case)
            if self._corpus is not None and not known:
                self._corpus.save(case)
        report.features, report.pool = len(self._features), len(self._pool)
        self._note(case, played.findings)
        self._tell(report)

    def _note(self, case: Case, findings: Iterable[Finding]) -> None:
        known = {found.finding.what for found in self.report.found}
        for finding in findings:
            if finding.what in known:
                continue
            known.add(finding.what)
            number, after_s = self.report.cases, self._elapsed()
            shown = shrink(case, finding, self._play) if self._minimizing else case
            file = None if self._findings is None else self._findings.save(shown)
            self.report.found.append(Found(finding, shown, number, after_s, file))


def shrink(case: Case, finding: Finding, play: Play) -> Case:
    """The smallest case found that shows the same."""

    def shows(smaller: Case) -> bool:
        return any(each.what == finding.what for each in play(smaller).findings)

    return minimize(case, shows)
