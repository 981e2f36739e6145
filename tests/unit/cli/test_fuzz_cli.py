"""`ostnode fuzz`: its options, its report, its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostnode.fuzz.cases import Case, Dial, Layer, Pause, dump_case
from ostnode.fuzz.playing import Finding, Played
from tests.support.cli import Cli

QUIET = Case("quiet", Layer.SESSION, (Dial(0), Pause(1.0)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node on which every dialled link is a finding."""

    def play(case: Case, cast: object = None) -> Played:
        dials = any(isinstance(step, Dial) for step in case.steps)
        return Played([Finding("it can be dialled", "by anybody")] if dials else [])

    monkeypatch.setattr("ostnode.cli.fuzz.play_in_process", play)


def test_nothing_found_is_exit_0(cli: Cli, here: Path) -> None:
    found = cli("fuzz", "--cases", 6, "--seed", 2, "--json")
    assert found.code == 0
    assert found.json["cases"] == 6
    assert found.json["target"] == "in-process"
    assert found.json["findings"] == []
    assert not (here / "ost-fuzz").exists()


def test_a_finding_is_exit_1_with_its_reproducer(cli: Cli, here: Path, broken: None) -> None:
    found = cli("fuzz", "--cases", 1, "--minimize", "--json")
    assert found.code == 1
    (told,) = found.json["findings"]
    assert told["what"] == "it can be dialled"
    assert len(told["steps"]) == 1
    assert told["replay"] == f"ostnode fuzz --in-process --replay {told['file']}"
    again = cli(*told["replay"].split()[1:])
    assert again.code == 1
    assert "FOUND it can be dialled by anybody" in again.out


def test_the_report_reads_well(cli: Cli, here: Path, broken: None) -> None:
    found = cli("fuzz", "--cases", 1, "--layer", "session")
    assert found.code == 1
    assert "FOUND it can be dialled\n  by anybody\n  after 1 cases" in found.out
    assert "  session: " in found.out
    assert "again: ostnode fuzz --in-process --replay ost-fuzz/session-" in found.out


def test_a_replay_of_a_quiet_case_is_exit_0(cli: Cli, here: Path) -> None:
    Path("quiet.json").write_text(dump_case(QUIET))
    found = cli("fuzz", "--replay", "quiet.json")
    assert found.code == 0
    assert found.out == (
        "quiet.json: session: quiet\n    link 0: dial the index\n    pause 1 s\n  nothing found\n"
    )


def test_a_replay_can_be_made_small(cli: Cli, here: Path, broken: None) -> None:
    Path("case.json").write_text(dump_case(QUIET))
    found = cli("fuzz", "--replay", "case.json", "--minimize")
    assert found.code == 1
    assert "smaller: case.min.json" in found.out
    assert "pause" not in Path("case.min.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--target", "192.0.2.1:7101"], "not on this machine"),
        (["--target", "nowhere"], "host:port"),
        (["--in-process", "--target", "127.0.0.1:7101"], "exclude each other"),
        (["--layer", "paper"], "paper"),
        (["--replay", "bad.json"], "bad.json: not JSON"),
        (["--target", "127.0.0.1:7101", "--pid", str(1 << 22)], "--pid"),
    ],
)
def test_options_that_do_not_fit_are_exit_2(
    cli: Cli, here: Path, arguments: list[str], told: str
) -> None:
    Path("bad.json").write_text("{")
    found = cli("fuzz", *arguments)
    assert found.code == 2
    assert told in found.err


def test_an_address_where_nobody_listens_is_a_finding(cli: Cli, here: Path) -> None:
    found = cli("fuzz", "--target", "127.0.0.1:1", "--plain", "--cases", 1, "--json")
    assert found.code == 1
    assert {each["what"] for each in found.json["findings"]} == {"the node cannot be reached"}
    assert "--target 127.0.0.1:1 --plain --replay" in found.json["findings"][0]["replay"]
