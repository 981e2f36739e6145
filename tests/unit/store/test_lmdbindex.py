"""The key index in LMDB: when it is trusted, and that a rebuilt one is the same."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import Thread

import lmdb
import pytest
import trio
import trio.testing

from ostnode.store.disk import RealDisk
from ostnode.store.errors import (
    IndexDamagedError,
    IndexLimitError,
    StoreFailedError,
    StoreOwnerError,
)
from ostnode.store.indexaudit import row_sum
from ostnode.store.keyspace import Covered, DurableReader
from ostnode.store.lmdbindex import LmdbIndex
from ostnode.store.pace import Pace
from ostnode.store.store import Store
from tests.support.storekit import chunk, dump, names, opened, set_, unset

COVERED = Covered(3, b"u" * 16, 7)
ROWS = {b"k%03d" % i: b"v%d" % i for i in range(300)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A cleanly closed index with `ROWS`."""
    directory = tmp_path / "keyindex"
    index = LmdbIndex(directory, "boot")
    assert index.open() is None
    index.recovered()
    index.commit(ROWS, COVERED)
    index.close(clean=True)
    return directory


def reopened(directory: Path, boot_id: str = "boot") -> tuple[Covered | None, dict[bytes, bytes]]:
    """What an index says when it is opened again; closed as a kill would leave it."""
    index = LmdbIndex(directory, boot_id)
    covered = index.open()
    rows = dict(DurableReader(index).scan(b""))
    index.recovered()
    index.close(clean=False)
    return covered, rows


def test_rows_and_position_survive(directory: Path) -> None:
    assert reopened(directory) == (COVERED, ROWS)


def test_commits_are_atomic_with_their_position(directory: Path) -> None:
    index = LmdbIndex(directory, "boot")
    index.open()
    index.commit({b"k000": None, b"absent": None, b"new": b"1"}, replace(COVERED, batch=8))
    with pytest.raises(lmdb.Error):
        index.commit({b"k001": None, b"x" * 600: b"too long"}, replace(COVERED, batch=9))
    assert index.get(b"k000") is None
    assert index.get(b"k001") == b"v1"
    assert index.get(b"new") == b"1"
    index.recovered()
    index.close(clean=False)
    covered, rows = reopened(directory)
    assert covered == replace(COVERED, batch=8)
    assert len(rows) == 300


def test_pages_are_bounded(directory: Path) -> None:
    index = LmdbIndex(directory, "boot")
    index.open()
    assert [key for key, _ in index.page(b"k100", b"k200", 3)] == [b"k100", b"k101", b"k102"]
    assert [key for key, _ in index.page(b"k298", None, 9)] == [b"k298", b"k299"]
    assert [key for key, _ in index.page(b"k0985", b"k100", 9)] == [b"k099"]
    assert index.page(b"z", None, 9) == []
    index.close(clean=False)


def test_a_kill_loses_nothing_until_the_machine_restarts(directory: Path) -> None:
    reopened(directory)
    assert reopened(directory) == (COVERED, ROWS)
    assert reopened(directory, "another boot") == (None, {})


def test_a_clean_index_is_trusted_after_a_restart_once(directory: Path) -> None:
    assert reopened(directory, "second boot") == (COVERED, ROWS)
    assert reopened(directory, "third boot") == (None, {})


def test_an_index_whose_recovery_never_ended_is_rebuilt(directory: Path) -> None:
    index = LmdbIndex(directory, "boot")
    assert index.open() == COVERED
    index.close(clean=False)
    assert reopened(directory) == (None, {})


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:8192])


def scramble(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [Path.unlink, flip, truncate, scramble, empty])
def test_b45_a_damaged_clean_index_is_not_trusted(directory: Path, damage) -> None:
    damage(directory / "data.mdb")
    assert reopened(directory) == (None, {})
    assert reopened(directory) == (None, {})


@pytest.mark.parametrize("damage", [Path.unlink, truncate, scramble, empty])
def test_b45_a_damaged_running_index_is_not_trusted(directory: Path, damage) -> None:
    reopened(directory)
    damage(directory / "data.mdb")
    assert reopened(directory) == (None, {})


@pytest.mark.parametrize("state", [b"", b"clean", b"running", b"\xff\xfe", b"clean 00"])
def test_b45_a_damaged_state_file_is_not_trusted(directory: Path, state: bytes) -> None:
    (directory / "state").write_bytes(state)
    assert reopened(directory) == (None, {})


def test_b45_a_position_of_another_format_is_not_trusted(directory: Path) -> None:
    environment = lmdb.open(str(directory), max_dbs=2)
    with environment.begin(write=True) as transaction:
        transaction.put(b"covered", b"short", db=environment.open_db(b"meta", txn=transaction))
    environment.close()
    (directory / "state").write_text("running boot")
    assert reopened(directory) == (None, {})


def test_it_says_what_it_takes(directory: Path) -> None:
    index = LmdbIndex(directory, "boot")
    assert index.nbytes() == (directory / "data.mdb").stat().st_size > 0
    (directory / "data.mdb").unlink()
    assert index.nbytes() == 0


def test_reset_empties_it(directory: Path) -> None:
    index = LmdbIndex(directory, "boot")
    index.open()
    index.reset()
    assert index.page(b"", None, 9) == []
    index.recovered()
    index.close(clean=False)
    assert reopened(directory) == (None, {})


async def filled(data_dir: Path) -> dict[bytes, bytes]:
    async with opened(RealDisk(data_dir)) as store:
        for i in range(40):
            await store.commit([set_(f"k{i:02d}", str(i)), chunk(bytes([i]) * 3000, i)])
        await store.commit([unset("k1"), set_("k10", "again")])
        return dump(store.durable)


@pytest.mark.parametrize("loss", ["deleted", "data deleted", "damaged", "stale"])
async def test_b45_a_lost_index_is_rebuilt_identical(tmp_path: Path, loss: str) -> None:
    data_dir, kept = tmp_path / "data", tmp_path / "kept"
    async with opened(RealDisk(data_dir)) as store:
        await store.commit([set_("early")])
    shutil.copytree(data_dir / "keyindex", kept)
    before = await filled(data_dir)
    index = data_dir / "keyindex"
    if loss == "data deleted":
        (index / "data.mdb").unlink()
    elif loss == "damaged":
        flip(index / "data.mdb")
    else:
        shutil.rmtree(index)
        if loss == "stale":
            shutil.copytree(kept, index)
    async with opened(RealDisk(data_dir)) as store:
        assert dump(store.durable) == dump(store.state) == before
        assert store.problems == ()


async def test_b45_a_foreign_index_is_rebuilt(tmp_path: Path) -> None:
    before = await filled(tmp_path / "ours")
    async with opened(RealDisk(tmp_path / "theirs"), seed=7) as store:
        await store.commit([set_("foreign")])
    shutil.rmtree(tmp_path / "ours" / "keyindex")
    shutil.copytree(tmp_path / "theirs" / "keyindex", tmp_path / "ours" / "keyindex")
    async with opened(RealDisk(tmp_path / "ours")) as store:
        assert dump(store.durable) == before
        assert "foreign" not in names(store.state)


async def test_a_recovery_that_fails_lets_go_of_everything(tmp_path: Path) -> None:
    before = await filled(tmp_path)
    shutil.rmtree(tmp_path / "keyindex")
    with pytest.raises(StoreOwnerError):
        async with opened(RealDisk(tmp_path), owner=b"x" * 32):
            raise AssertionError
    last = max((tmp_path / "segments").iterdir())
    last.rename(tmp_path / "aside")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.storekit.SET", -1)
        with pytest.raises(ValueError, match="unknown kind"):
            async with opened(RealDisk(tmp_path)):
                raise AssertionError
    (tmp_path / "aside").rename(last)
    async with opened(RealDisk(tmp_path)) as store:
        assert dump(store.durable) == before


def test_one_that_was_never_opened_can_be_closed(tmp_path: Path) -> None:
    LmdbIndex(tmp_path / "keyindex", "boot").close(clean=False)


def small(directory: Path, patch: pytest.MonkeyPatch, *, most: int) -> LmdbIndex:
    """An index whose map has 128 KiB at first."""
    patch.setattr("ostnode.store.lmdbindex.MAP_BYTES_MIN", 1 << 17)
    patch.setattr("ostnode.store.lmdbindex.MAP_BYTES_MAX", most)
    index = LmdbIndex(directory, "boot")
    index.open()
    index.recovered()
    return index


def large(batch: int) -> dict[bytes, bytes]:
    return {bytes([65 + i % 3]) + b"%d %d" % (batch, i): b"v" * 1000 for i in range(64)}


def fill(index: LmdbIndex) -> None:
    for batch in range(999):
        index.commit(large(batch), replace(COVERED, batch=batch))


def test_the_map_grows_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = small(tmp_path / "keyindex", monkeypatch, most=1 << 30)
    rows: dict[bytes, bytes] = {}
    for batch in range(40):
        index.commit(large(batch), replace(COVERED, batch=batch))
        rows |= large(batch)
        assert index.get(b"A0 0") == b"v" * 1000
    assert dict(DurableReader(index).scan(b"")) == rows
    index.close(clean=False)
    assert reopened(tmp_path / "keyindex") == (replace(COVERED, batch=39), rows)
    # The file is larger than the map it begins with.
    index = small(tmp_path / "keyindex", monkeypatch, most=1 << 30)
    index.commit(large(40), COVERED)
    assert len(dict(DurableReader(index).scan(b""))) == len(rows) + 64
    index.close(clean=False)


def test_the_map_grows_under_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = small(tmp_path / "keyindex", monkeypatch, most=1 << 30)
    index.commit(large(0), COVERED)

    def write() -> None:
        for batch in range(1, 60):
            index.commit(large(batch), replace(COVERED, batch=batch))

    thread = Thread(target=write)
    thread.start()
    while thread.is_alive():
        assert index.get(b"B0 1") == b"v" * 1000
        assert len(index.page(b"A0", b"A1", 99)) == 22
    thread.join()
    assert len(index.page(b"", None, 1 << 20)) == 60 * 64
    index.close(clean=False)


def test_a_map_at_its_cap_says_so_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = small(tmp_path / "keyindex", monkeypatch, most=1 << 18)
    with pytest.raises(IndexLimitError, match="map of 262144 bytes: that is as large as it gets"):
        fill(index)
    kept = len(index.page(b"", None, 999))
    assert kept
    assert kept % 64 == 0
    assert index.get(b"A0 0") == b"v" * 1000
    index.close(clean=False)


def test_address_space_that_is_refused_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = small(tmp_path / "keyindex", monkeypatch, most=1 << 30)
    index.commit(large(0), COVERED)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (8 << 20), hard))
    try:
        with pytest.raises(IndexLimitError, match="more address space is refused"):
            fill(index)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    kept = len(index.page(b"", None, 1 << 20))
    assert kept % 64 == 0
    index.commit(large(999), COVERED)
    assert len(index.page(b"", None, 1 << 20)) == kept + 64
    index.close(clean=False)


def test_b45_an_index_of_another_layout_is_not_trusted(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("ostnode.store.lmdbindex.LAYOUT", 77)
        assert reopened(directory) == (None, {})
    assert reopened(directory) == (None, {})


def audited(directory: Path, boot_id: str = "boot") -> bool:
    """Open an index, audit it when that is due, and close it as a kill would leave it."""
    index = LmdbIndex(directory, boot_id)
    assert index.open() == COVERED
    index.recovered()
    assert not index.is_proven
    try:
        for _ in index.audit():
            assert not index.is_proven
    except IndexDamagedError:
        assert not index.is_proven
        index.close(clean=True)
        return False
    assert index.is_proven
    index.close(clean=False)
    return True


def lose_a_row(directory: Path) -> None:
    environment = lmdb.open(str(directory), max_dbs=9)
    with environment.begin(write=True) as transaction:
        transaction.delete(b"k007", db=environment.open_db(b"6b", txn=transaction))
    environment.close()


def change_a_row(directory: Path) -> None:
    data = directory / "data.mdb"
    whole = data.read_bytes()
    assert b"k123v123" in whole
    data.write_bytes(whole.replace(b"k123v123", b"k123v124"))


def change_a_key(directory: Path) -> None:
    data = directory / "data.mdb"
    whole = data.read_bytes()
    assert b"k123v123" in whole
    data.write_bytes(whole.replace(b"k123v123", b"k1@3v123"))


def turn_signs(directory: Path, sign: bytes) -> None:
    """Change the keys that lead to leaves, in all pages above them (P_BRANCH at 10): every row is
    where it was, and some are looked for in the leaf beside.
    """
    data = directory / "data.mdb"
    pages = data.read_bytes()
    turned = 0
    for at in range(0, len(pages), 4096):
        page = pages[at : at + 4096]
        if page[10] & 1:
            page, count = re.subn(rb"k(\d\d)\d", rb"k\1" + sign, page)
            pages = pages[:at] + page + pages[at + 4096 :]
            turned += count
    assert turned
    data.write_bytes(pages)


def turn_signs_up(directory: Path) -> None:
    turn_signs(directory, b"~")


def turn_signs_down(directory: Path) -> None:
    turn_signs(directory, b"!")


@pytest.mark.parametrize(
    "damage", [lose_a_row, change_a_row, change_a_key, turn_signs_up, turn_signs_down]
)
def test_b45_a_running_index_whose_rows_do_not_add_up_is_rebuilt(directory: Path, damage) -> None:
    reopened(directory)
    damage(directory)
    assert not audited(directory)
    assert (directory / "state").read_text("ascii") == "damaged"
    assert reopened(directory) == (None, {})


def test_b45_an_audit_proves_what_was_not_closed(directory: Path) -> None:
    reopened(directory)
    assert audited(directory)
    assert (directory / "state").read_text("ascii") == "running boot"


def test_b45_opening_reads_no_rows(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reopened(directory)
    with monkeypatch.context() as patch:
        patch.setattr("ostnode.store.lmdbindex.row_sum", None)
        patch.setattr("ostnode.store.lmdbindex.prove", None)
        index = LmdbIndex(directory, "boot")
        assert index.open() == COVERED
        index.recovered()
        index.close(clean=False)


def test_b45_two_starts_that_end_within_an_audit_are_one_too_many(directory: Path) -> None:
    reopened(directory)
    assert reopened(directory) == (COVERED, ROWS)
    assert (directory / "state").read_text("ascii") == "auditing boot 1"
    assert reopened(directory) == (COVERED, ROWS)
    assert (directory / "state").read_text("ascii") == "auditing boot 2"
    assert reopened(directory) == (None, {})


def test_b45_an_audit_that_passes_begins_to_count_anew(directory: Path) -> None:
    for _ in range(3):
        assert reopened(directory) == (COVERED, ROWS)
        assert audited(directory)
    index = LmdbIndex(directory, "boot")
    index.open()
    index.recovered()
    for _ in index.audit():
        pass
    steps = index.audit()
    next(steps)
    assert (directory / "state").read_text("ascii") == "auditing boot 1"
    index.close(clean=False)
    assert reopened(directory, "another boot") == (None, {})


def test_b45_what_is_closed_before_its_audit_is_audited_after_a_restart(directory: Path) -> None:
    reopened(directory)
    change_a_row(directory)
    index = LmdbIndex(directory, "boot")
    assert index.open() == COVERED
    index.recovered()
    index.close(clean=True)
    assert not audited(directory, "second boot")
    assert reopened(directory, "second boot") == (None, {})


def test_b45_an_audit_reads_a_snapshot_while_commits_go_on(tmp_path: Path) -> None:
    index = LmdbIndex(tmp_path / "keyindex", "boot")
    index.open()
    index.recovered()
    index.commit({b"k%05d" % i: b"v" for i in range(5000)}, COVERED)
    steps = 0
    for steps, _ in enumerate(index.audit(), 1):
        index.commit({b"k%05d" % steps: None, b"new%d" % steps: b"v" * steps}, COVERED)
        index.commit({bytes([steps]): b"a table of its own"}, COVERED)
    assert 5000 // 512 <= steps < 40
    assert all(True for _ in index.audit())
    index.close(clean=True)


def test_b45_an_audit_begins_anew_when_the_map_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ostnode.store.indexaudit.SLICE_ROWS", 8)
    index = small(tmp_path / "keyindex", monkeypatch, most=1 << 30)
    index.commit(large(0), COVERED)
    audit = index.audit()
    next(audit)
    size = index.nbytes()
    for batch in range(1, 9):
        index.commit(large(batch), COVERED)
    assert index.nbytes() > 1 << 19 > size > 0
    assert sum(1 for _ in audit) >= 9 * 64 // 8
    index.close(clean=True)


def test_b45_commits_while_another_thread_audits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows and the sum of an audit are of one commit, and new tables are no damage."""
    index = small(tmp_path / "keyindex", monkeypatch, most=1 << 30)
    index.commit(large(0), COVERED)
    failures: list[Exception] = []

    def audit() -> None:
        try:
            for _ in range(60):
                for _ in index.audit():
                    pass
        except Exception as error:  # noqa: BLE001  the test tells of it
            failures.append(error)

    thread = Thread(target=audit)
    thread.start()
    batch = 0
    while thread.is_alive():
        batch += 1
        index.commit(large(batch % 200) | {bytes([batch % 256, 1]): b"v"}, COVERED)
    thread.join()
    assert failures == []
    index.close(clean=False)


def test_b45_no_audit_begins_within_a_commit(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot would have tables that the index does not know yet."""
    index = LmdbIndex(directory, "boot")
    index.open()
    index.recovered()
    audit = index.audit()
    thread = Thread(target=next, args=(audit,))

    def row_sum_meanwhile(key: bytes, value: bytes) -> int:
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        return row_sum(key, value)

    monkeypatch.setattr("ostnode.store.lmdbindex.row_sum", row_sum_meanwhile)
    index.commit({b"new": b"v"}, COVERED)
    thread.join(10)
    assert all(True for _ in audit)
    assert index.is_proven
    index.close(clean=False)


def test_b45_a_damaged_index_is_never_closed_as_clean(directory: Path) -> None:
    """Damage that comes while it is open would be hashed as it is."""
    index = LmdbIndex(directory, "boot")
    assert index.open() == COVERED
    index.recovered()
    assert index.is_proven
    change_a_row(directory)
    with pytest.raises(IndexDamagedError, match="the next start makes it anew"):
        for _ in index.audit():
            pass
    index.close(clean=True)
    assert reopened(directory) == (None, {})


_FLIPS = """
import random, sys
from pathlib import Path
from ostnode.store.errors import IndexDamagedError
from ostnode.store.keyspace import Covered, DurableReader
from ostnode.store.lmdbindex import LmdbIndex
index = LmdbIndex(Path(sys.argv[1]), "boot")
whole = {b"%c%03d" % (107 + i % 2, i): b"v%d" % i for i in range(900)}
covered = index.open()
assert covered in (None, Covered(3, b"u" * 16, 7)), covered
try:
    index.recovered()
    for _ in index.audit():
        pass
    rows = dict(DurableReader(index).scan(b""))
    assert rows == (whole if covered else {}), len(rows)
    assert all(index.get(key) == value for key, value in rows.items())
    said = "whole" if covered else "rebuilt"
except IndexDamagedError:
    said = "damaged"
index.close(clean=False)
print(said)
"""


@pytest.mark.slow
def test_b45_a_flipped_bit_anywhere_in_a_running_index(tmp_path: Path) -> None:
    """Whole, or found and then rebuilt; LMDB may die of a mangled page, but not for ever."""
    index = LmdbIndex(tmp_path / "keyindex", "boot")
    index.open()
    index.recovered()
    index.commit({b"%c%03d" % (107 + i % 2, i): b"v%d" % i for i in range(900)}, COVERED)
    index.close(clean=False)
    data, state = tmp_path / "keyindex" / "data.mdb", tmp_path / "keyindex" / "state"
    whole, running = data.read_bytes(), state.read_text("ascii")
    random, seen = Random(7), set()
    # Two bits of every page: one in its header and pointers, one in its rows.
    spots = [at + random.randrange(*span) for at in range(0, len(whole), 4096)
             for span in ((0, 64), (64, 4096))]  # fmt: skip
    for spot in spots:
        damaged = bytearray(whole)
        damaged[spot] ^= 1 << random.randrange(8)
        data.write_bytes(damaged)
        state.write_text(running, "ascii")
        command = [sys.executable, "-c", _FLIPS, str(data.parent)]
        for _ in range(3):
            run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
            said = run.stdout.strip()
            seen.add(said or run.returncode)
            if said in {"whole", "rebuilt"}:
                break
            assert run.returncode <= 0, (spot, run.stderr)
        assert said in {"whole", "rebuilt"}, (spot, run.stderr)
    assert {"whole", "damaged", "rebuilt"} <= seen


def state_of_this_boot(data_dir: Path) -> Path:
    """Let the index look as a kill leaves it."""
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    state = data_dir / "keyindex" / "state"
    state.write_text(f"running {boot_id}", "ascii")
    return state


async def scrubbed(store: Store) -> None:
    after, done = 0, False
    while not done:
        step = await store.scrub(after, Pace(0))
        after, done = step.after_seq, step.done


async def test_b45_a_damaged_index_fails_the_store_and_is_rebuilt(tmp_path: Path) -> None:
    """Opened at once after a kill; the audit finds it while the store is in use."""
    before = await filled(tmp_path)
    state_of_this_boot(tmp_path)
    data = tmp_path / "keyindex" / "data.mdb"
    whole = data.read_bytes()
    assert b"Mk055" in whole
    data.write_bytes(whole.replace(b"Mk055", b"Mk056"))
    with pytest.RaisesGroup(
        pytest.RaisesExc(StoreFailedError, match="key index is damaged.*next start makes it anew"),
        flatten_subgroups=True,
    ):
        async with opened(RealDisk(tmp_path)) as store:
            await trio.sleep(60)
    with pytest.raises(StoreFailedError, match="key index is damaged"):
        store.stage([set_("more")])
    async with opened(RealDisk(tmp_path)) as store:
        assert dump(store.durable) == before


@pytest.mark.parametrize("error", [lmdb.CorruptedError, lmdb.PageNotFoundError])
async def test_b45_damage_that_the_replay_meets_is_rebuilt_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[lmdb.Error]
) -> None:
    before = await filled(tmp_path)
    state_of_this_boot(tmp_path)
    write, refusals = LmdbIndex._write, [error("this page")]

    def failing(index: LmdbIndex, *args) -> None:
        if refusals:
            raise refusals.pop()
        write(index, *args)

    monkeypatch.setattr(LmdbIndex, "_write", failing)
    async with opened(RealDisk(tmp_path)) as store:
        assert dump(store.durable) == before
    assert not refusals


@pytest.mark.parametrize("error", [lmdb.CorruptedError, lmdb.PageNotFoundError])
def test_b45_a_look_up_that_meets_damage_says_so(
    directory: Path, monkeypatch: pytest.MonkeyPatch, error: type[lmdb.Error]
) -> None:
    index = LmdbIndex(directory, "boot")
    index.open()

    class Refusing:
        def begin(self, **_options: object) -> None:
            raise error("this page")

    with monkeypatch.context() as patch:
        patch.setattr(index, "_env", Refusing())
        for look_up in (lambda: index.get(b"k001"), lambda: index.page(b"", None, 9)):
            with pytest.raises(IndexDamagedError, match="this page"):
                look_up()
    index.close(clean=False)


async def test_b45_a_pass_of_the_scrub_audits_the_index(tmp_path: Path) -> None:
    """Damage that came while the index was open."""
    before = await filled(tmp_path)
    data = tmp_path / "keyindex" / "data.mdb"
    with pytest.RaisesGroup(StoreFailedError, flatten_subgroups=True):
        async with opened(RealDisk(tmp_path)) as store:
            whole = data.read_bytes()
            assert b"Mk055" in whole
            data.write_bytes(whole.replace(b"Mk055", b"Mk056"))
            with pytest.raises(StoreFailedError, match="key index is damaged"):
                await scrubbed(store)
            await trio.sleep(60)
    async with opened(RealDisk(tmp_path)) as store:
        assert dump(store.durable) == before


async def test_b45_an_audit_ends_with_the_store(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    await filled(tmp_path)
    state = state_of_this_boot(tmp_path)
    with trio.fail_after(10):
        async with opened(RealDisk(tmp_path)):
            pass
    assert state.read_text("ascii").startswith("closed ")
    async with opened(RealDisk(tmp_path)):
        await trio.sleep(1)
        assert state.read_text("ascii").startswith("running ")
    assert state.read_text("ascii").startswith("clean ")
