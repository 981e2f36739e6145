"""`ostnode sim`: a whole cluster of this build in virtual time, under seeded faults."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from ostnode.cli.failures import CommandError, ExitCode
from ostnode.cli.output import Output, Value, json_option, lines_of, pass_output
from ostnode.sim.cases import BUCKETS, BUCKETS_MAX, Case, CaseError, dump_case, load_case, make_case
from ostnode.sim.faults import Kind
from ostnode.sim.minimizing import minimize as make_small
from ostnode.sim.report import Totals, outcome_json, outcome_text
from ostnode.sim.running import Outcome, run_case

FINDINGS_DIR: Final = Path("ost-sim")
PROGRESS_S: Final = 5.0
FAILED_MAX: Final = 16
"""A build that fails more seeds is broken enough to be mended first."""
_PATH: Final = click.Path(path_type=Path)
_ALL: Final = "all"
_NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class _Run:
    """What the seeds are run with; `words` repeat it."""

    minutes: float
    faults: str
    buckets: int

    def case(self, seed: int) -> Case:
        """The seed's case."""
        return make_case(seed, 60 * self.minutes, _kinds(self.faults), self.buckets)

    def words(self, seed: int) -> str:
        """The command that runs one seed again."""
        words = f"ostnode sim --seed {seed} --minutes {self.minutes:g} --faults '{self.faults}'"
        return words + f" --buckets {self.buckets}" * (self.buckets != BUCKETS)


@click.command()
@click.option("--seed", type=int, default=0, show_default=True, help="The first seed.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Simulated minutes of work under faults, for each seed.",
)
@click.option(
    "--faults",
    default=_ALL,
    show_default=True,
    metavar="KINDS",
    help="Kinds of faults, with commas in between; or all, or none.",
)
@click.option("--buckets", type=click.IntRange(1, BUCKETS_MAX), default=BUCKETS, show_default=True)
@click.option("--findings", type=_PATH, default=FINDINGS_DIR, show_default=True)
@click.option("--minimize", is_flag=True, help="Make what breaks a promise small.")
@click.option("--replay", multiple=True, type=_PATH, help="Only run these case files.")
@json_option
@pass_output
def sim(
    output: Output,
    *,
    seed: int,
    seeds: int,
    minutes: float,
    faults: str,
    buckets: int,
    findings: Path,
    minimize: bool,
    replay: Sequence[Path],
) -> int:
    """Run index, buckets, users and app of this build in virtual time, under seeded faults.

    Exit 0 when every promise was kept, 1 when one was broken, 2 for options or files that do not
    fit. What failed stands in the findings directory, one file for each seed, to be run again with
    --replay. Kinds of faults: see docs/simulator.md.
    """
    run = _Run(minutes, faults, buckets)
    totals = Totals()
    progress = _Progress(totals, quiet=output.as_json)
    failures = _Failures(run, findings, progress, minimizing=minimize)
    first: int | None = None
    for case, file in _cases(run, range(seed, seed + seeds), replay):
        first = case.plan.seed if first is None else first
        outcome = run_case(case)
        totals.add(outcome)
        progress.tell()
        if outcome.problem:
            failures.take(outcome, file)
        if len(totals.failed) == FAILED_MAX:
            break
    data = _totals_json(totals, seed if first is None else first, failures.told)
    summary = lines_of({**data, "failed": len(failures.told)})
    output.result(data, "\n\n".join([*failures.texts, summary]))
    return ExitCode.FAILED if totals.failed else ExitCode.OK


def _cases(
    run: _Run, seeds: Iterable[int], replay: Sequence[Path]
) -> Iterator[tuple[Case, Path | None]]:
    """What to run, made when its turn comes, and the file it is from."""
    _kinds(run.faults)
    for file in replay:
        yield _read(file), file
    for seed in () if replay else seeds:
        yield run.case(seed), None


class _Failures:
    """Seeds that broke a promise: kept as files, made small, told."""

    def __init__(self, run: _Run, findings: Path, progress: _Progress, *, minimizing: bool) -> None:
        self._run, self._findings, self._progress = run, findings, progress
        self._minimizing = minimizing
        self.told: list[dict[str, Value]] = []
        self.texts: list[str] = []

    def take(self, outcome: Outcome, file: Path | None) -> None:
        """Keep it; `file` is where it came from."""
        seed, again = outcome.case.plan.seed, list[str]()
        if file is None:
            file = self._findings / f"seed-{seed}.json"
            again += [self._run.words(seed), _keep(file, outcome)]
        else:
            again.append(_replay_words(file))
        if self._minimizing:
            outcome = make_small(outcome, run_case, self._progress.smaller)
            again.append(_keep(file.with_suffix(".min.json"), outcome))
        self.told.append({**outcome_json(outcome), "again": again})
        self.texts.append("\n".join([outcome_text(outcome), *(f"  again: {one}" for one in again)]))


def _totals_json(totals: Totals, seed: int, told: list[dict[str, Value]]) -> dict[str, Value]:
    return {
        "seed": seed,
        "seeds": totals.seeds,
        "steps": totals.steps,
        "faults": totals.faults,
        "simulated_s": round(totals.simulated_s, 1),
        "processor_s": round(totals.real_s, 1),
        "simulated_per_second": round(totals.speed, 1),
        "trace": totals.digest,
        "failed": told,
    }


def _kinds(faults: str) -> Collection[Kind]:
    if faults == _ALL:
        return tuple(Kind)
    words = [] if faults == _NONE else [word.strip() for word in faults.split(",")]
    try:
        return [Kind(word.replace("-", " ")) for word in words]
    except ValueError:
        raise click.UsageError(
            f"kinds of faults are all, none, or: {', '.join(sorted(Kind))}; not {faults!r}"
        ) from None


def _read(file: Path) -> Case:
    try:
        return load_case(file.read_text("utf-8"))
    except OSError as error:
        hint = "failed seeds are kept under --findings"
        raise CommandError(f"{file}: {error.strerror}", hint, ExitCode.USAGE) from None
    except (CaseError, UnicodeDecodeError) as error:
        hint = "docs/simulator.md describes the format; another version may have written it"
        raise CommandError(f"{file}: {error}", hint, ExitCode.USAGE) from None


def _keep(file: Path, outcome: Outcome) -> str:
    """Write the case down; the command that runs it again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dump_case(outcome.case), "utf-8")
    file.with_suffix(".txt").write_text("\n".join([outcome.problem, *outcome.history]), "utf-8")
    return _replay_words(file)


def _replay_words(file: Path) -> str:
    return f"ostnode sim --replay {file}"


class _Progress:
    """A line on standard error every few seconds."""

    def __init__(self, totals: Totals, *, quiet: bool) -> None:
        self._totals, self._quiet = totals, quiet
        self._next = time.monotonic() + PROGRESS_S

    def tell(self) -> None:
        """Called after every seed."""
        totals = self._totals
        self._say(
            f"{totals.seeds} seeds: {totals.simulated_s / 3600:.1f} simulated hours, "
            f"{totals.speed:.0f} times as fast as time, {len(totals.failed)} failed"
        )

    def smaller(self, outcome: Outcome) -> None:
        """Called for every smaller case."""
        case = outcome.case
        self._say(f"smaller: {len(case.plan.faults)} faults, {len(case.steps)} steps")

    def _say(self, line: str) -> None:
        if self._quiet or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PROGRESS_S
        click.echo(line, err=True)
