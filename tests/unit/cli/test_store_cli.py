"""`ostnode store`: what it shows of a bucket's data directory, and what it must leave alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest

from ostnode.ids import PrincipalKind
from ostnode.store.disk import RealDisk
from ostnode.store.lmdbindex import LmdbIndex
from ostnode.store.store import StoreOptions
from tests.support.bucketkit import ALICE, GENERAL, OPTIONS, RANDOM, Kit, blob_of
from tests.support.cli import Cli

SMALL = StoreOptions(segment_bytes=16 << 10, batch_bytes_max=8 << 10, queue_bytes_max=16 << 10)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
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


async def test_inspect_shows_a_damaged_footer(cli: Cli, data: Path) -> None:
    await filled(data)
    size = len(contents(data)[str(data / "segments/00000001.seg")][0])
    flip(data, {"segment": 1, "offset": 0}, size - 64 - 50)
    found = cli("store", "inspect", data, "--json").json["segments"][0]
    assert [problem["what"] for problem in found["problems"]] == ["footer"]
    assert found["state"] == "sealed"


async def test_what_follows_the_last_whole_batch_of_an_open_segment_is_no_problem(
    cli: Cli, data: Path
) -> None:
    await filled(data)
    cut(max(listed(data / "segments")), 64 + 100)
    lines = lines_of(cli, data, "commit")
    found = cli("store", "inspect", data, "--json").json
    assert found["segments"][-1]["state"] == "open"
    assert found["totals"]["problems"] == 0
    flip(data, lines[-1], 100)
    assert cli("store", "inspect", data, "--json").json["totals"]["problems"] == 1
    listed_all = cli("store", "inspect", data, "--records", "--limit", 10_000, "--json").json
    written = [line for line in listed_all["records"] if line["kind"] not in {"marker", "seal"}]
    last = [line for line in written if line["batch"] == written[-1]["batch"]]
    cut_behind(data, last[-1])
    flip(data, last[-1], 100)
    assert cli("store", "inspect", data, "--json").json["totals"]["problems"] == 1


def cut_behind(data: Path, line: dict) -> None:
    path = data / f"segments/{line['segment']:08d}.seg"
    os.truncate(path, line["offset"] + line["bytes"])


async def test_inspect_shows_a_damaged_seal(cli: Cli, data: Path) -> None:
    await filled(data)
    flip(data, lines_of(cli, data, "seal")[0], 10)
    found = cli("store", "inspect", data, "--json").json["segments"][0]
    assert [problem["what"] for problem in found["problems"]] == ["footer"]


async def test_damage_of_what_is_dead_is_no_problem(cli: Cli, data: Path) -> None:
    kit = await filled(data)
    chunk = lines_of(cli, data, "chunk")[7]
    assert chunk["blob"] == blob_of(TEXTS[1]).hex()
    flip(data, chunk, 10)
    assert cli("store", "inspect", data, "--json").json["totals"]["problems"] == 1
    flip(data, chunk, 10)
    async with kit.running():
        await kit.remove(ALICE, kit.key_of(TEXTS[1], ALICE, GENERAL))
        await kit.talk()
    flip(data, chunk, 10)
    found = cli("store", "inspect", data, "--json").json
    assert found["totals"]["dead_bytes"] > 7 * 96
    assert found["totals"]["problems"] == 0
    assert cli("store", "verify", data).code == 0


async def test_a_key_index_that_nobody_would_trust_judges_nothing(cli: Cli, data: Path) -> None:
    await filled(data)
    assert cli("store", "inspect", data, "--json").json["key_index"] == "read"
    distrust(data)
    found = cli("store", "inspect", data, "--json").json
    assert found["key_index"] == "unknown"
    assert found["totals"]["live_bytes"] is None
    assert "\nlive        unknown\n" in cli("store", "inspect", data).out


def distrust(data: Path) -> None:
    (data / "keyindex/state").write_text("opening")


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


async def test_inspect_of_a_file_tells_whose_it_is(cli: Cli, data: Path) -> None:
    async with kit_in(data).running() as kit:
        await kit.upload(ALICE, TEXTS[0], GENERAL)
        assert (
            cli("store", "inspect", listed(data / "segments")[0], "--json").json["in_use_by"]
            == os.getpid()
        )


async def test_b41_inspect_tells_of_segments_that_are_gone_or_unreadable(
    cli: Cli, data: Path
) -> None:
    await filled(data)
    second = data / "segments/00000002.seg"
    remove(data / "segments/00000001.seg")
    gap = cli("store", "inspect", data, "--json").json
    assert [item["what"] for item in gap["problems"]] == ["gap"]
    assert gap["totals"]["problems"] == 1
    told = f"damage: gap before segment 2: {gap['problems'][0]['length']} sequence numbers from 1"
    assert told in cli("store", "inspect", data).out
    assert told in cli("store", "verify", data).out
    assert cli("store", "inspect", second, "--json").json["totals"]["problems"] == 0
    for copy in (10, 2058):
        flip(data, {"segment": 2, "offset": 0}, copy)
    lost = cli("store", "inspect", second, "--json").json
    assert (lost["segments"][0]["state"], lost["totals"]["problems"]) == ("lost", 1)
    assert "damage: header of segment 2" in cli("store", "inspect", data).out


async def test_b45_inspect_judges_nothing_by_the_key_index_of_another_log(
    cli: Cli, data: Path
) -> None:
    await filled(data)
    make_foreign(data)
    found = cli("store", "inspect", data, "--json").json
    assert (found["key_index"], found["totals"]["live_bytes"]) == ("unknown", None)


async def test_verify_of_a_clean_bucket(cli: Cli, data: Path) -> None:
    await filled(data)
    before = contents(data)
    result = cli("store", "verify", data, "--json")
    assert result.code == 0
    found = result.json
    assert found["findings"] == []
    assert found["notes"] == []
    assert found["key_index"] == "equal"
    assert found["rows"] > 50
    assert found["bytes"] == stored(data)
    assert found["records"] == cli("store", "inspect", data, "--json").json["totals"]["records"]
    assert changed(before, contents(data)) == {"node.lock"}


def changed(before: dict, after: dict) -> set[str]:
    return {Path(name).name for name in before | after if before.get(name) != after.get(name)}


async def test_verify_reads_well(cli: Cli, data: Path) -> None:
    await filled(data)
    text = cli("store", "verify", data).out
    assert "\nkey index  equal (" in text
    assert "\nfindings   0\n" in text


async def test_b46_verify_leaves_a_running_bucket_alone(cli: Cli, data: Path) -> None:
    async with kit_in(data).running() as kit:
        await kit.upload(ALICE, TEXTS[0], GENERAL)
        before = contents(data)
        result = cli("store", "verify", data, "--json")
        assert result.code == 1
        assert f"in use by process {os.getpid()}" in result.error["message"]
        assert "stop the node" in result.error["hint"]
        assert contents(data) == before
        await kit.upload(ALICE, TEXTS[1], GENERAL)


def lines_of(cli: Cli, data: Path, kind: str) -> list[dict]:
    listed = cli("store", "inspect", data, "--records", "--limit", 10_000, "--json").json
    return [line for line in listed["records"] if line["kind"] == kind]


async def test_b41_verify_names_blob_and_accessors_of_a_damaged_chunk(cli: Cli, data: Path) -> None:
    await filled(data)
    chunk = lines_of(cli, data, "chunk")[0]
    flip(data, chunk, 100)
    before = contents(data)
    result = cli("store", "verify", data, "--json")
    assert result.code == 7
    (finding,) = result.json["findings"]
    assert (finding["what"], finding["kind"], finding["seq"]) == ("payload", "chunk", chunk["seq"])
    assert (finding["segment"], finding["offset"]) == (chunk["segment"], chunk["offset"])
    assert finding["blob"] == blob_of(TEXTS[0]).hex()
    chats = [chat.principal.text(PrincipalKind.ACCESSOR) for chat in (GENERAL, RANDOM)]
    assert sorted(finding["accessors"]) == sorted(chats)
    text = cli("store", "verify", data).out
    assert f"damage: payload at segment 1, offset {chunk['offset']}" in text
    assert f"  seen by {chats[0]}" in text
    hint = cli("store", "verify", data).err.splitlines()[1]
    assert "uploading a damaged blob again heals it" in hint
    assert changed(before, contents(data)) == {"node.lock"}


@pytest.mark.parametrize("by", [10, 100])
async def test_verify_finds_a_damaged_record_and_keeps_the_rows_it_made(
    cli: Cli, data: Path, by: int
) -> None:
    await filled(data)
    commit = lines_of(cli, data, "commit")[0]
    flip(data, commit, by)
    before = contents(data)
    result = cli("store", "verify", data, "--json", "--rebuild-index")
    assert result.code == 7
    assert result.json["findings"][0]["blob"] == blob_of(TEXTS[0]).hex()
    assert result.json["key_index_replaced"] is False
    if by == 100:
        assert result.json["key_index"] == "differs"
        assert "the key index stays: it may hold what the log has lost" in result.json["notes"]
    assert changed(before, contents(data)) == {"node.lock"}


@pytest.mark.parametrize("at", [10, 2058, 1000])
async def test_b41_verify_finds_damage_in_a_header(cli: Cli, data: Path, at: int) -> None:
    await filled(data)
    flip(data, {"segment": 1, "offset": 0}, at)
    (finding,) = cli("store", "verify", data, "--json").json["findings"]
    assert finding["what"] == "segment"
    assert "header" in finding["detail"]


async def test_b41_verify_finds_a_lost_segment(cli: Cli, data: Path) -> None:
    await filled(data)
    remove(data / "segments/00000001.seg")
    result = cli("store", "verify", data, "--json")
    assert result.code == 7
    assert "gap" in {finding["what"] for finding in result.json["findings"]}


async def test_verify_misses_a_lost_end_of_the_log(cli: Cli, data: Path) -> None:
    await filled(data)
    remove(max(listed(data / "segments")))
    result = cli("store", "verify", data, "--json")
    assert result.code == 7
    (finding,) = result.json["findings"]
    assert finding["detail"] == "the key index has followed a log that was longer than this one"


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("back", [10, 40, 64 + 50])
async def test_b41_verify_finds_a_damaged_footer(cli: Cli, data: Path, back: int) -> None:
    await filled(data)
    size = len(contents(data)[str(data / "segments/00000001.seg")][0])
    flip(data, {"segment": 1, "offset": 0}, size - back)
    result = cli("store", "verify", data, "--json")
    assert result.code == 7
    assert {finding["what"] for finding in result.json["findings"]} == {"footer"}


async def test_b41_a_torn_tail_is_told_and_is_no_damage(cli: Cli, data: Path) -> None:
    await filled(data)
    cut(max(listed(data / "segments")), 64 + 100)
    before = contents(data)
    result = cli("store", "verify", data, "--json")
    assert result.code == 0
    (note,) = result.json["notes"]
    assert "of a batch that was never whole" in note
    assert changed(before, contents(data)) == {"node.lock"}


def cut(path: Path, nbytes: int) -> None:
    os.truncate(path, path.stat().st_size - nbytes)


def make_foreign(data: Path) -> None:
    """The key index says that it has followed a log that is not this one."""
    index = LmdbIndex(data / "keyindex", BOOT_ID.read_text().strip())
    covered = index.open()
    assert covered is not None
    index.commit({}, replace(covered, uuid=bytes(16)))
    index.close(clean=True)


def edit_rows(data: Path) -> None:
    """A row too many, one missing, one changed; closed cleanly, as a bug would leave it."""
    index = LmdbIndex(data / "keyindex", BOOT_ID.read_text().strip())
    covered = index.open()
    assert covered is not None
    (key, value), (other, _) = index.page(b"C", b"D", 2)
    index.commit({b"C" + b"x" * 12: value, other: None, key: value[:-1] + b"?"}, covered)
    index.close(clean=True)


async def test_b45_verify_compares_the_key_index_row_by_row(cli: Cli, data: Path) -> None:
    await filled(data)
    edit_rows(data)
    before = contents(data)
    result = cli("store", "verify", data, "--json")
    assert result.code == 7
    assert result.json["key_index"] == "differs"
    assert result.json["rows_differing"] == 3
    told = {finding["detail"] for finding in result.json["findings"]}
    assert told == {
        "the log does not make this row",
        "this row is missing",
        "the log makes another row",
    }
    assert {finding["table"] for finding in result.json["findings"]} == {"chunks"}
    assert "--rebuild-index" in result.error["hint"]
    assert changed(before, contents(data)) == {"node.lock"}


async def test_b45_rebuild_index_puts_the_logs_rows_in_place(cli: Cli, data: Path) -> None:
    await filled(data)
    edit_rows(data)
    result = cli("store", "verify", data, "--json", "--rebuild-index")
    assert result.code == 0
    assert result.json["rows_differing"] == 3
    assert result.json["key_index_replaced"] is True
    assert contents(data)[str(data / "keyindex/state")][0].startswith(b"clean ")
    again = cli("store", "verify", data, "--json", "--rebuild-index")
    assert (again.code, again.json["key_index"]) == (0, "equal")
    assert again.json["key_index_replaced"] is False
    assert "verify" not in listed_names(data)
    async with kit_in(data).running() as kit:
        for text in TEXTS:
            assert await kit.readable(ALICE, GENERAL, text)


def listed(directory: Path) -> list[Path]:
    return list(directory.iterdir())


async def test_b45_a_missing_key_index_is_made(cli: Cli, data: Path) -> None:
    await filled(data)
    rmtree(data / "keyindex")
    result = cli("store", "verify", data, "--json")
    assert result.code == 0
    assert result.json["notes"] == ["the key index is of no use: the next start makes one"]
    assert not listed_names(data) & {"keyindex", "verify"}
    result = cli("store", "verify", data, "--json", "--rebuild-index")
    assert (result.code, result.json["key_index_replaced"]) == (0, True)
    assert cli("store", "verify", data, "--json").json["key_index"] == "equal"


def listed_names(directory: Path) -> set[str]:
    return {path.name for path in listed(directory)}


async def test_a_key_index_that_rotted_is_a_finding_and_can_be_rebuilt(
    cli: Cli, data: Path
) -> None:
    await filled(data)
    rot(data / "keyindex/data.mdb")
    result = cli("store", "verify", data, "--json")
    assert result.code == 7
    (finding,) = result.json["findings"]
    assert finding["what"] == "key_index"
    assert finding["detail"] == "the key index is not what it was when it was closed"
    assert cli("store", "verify", data, "--rebuild-index").code == 0
    assert cli("store", "verify", data, "--json").json["key_index"] == "equal"


def rot(path: Path) -> None:
    rotten = bytearray(path.read_bytes())
    rotten[len(rotten) // 2] ^= 1
    path.write_bytes(rotten)


@pytest.mark.parametrize("calls", [1, 2])
async def test_a_crash_while_the_key_index_is_replaced_leaves_one_or_none(
    cli: Cli, data: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    await filled(data)
    edit_rows(data)
    rename, done = Path.rename, []

    def crash(path: Path, target: Path) -> Path:
        done.append(path)
        if len(done) == calls:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", crash)
    monkeypatch.setattr("shutil.rmtree", lambda _: None)
    assert cli("store", "verify", data, "--rebuild-index").code == 130
    monkeypatch.undo()
    async with kit_in(data).running() as kit:
        for text in TEXTS[2:]:
            assert await kit.readable(ALICE, GENERAL, text)
    assert cli("store", "verify", data, "--json").code == (7 if calls == 1 else 0)
    assert "verify" not in listed_names(data)


async def test_what_is_no_file_is_told(cli: Cli, data: Path) -> None:
    await filled(data)
    (data / "segments" / "00000099.seg").symlink_to(data / "unmounted")
    found = cli("store", "inspect", data, "--json")
    assert found.code == 0
    assert [one["segment"] for one in found.json["problems"]] == [99]
    refused = cli("store", "verify", data)
    assert refused.code == 1
    assert "00000099.seg is a link to no file" in refused.err
