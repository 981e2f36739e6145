"""`ostnode store`: what it shows of a bucket's data directory, and what it must leave alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ostnode.store.disk import RealDisk
from ostnode.store.store import StoreOptions
from tests.support.bucketkit import ALICE, GENERAL, OPTIONS, RANDOM, Kit, blob_of
from tests.support.cli import Cli

SMALL = StoreOptions(segment_bytes=16 << 10, batch_bytes_max=8 << 10, queue_bytes_max=16 << 10)
TEXTS = [bytes([65 + number]) * 100 for number in range(6)]


def kit_in(directory: Path) -> Kit:
    return Kit(replace(OPTIONS, store=SMALL), disk=RealDisk(directory))


async def filled(directory: Path) -> Kit:
    """A closed bucket: six blobs of alice in a chat, the first in two."""
    kit = kit_in(directory)
    async with kit.running():
        for text in TEXTS:
            await kit.upload(ALICE, text, GENERAL)
        await kit.forward(ALICE, TEXTS[0], ALICE, RANDOM)
        await kit.talk()
    return kit


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's bytes and when it was changed, but for LMDB's table of readers."""
    return {
        str(path): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file() and path.name != "lock.mdb"
    }


def stored(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("segments/*.seg"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def test_inspect_sums_up_a_bucket(cli: Cli, data: Path) -> None:
    await filled(data)
    found = cli("store", "inspect", data, "--json")
    assert found.code == 0
    assert found.json["in_use_by"] is None
    assert found.json["bucket"].startswith("bkt1")
    assert found.json["key_index"] == "read"
    totals = found.json["totals"]
    assert totals["kinds"]["commit"]["records"] == 6
    assert totals["kinds"]["chunk"]["records"] == 6 * 7
    assert totals["kinds"]["seal"]["records"] == len(found.json["segments"]) > 1
    assert totals["bytes"] == stored(data)
    assert totals["problems"] == 0
    known = sum(totals[f"{name}_bytes"] for name in ("live", "dead", "tombstone"))
    own = sum(totals["kinds"].get(name, {"bytes": 0})["bytes"] for name in ("marker", "seal"))
    assert known + own == sum(tally["bytes"] for tally in totals["kinds"].values())
    first, *others = found.json["segments"]
    assert (first["state"], first["generation"], first["first_seq"]) == ("sealed", 0, 1)
    assert others[0]["first_seq"] == first["last_seq"] + 1


async def test_inspect_changes_nothing(cli: Cli, data: Path) -> None:
    await filled(data)
    before = contents(data)
    cli("store", "inspect", data)
    cli("store", "inspect", data, "--records")
    assert contents(data) == before


async def test_inspect_reads_well(cli: Cli, data: Path) -> None:
    await filled(data)
    text = cli("store", "inspect", data).out
    assert "\nin use      no\n" in text
    assert "00000001.seg  sealed  0    1.." in text
    assert "\ncommit " in text
    assert "damage" not in text


async def test_inspect_works_beside_a_running_bucket(cli: Cli, data: Path) -> None:
    kit = kit_in(data)
    async with kit.running():
        for text in TEXTS:
            await kit.upload(ALICE, text, GENERAL)
        before = contents(data)
        found = cli("store", "inspect", data, "--json").json
        assert contents(data) == before
        assert found["in_use_by"] == os.getpid()
        assert found["totals"]["problems"] == 0
        assert [item["state"] for item in found["segments"]].count("open") == 1
        assert f"by process {os.getpid()}" in cli("store", "inspect", data).out


async def test_inspect_takes_a_single_file(cli: Cli, data: Path, tmp_path: Path) -> None:
    await filled(data)
    whole = cli("store", "inspect", data, "--json").json["segments"][0]
    (one,) = cli("store", "inspect", data / "segments/00000001.seg", "--json").json["segments"]
    assert one == whole
    alone = tmp_path / "00000001.seg"
    alone.write_bytes((data / "segments/00000001.seg").read_bytes())
    found = cli("store", "inspect", alone, "--json").json
    assert found["key_index"] == "unknown"
    assert found["totals"]["live_bytes"] is None
    assert found["segments"][0]["kinds"] == whole["kinds"]


async def test_inspect_lists_records_by_pages(cli: Cli, data: Path) -> None:
    await filled(data)
    seqs, after, more = [], 0, True
    while more:
        page = cli("store", "inspect", data, "--records", "--json", "--after", after).json
        seqs += [line["seq"] for line in page["records"]]
        after, more = seqs[-1], page["more"]
        assert len(page["records"]) <= 50
    assert seqs == list(range(1, page["totals"]["records"] + 1))
    found = cli("store", "inspect", data, "--records", "--limit", 2, "--json").json["records"]
    assert [line["kind"] for line in found] == ["init", "user"]
    assert found[0]["flags"][0] == "first"
    assert found[0]["offset"] == 4096
    text = cli("store", "inspect", data, "--records", "--limit", 2).out
    assert "more with --after 2" in text


async def test_inspect_shows_damage(cli: Cli, data: Path) -> None:
    await filled(data)
    lines = cli("store", "inspect", data, "--records", "--json").json["records"]
    commit = next(line for line in lines if line["kind"] == "commit")
    flip(data, commit, 100)
    found = cli("store", "inspect", data, "--json").json
    assert found["totals"]["problems"] == 1
    (problem,) = found["segments"][commit["segment"] - 1]["problems"]
    assert (problem["what"], problem["seq"]) == ("payload", commit["seq"])
    assert problem["blob"] == blob_of(TEXTS[0]).hex()
    assert "damage: payload at segment 1" in cli("store", "inspect", data).out


def flip(data: Path, line: dict, by: int) -> None:
    """Change one bit of a record, `by` bytes behind its start."""
    path = data / f"segments/{line['segment']:08d}.seg"
    with path.open("r+b") as file:
        file.seek(line["offset"] + by)
        byte = file.read(1)
        file.seek(line["offset"] + by)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("name", ["missing", "empty", "empty/notes.txt"])
def test_inspect_of_something_else_is_a_usage_error(cli: Cli, name: str) -> None:
    Path("empty").mkdir()
    result = cli("store", "inspect", name)
    assert result.code == 2
    assert result.err.startswith(f"error: {name} ")
    assert "hint: name a bucket's data directory" in result.err
