"""`ostnode fuzz`: hostile peers against a node in this process, or against one that runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import click

from ostnode.addresses import is_loopback
from ostnode.cli.failures import CommandError, ExitCode
from ostnode.cli.fuzztext import case_json, found_json, report_text
from ostnode.cli.output import Output, Value, json_option, pass_output
from ostnode.errors import InvalidArgumentError
from ostnode.fuzz.cases import Case, CaseError, Layer, dump_case
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.corpus import Folder, read_case
from ostnode.fuzz.inprocess import play_in_process
from ostnode.fuzz.live import LiveTarget, Process, play_live
from ostnode.fuzz.making.choosing import Chooser
from ostnode.fuzz.making.material import gather_material
from ostnode.fuzz.searching import Limits, Play, Report, Search, shrink
from ostnode.identity.keys import KeyPair
from ostnode.keyfiles import load_seed
from ostnode.net.tls import TlsNetwork
from ostnode.net.transport import Network, TcpNetwork, split_address

FINDINGS_DIR: Final = Path("ost-fuzz")
SECONDS: Final = 30.0
PROGRESS_S: Final = 5.0
_PATH: Final = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class _Options:
    """What is fuzzed: in this process unless there is an address."""

    address: str | None
    plain: bool
    key: Path | None
    pid: int | None
    patient: bool

    @property
    def words(self) -> str:
        """The options that make a replay meet the same target."""
        if self.address is None:
            return "--in-process"
        return f"--target {self.address}" + " --plain" * self.plain

    def player(self) -> tuple[Play, Cast]:
        """How to play a case, and with whom; raises CommandError and KeyFileError."""
        if self.address is None:
            cast = Cast()
            return partial(play_in_process, cast=cast), cast
        own = None if self.key is None else KeyPair.from_seed(load_seed(self.key))
        cast = Cast(live=True, own=own)
        network: Network = TcpNetwork(loopback_only=False) if self.plain else TlsNetwork()
        target = LiveTarget(
            network,
            self.address,
            cast,
            patient=self.patient,
            process=None if self.pid is None else _process(self.pid),
        )
        return partial(play_live, target=target, cast=cast), cast


@click.command()
@click.option("--in-process", is_flag=True, help="Fuzz this build, in memory (the default).")
@click.option("--target", metavar="HOST:PORT", help="Fuzz a node's peer listener instead.")
@click.option("--plain", is_flag=True, help="The target speaks plain text, not TLS.")
@click.option("--allow-remote", is_flag=True, help="Allow a target that is not on loopback.")
@click.option("--key", type=_PATH, help="Also play as this key; the target may know it.")
@click.option("--pid", type=click.IntRange(1), help="Watch this process's memory and descriptors.")
@click.option("--patient", is_flag=True, help="Wait out stalls and silences on a live target.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same cases.")
@click.option("--seconds", type=click.FloatRange(0), help=f"Stop after so long [{SECONDS:.0f}].")
@click.option("--cases", type=click.IntRange(0), help="Stop after so many cases.")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    type=click.Choice([layer.value for layer in Layer]),
    help="Only these.",
)
@click.option("--corpus", type=_PATH, help="Directory of cases to start from and to add to.")
@click.option("--findings", type=_PATH, default=FINDINGS_DIR, show_default=True)
@click.option("--replay", multiple=True, type=_PATH, help="Only play these case files.")
@click.option("--minimize", is_flag=True, help="Make cases that show something small.")
@json_option
@pass_output
def fuzz(
    output: Output,
    *,
    in_process: bool,
    target: str | None,
    plain: bool,
    allow_remote: bool,
    key: Path | None,
    pid: int | None,
    patient: bool,
    seed: int,
    seconds: float | None,
    cases: int | None,
    layers: Sequence[str],
    corpus: Path | None,
    findings: Path,
    replay: Sequence[Path],
    minimize: bool,
) -> int:
    """Search for frames that a node does not survive or answers wrongly.

    Exit 0 when nothing was found, 1 when something was, 2 for options that do not fit. What is
    found stands in the findings directory, one file each, to be played again with --replay. The
    target is attacked for real: use a node of your own whose data you can lose.
    """
    _check(in_process=in_process, target=target, allow_remote=allow_remote)
    options = _Options(target, plain, key, pid, patient)
    play, cast = options.player()
    if replay:
        return _replay(output, replay, play, options, minimizing=minimize)
    search = Search(
        play,
        Chooser(seed, gather_material(cast), [Layer(layer) for layer in layers]),
        seed=seed,
        corpus=None if corpus is None else Folder(corpus),
        findings=Folder(findings),
        minimizing=minimize,
        tell=_Progress(quiet=output.as_json),
    )
    if cases is None and seconds is None:
        seconds = SECONDS
    try:
        report = search.run(Limits(cases, seconds))
    except CaseError as error:
        raise _bad_case(error) from None
    data: dict[str, Value] = {
        "target": target or "in-process",
        "seed": seed,
        "cases": report.cases,
        "seconds": round(report.seconds, 1),
        "features": report.features,
        "interesting": report.pool,
        "findings": [found_json(found, options.words) for found in report.found],
    }
    output.result(data, report_text(data))
    return ExitCode.FAILED if report.found else ExitCode.OK


def _check(*, in_process: bool, target: str | None, allow_remote: bool) -> None:
    if target is None:
        return
    if in_process:
        raise click.UsageError("--in-process and --target exclude each other")
    try:
        host, _ = split_address(target)
    except InvalidArgumentError as error:
        raise click.UsageError(error.message) from None
    if not (allow_remote or is_loopback(host)):
        raise CommandError(
            f"{target} is not on this machine",
            "fuzz nodes of your own only; if this is one, pass --allow-remote",
            ExitCode.USAGE,
        )


def _replay(
    output: Output, files: Sequence[Path], play: Play, options: _Options, *, minimizing: bool
) -> int:
    played: list[dict[str, Value]] = []
    for file in files:
        try:
            case = read_case(file)
        except CaseError as error:
            raise _bad_case(error) from None
        findings = play(case).findings
        smaller: Case | None = None
        if minimizing and findings:
            smaller = shrink(case, findings[0], play)
            file.with_suffix(".min.json").write_text(dump_case(smaller), "utf-8")
        played.append(case_json(file, case, findings, smaller))
    data: dict[str, Value] = {"target": options.address or "in-process", "replayed": played}
    output.result(data, "\n".join(str(case["text"]) for case in played))
    return ExitCode.FAILED if any(case["findings"] for case in played) else ExitCode.OK


def _process(pid: int) -> Process:
    try:
        return Process(pid)
    except OSError as error:
        hint = "--pid takes the number of a process that runs as this user"
        raise CommandError(f"process {pid}: {error.strerror}", hint, ExitCode.USAGE) from None


def _bad_case(error: CaseError) -> CommandError:
    hint = "docs/fuzzing.md describes the format; another version may have written it"
    return CommandError(str(error), hint, ExitCode.USAGE)


class _Progress:
    """A line on standard error every few seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._next = time.monotonic() + PROGRESS_S

    def __call__(self, report: Report) -> None:
        """Called after every case."""
        if self._quiet or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PROGRESS_S
        rate = report.cases / report.seconds if report.seconds else 0
        click.echo(
            f"{report.seconds:.0f} s: {report.cases} cases ({rate:.0f}/s), "
            f"{report.features} features, {len(report.found)} found",
            err=True,
        )
