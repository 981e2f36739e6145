"""The demo's stage and its processes, without running any."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from ostnode.cli.demo.processes import lay_out
from ostnode.cli.demo.stage import (
    EVENTUALLY_S,
    Stage,
    UnexpectedError,
    eventually,
    expect,
    refused,
    require,
)
from ostnode.client import Phase, Progress
from ostnode.config import load_config
from ostnode.errors import NotFoundError
from ostnode.node.ports import free_addresses


def test_what_was_expected_and_seen_is_told() -> None:
    expect("status", 404, 404)
    with pytest.raises(UnexpectedError) as error:
        expect("status", 404, 200)
    assert str(error.value) == "status\n  expected: 404\n  seen:     200"
    require("bytes", "few", 1, holds=True)
    with pytest.raises(UnexpectedError, match="expected: few"):
        require("bytes", "few", 10, holds=False)


def test_a_read_that_is_not_refused_is_unexpected() -> None:
    with refused("a read"):
        raise NotFoundError
    with pytest.raises(UnexpectedError, match="no refusal"), refused("a read"):
        pass


async def test_eventually_waits_and_gives_up(autojump_clock) -> None:
    started = trio.current_time()

    async def seconds() -> int:
        await trio.lowlevel.checkpoint()
        return int(trio.current_time() - started)

    await eventually("seconds", 3, seconds)
    assert trio.current_time() - started == pytest.approx(3, abs=0.1)
    with pytest.raises(UnexpectedError, match="expected: -1"):
        await eventually("seconds", -1, seconds)
    assert trio.current_time() - started == pytest.approx(3 + EVENTUALLY_S, abs=0.2)


async def test_steps_are_numbered_timed_and_listed(autojump_clock, capsys) -> None:
    stage = Stage()
    for title in ("first", "second"):
        with stage.step(title):
            await trio.sleep(1.5)
            stage.fact(f"fact of the {title}")
    assert capsys.readouterr().out.splitlines() == [
        "1. first",
        "   fact of the first",
        "2. second",
        "   fact of the second",
    ]
    row = " ".join(stage.table().splitlines()[2].split())
    assert row == "2 second 1.5 s fact of the second"
    assert stage.data()[0] == {
        "step": 1,
        "title": "first",
        "took_s": 1.5,
        "facts": ["fact of the first"],
    }


def test_transfers_are_plain_lines_without_a_terminal(capsys) -> None:
    with Stage().transfers() as progress:
        progress("cat.png")(Progress(Phase.PUSH, 1, 1))
    assert capsys.readouterr().out == "   sending cat.png: 100 %\n"


def test_a_quiet_stage_says_nothing(capsys) -> None:
    stage = Stage(quiet=True)
    stage.say("x")
    with stage.transfers() as progress:
        progress("cat.png")(Progress(Phase.PUSH, 1, 1))
    assert capsys.readouterr().out == ""


def test_addresses_are_distinct_loopback_ports() -> None:
    addresses = free_addresses(9)
    assert len(set(addresses)) == 9
    assert {address.split(":")[0] for address in addresses} == {"127.0.0.1"}


def test_every_laid_out_config_is_valid_and_of_one_cluster(tmp_path: Path) -> None:
    cluster = lay_out(tmp_path, buckets=3)
    configs = [load_config(node.config_file, {}) for node in cluster.nodes]
    assert {config.cluster_id for config in configs} == {cluster.cluster_id}
    index, *buckets = configs
    assert index.index is not None
    assert index.index.buckets == tuple(cluster.buckets)
    assert {config.bucket[0].index for config in buckets} == {cluster.index_principal}
    assert {config.bucket[0].index_peer for config in buckets} == {index.index.peer}


async def test_a_node_that_was_never_started_has_nothing_to_stop(tmp_path: Path) -> None:
    node = lay_out(tmp_path, buckets=1).index
    assert not node.running
    assert await node.stop() == 0
    assert node.log_tail() == ""


def test_a_log_is_quoted_at_its_end_and_without_the_waiting(tmp_path: Path) -> None:
    node = lay_out(tmp_path, buckets=1).index
    lines = [f"line {number}" for number in range(30)]
    lines.insert(28, "request path=/readyz status=503")
    node.log_file.write_text("\n".join(lines))
    assert node.log_tail().splitlines() == [f"  index: line {number}" for number in range(15, 30)]
