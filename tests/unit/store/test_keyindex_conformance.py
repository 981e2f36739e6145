"""What every key index promises, shown of the one on disk and of its twin in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostnode.store.keyspace import Covered, DurableReader, KeyIndex
from ostnode.store.lmdbindex import LmdbIndex
from ostnode.store.memoryindex import MemoryIndex

Make: TypeAlias = Callable[[Path], KeyIndex]


def at(batch: int) -> Covered:
    return Covered(3, b"u" * 16, batch)


def make_lmdb(directory: Path) -> KeyIndex:
    return LmdbIndex(directory / "keyindex", "boot")


def make_memory(_directory: Path) -> KeyIndex:
    return MemoryIndex()


@pytest.fixture(params=[make_lmdb, make_memory], ids=["lmdb", "memory"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyIndex]:
    """An empty one, open."""
    made: KeyIndex = request.param(tmp_path)
    assert made.open() is None
    made.recovered()
    yield made
    made.close(clean=False)


def audit(index: KeyIndex) -> None:
    for _ in index.audit():
        pass
    assert index.is_proven


def rows(index: KeyIndex) -> dict[bytes, bytes]:
    return dict(index.page(b"", None, 1 << 20))


def test_an_empty_one_has_nothing(index: KeyIndex) -> None:
    assert index.get(b"k") is None
    assert index.page(b"", None, 9) == []
    assert index.page(b"k", b"l", 9) == []


def test_a_commit_shows_at_once_and_as_a_whole(index: KeyIndex) -> None:
    index.commit({b"a1": b"1", b"b1": b"2", b"c1": b""}, at(1))
    index.commit({b"a1": None, b"b1": b"3", b"absent": None, b"d1": b"4"}, at(2))
    assert rows(index) == {b"b1": b"3", b"c1": b"", b"d1": b"4"}
    assert index.get(b"a1") is None
    assert index.get(b"c1") == b""


def test_deleting_what_is_absent_is_fine(index: KeyIndex) -> None:
    index.commit({b"a": None, b"z1": None}, at(1))
    assert rows(index) == {}


def test_a_commit_of_nothing_moves_the_position(index: KeyIndex) -> None:
    index.commit({b"a": b"1"}, at(1))
    index.commit({}, at(2))
    index.close(clean=True)
    assert index.open() == at(2)
    index.recovered()


@pytest.mark.parametrize("clean", [True, False])
def test_rows_and_position_outlive_closing(index: KeyIndex, *, clean: bool) -> None:
    for batch in range(1, 4):
        index.commit({b"k%d" % batch: b"v", b"t%d" % batch: b"w" * batch}, at(batch))
    before = rows(index)
    index.close(clean=clean)
    assert index.open() == at(3)
    index.recovered()
    assert rows(index) == before
    index.commit({b"k1": None}, at(4))
    assert len(rows(index)) == 5


def test_reset_empties_it_and_it_goes_on(index: KeyIndex) -> None:
    index.commit({b"k": b"v", b"l": b"v"}, at(7))
    index.reset()
    assert rows(index) == {}
    assert index.get(b"k") is None
    index.commit({b"m": b"v"}, at(1))
    index.close(clean=True)
    assert index.open() == at(1)
    index.recovered()
    assert rows(index) == {b"m": b"v"}


def test_bounds_of_pages(index: KeyIndex) -> None:
    keys = [b"a", b"a\0", b"a\xff", b"a\xff\xff", b"b", b"b1", b"c\xff", b"\xff", b"\xff\xff"]
    index.commit(dict.fromkeys(keys, b"v"), at(1))

    def page(low: bytes, high: bytes | None, limit: int = 99) -> list[bytes]:
        return [key for key, _ in index.page(low, high, limit)]

    assert page(b"", None) == keys
    assert page(b"a", b"b") == keys[:4]
    assert page(b"a\0", b"b1") == keys[1:5]
    assert page(b"a\xff\xff\0", b"c") == [b"b", b"b1"]
    assert page(b"b2", None) == [b"c\xff", b"\xff", b"\xff\xff"]
    assert page(b"\xff\0", None) == [b"\xff\xff"]
    assert page(b"b1", b"b1") == page(b"c", b"b") == page(b"d", b"e") == []
    assert page(b"", None, 6) == keys[:6]
    assert page(b"a\xff", None, 3) == keys[2:5]
    assert page(b"", b"a") == []


def test_values_larger_than_a_page(index: KeyIndex) -> None:
    large = {b"k%d" % size: bytes([size % 251]) * size for size in (0, 4095, 4096, 70_000, 1 << 20)}
    index.commit(large, at(1))
    assert rows(index) == large
    index.commit({b"k70000": b"small", b"k0": b"x" * 9000}, at(2))
    assert rows(index) == large | {b"k70000": b"small", b"k0": b"x" * 9000}


def test_keys_as_long_as_they_may_be(index: KeyIndex) -> None:
    keys = sorted(b"k" * 479 + bytes([i]) for i in range(200))
    index.commit(dict.fromkeys(keys, b"v"), at(1))
    assert list(rows(index)) == keys


def test_a_table_for_every_first_byte(index: KeyIndex) -> None:
    every = {bytes([i, j]): bytes([j]) for i in range(256) for j in (7, 200)}
    index.commit(every, at(1))
    assert rows(index) == every
    assert list(rows(index)) == sorted(every)
    assert [key[0] for key, _ in index.page(b"\x30", b"\x50\xff", 999)] == [
        i for i in range(0x30, 0x51) for _ in (7, 200)
    ]
    index.commit({key: None for key in every if key[0] != 9}, at(2))
    assert rows(index) == {b"\x09\x07": b"\x07", b"\x09\xc8": b"\xc8"}


def test_reading_while_another_thread_commits(index: KeyIndex) -> None:
    """Every commit writes one number to all keys: no page may show two."""
    keys = [bytes([65 + i % 5]) + b"%03d" % i for i in range(200)]
    index.commit(dict.fromkeys(keys, b"0" * 2000), at(1))
    enough, written = threading.Event(), [1]

    def write() -> None:
        while not enough.is_set():
            written[0] += 1
            index.commit(dict.fromkeys(keys, b"%d" % written[0] * 1000), at(written[0]))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        seen = set()
        while len(seen) < 5:
            (value,) = {value for _, value in index.page(b"", None, 999)}
            assert index.get(keys[len(seen)]) is not None
            seen.add(value)
    finally:
        enough.set()
        thread.join()
    assert rows(index) == dict.fromkeys(keys, b"%d" % written[0] * 1000)


def test_an_audit_may_be_ended_and_begun_again(index: KeyIndex) -> None:
    keys = [bytes([65 + i % 5]) + b"%05d" % i for i in range(9000)]
    index.commit(dict.fromkeys(keys, b"v"), at(1))
    steps = index.audit()
    next(steps)
    steps.close()
    index.commit({keys[7]: None}, at(2))
    audit(index)
    assert index.nbytes() >= 0


_KEY = st.builds(
    bytes.__add__, st.sampled_from([b"\0", b"A", b"B", b"\xff"]), st.binary(max_size=3)
)
_CHANGES = st.dictionaries(_KEY, st.none() | st.binary(max_size=9), max_size=12)
_BOUNDS = st.tuples(st.just(b"") | _KEY, st.none() | _KEY, st.integers(1, 9))
_STEPS = st.lists(
    st.sampled_from(["reset", "clean", "killed", "audit"]) | _CHANGES | _BOUNDS, max_size=20
)


@pytest.mark.parametrize("make", [make_lmdb, make_memory], ids=["lmdb", "memory"])
@settings(max_examples=25)
@given(steps=_STEPS)
def test_it_acts_like_a_dict(
    make: Make,
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[str | dict[bytes, bytes | None] | tuple[bytes, bytes | None, int]],
) -> None:
    index = make(tmp_path_factory.mktemp("model"))
    model: dict[bytes, bytes] = {}
    covered = index.open()
    index.recovered()
    for batch, step in enumerate(steps):
        if step == "reset":
            index.reset()
            model, covered = {}, None
        elif step == "audit":
            audit(index)
        elif isinstance(step, str):
            audit(index)  # two kills before the end of one are one too many
            index.close(clean=step == "clean")
            assert index.open() == covered
            index.recovered()
        elif isinstance(step, dict):
            covered = at(batch)
            index.commit(step, covered)
            model = {key: v for key, v in (model | step).items() if v is not None}
        else:
            low, high, limit = step
            inside = [k for k in sorted(model) if k >= low and (high is None or k < high)]
            assert [key for key, _ in index.page(low, high, limit)] == inside[:limit]
            assert index.get(low) == model.get(low)
    assert dict(DurableReader(index).scan(b"")) == model
    index.close(clean=False)
