"""`ostnode sim`: its options, its report, its exit codes."""

from __future__ import annotations

import json

import pytest

from ostnode.sim.cases import Case
from ostnode.sim.running import Outcome
from tests.support.cli import Cli


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """A build that breaks a promise whenever a bucket is killed while there is anything to do."""
    ran: list[Case] = []

    def run(case: Case) -> Outcome:
        ran.append(case)
        kills = [fault for fault in case.plan.faults if fault.kind == "kill"]
        problem = f"bucket {len(ran):08x} has lost its mind" if kills and case.steps else ""
        return Outcome(case, problem, "abcd", 100.0, 0.5, {"read ok": 1}, 1, ("1.0 a", "2.0 b"))

    monkeypatch.setattr("ostnode.cli.sim.run_case", run)
    return ran


def test_nothing_broken_is_exit_0(cli: Cli, broken: list[Case]) -> None:
    told = cli("sim", "--seed", 3, "--seeds", 2, "--faults", "none", "--json")
    assert told.code == 0
    assert (told.json["seed"], told.json["seeds"], told.json["faults"]) == (3, 2, 0)
    assert (told.json["simulated_s"], told.json["simulated_per_second"]) == (200.0, 200.0)
    assert told.json["failed"] == []
    assert [case.plan.seed for case in broken] == [3, 4]
    assert not list(cli.root.glob("ost-sim*"))


def test_a_broken_promise_is_exit_1_with_its_case(cli: Cli, broken: list[Case]) -> None:
    told = cli("sim", "--seed", 1, "--minutes", 5, "--faults", "kill,cut-in-frame", "--buckets", 3)
    assert told.code == 1
    assert "FOUND bucket 00000001 has lost its mind" in told.out
    words = "ostnode sim --seed 1 --minutes 5 --faults 'kill,cut-in-frame' --buckets 3"
    assert words in told.out
    assert "again: ostnode sim --replay ost-sim/seed-1.json" in told.out
    assert (cli.root / "ost-sim/seed-1.txt").read_text().endswith("1.0 a\n2.0 b")
    kinds = {fault.kind for fault in broken[0].plan.faults}
    assert kinds == {"kill", "cut in frame"}
    again = cli("sim", "--replay", "ost-sim/seed-1.json", "--json")
    assert again.code == 1
    assert broken[-1] == broken[0]
    assert again.json["seed"] == 1
    assert again.json["failed"][0]["problem"] == "bucket 00000002 has lost its mind"


def test_what_failed_is_made_small(cli: Cli, broken: list[Case]) -> None:
    told = cli("sim", "--seed", 1, "--minutes", 5, "--minimize", "--json")
    (failed,) = told.json["failed"]
    assert len(failed["faults"]) == len(failed["steps"]) == 1
    assert failed["again"][-1] == "ostnode sim --replay ost-sim/seed-1.min.json"
    small = json.loads((cli.root / "ost-sim/seed-1.min.json").read_text())
    assert [fault[1] for fault in small["faults"]] == ["kill"]


def test_a_broken_build_is_not_run_for_ever(cli: Cli, broken: list[Case]) -> None:
    told = cli("sim", "--seeds", 1000, "--faults", "kill", "--json")
    assert told.code == 1
    assert len(told.json["failed"]) == 16


@pytest.mark.parametrize("kinds", ["fire", "kill,,cut", ""])
def test_unknown_kinds_of_faults_are_a_usage_error(cli: Cli, kinds: str) -> None:
    told = cli("sim", "--faults", kinds)
    assert told.code == 2
    assert "kinds of faults are all, none, or: clock, cut" in told.err
    assert f"not {kinds!r}" in told.err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is no case of format 1"),
        ('{"format":2,"seed":1,"buckets":1,"faults":[],"steps":[]}', "it is no case of format 1"),
        ('{"format":1,"seed":1,"buckets":99,"faults":[],"steps":[]}', "it is no case of format 1"),
        ('{"format":1,"seed":1,"buckets":1,"faults":[[1]],"steps":[]}', "a fault is"),
        (
            '{"format":1,"seed":1,"buckets":1,"faults":[[1,"fire","index",1,"*",0]],"steps":[]}',
            "a fault is",
        ),
        ('{"format":1,"seed":1,"buckets":1,"faults":[],"steps":[[1]]}', "a step is"),
        (
            '{"format":1,"seed":1,"buckets":1,"faults":[],"steps":[[1,1,"dance",0,1]]}',
            "'dance' is not a valid Act",
        ),
        (
            '{"format":1,"seed":1,"buckets":1,"faults":[[1,"kill","bucket7",1,"*",0]],"steps":[]}',
            "there is no bucket7",
        ),
        (
            '{"format":1,"seed":1,"buckets":1,"faults":[],"steps":[[1,99,"read",0,1]]}',
            "there is no actor 99",
        ),
        (
            '{"format":1,"seed":1,"buckets":1,"faults":[],"steps":[[1,0,"read",0,1]]}',
            "does not read",
        ),
    ],
)
def test_a_file_that_is_no_case_is_a_usage_error(cli: Cli, text: str, problem: str) -> None:
    (cli.root / "case.json").write_text(text)
    told = cli("sim", "--replay", "case.json")
    assert told.code == 2
    assert "case.json: " in told.err
    assert problem in told.err
    assert "hint: docs/simulator.md" in told.err


def test_a_file_that_is_not_there_is_a_usage_error(cli: Cli) -> None:
    told = cli("sim", "--replay", "case.json", "--json")
    assert told.code == 2
    assert "case.json: No such file" in told.err
