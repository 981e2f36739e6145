"""A failure of a real build: kept, made small, and run again from its file."""

from __future__ import annotations

import json

import pytest

from ostnode.sim.minimizing import same_kind
from tests.support.cli import Cli
from tests.support.simmutants import MUTANTS, Mutant

pytestmark = pytest.mark.system


@pytest.mark.parametrize("name", ["reservation not freed", "blob not collected"])
def test_what_a_mutant_breaks_is_made_small_and_breaks_again(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    mutant: Mutant = next(one for one in MUTANTS if one.name == name)
    with monkeypatch.context() as broken:
        mutant.apply(broken)
        told = cli("sim", "--minutes", 0.25, "--seeds", 4, "--minimize", "--json")
        assert told.code == 1
        first = told.json["failed"][0]
        file = f"ost-sim/seed-{first['seed']}"
        whole, small = (
            json.loads((cli.root / f"{file}{end}").read_text()) for end in (".json", ".min.json")
        )
        assert len(small["steps"]) <= len(whole["steps"]) / 2
        again = cli("sim", "--replay", f"{file}.min.json", "--json")
        assert again.code == 1
        assert again.json["failed"][0]["problem"] == first["problem"]
        unshortened = cli("sim", "--replay", f"{file}.json", "--json")
        assert same_kind(unshortened.json["failed"][0]["problem"], first["problem"])
    assert cli("sim", "--replay", f"{file}.min.json").code == 0
