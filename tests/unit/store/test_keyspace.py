"""The overlay over a key index."""

from __future__ import annotations

import pytest

from ostnode.store.keyspace import (
    RESERVED,
    Covered,
    DurableReader,
    Overlay,
    Writer,
    dead_key,
    parse_dead,
    prefix_end,
)
from ostnode.store.memoryindex import MemoryIndex
from ostnode.store.record import Extent, Record

RECORD = Record(1, 1, 1, 0, 0, bytes(32), b"", bytes(16), Extent(1, 4096, 0))
COVERED = Covered(1, bytes(16), 1)


@pytest.fixture
def index() -> MemoryIndex:
    index = MemoryIndex()
    index.commit({b"a%03d" % i: b"%d" % i for i in range(0, 1000, 2)}, COVERED)
    return index


def apply(overlay: Overlay, *puts: tuple[bytes, bytes | None]) -> dict[bytes, bytes | None]:
    changes: dict[bytes, bytes | None] = {}

    def reducer(_record: Record, writer: Writer) -> None:
        for key, value in puts:
            if value is None:
                writer.delete(key)
            else:
                writer.put(key, value)

    overlay.apply([RECORD], reducer, changes)
    return changes


def test_a_scan_merges_staged_and_indexed_keys(index: MemoryIndex) -> None:
    overlay = Overlay(index)
    apply(overlay, (b"a001", b"new"), (b"a004", b"changed"), (b"a006", None), (b"b", b"other"))
    assert list(overlay.scan(b"a00")) == [
        (b"a000", b"0"), (b"a001", b"new"), (b"a002", b"2"), (b"a004", b"changed"), (b"a008", b"8"),
    ]  # fmt: skip
    assert [key for key, _ in overlay.scan(b"a00", b"a002")] == [b"a004", b"a008"]
    assert len(list(overlay.scan(b"a"))) == 500
    assert len(list(overlay.scan(b""))) == 501
    assert list(overlay.scan(b"c")) == []
    assert len(list(DurableReader(index).scan(b"a"))) == 500
    assert [key for key, _ in DurableReader(index).scan(b"a", b"a990")] == [
        b"a992", b"a994", b"a996", b"a998",
    ]  # fmt: skip


def test_a_scan_goes_on_while_keys_change(index: MemoryIndex) -> None:
    overlay = Overlay(index)
    seen = []

    def reducer(_record: Record, writer: Writer) -> None:
        for key, _ in writer.scan(b"a0"):
            seen.append(key)
            writer.delete(key)
            if key == b"a010":
                writer.put(b"a011", b"behind")
                writer.delete(b"a012")

    overlay.apply([RECORD], reducer, {})
    assert b"a011" in seen
    assert b"a012" not in seen
    assert len(seen) == 50
    assert list(overlay.scan(b"a0")) == []


def test_a_scan_goes_on_over_a_commit(index: MemoryIndex) -> None:
    overlay = Overlay(index)
    changes = apply(overlay, (b"a005", b"x"), (b"a900", None), (b"a901", b"y"))
    scan = overlay.scan(b"a")
    first = [next(scan)[0], next(scan)[0]]
    index.commit(changes, COVERED)
    overlay.retire(changes)
    rest = [key for key, _ in scan]
    assert first + rest == [key for key, _ in DurableReader(index).scan(b"a")]


def test_retiring_keeps_what_a_later_batch_changed_again(index: MemoryIndex) -> None:
    overlay = Overlay(index)
    first = apply(overlay, (b"k", b"1"), (b"l", b"same"), (b"m", b"1"))
    second = apply(overlay, (b"k", b"2"), (b"l", b"same"), (b"m", None))
    index.commit(first, COVERED)
    overlay.retire(first)
    assert [overlay.get(key) for key in (b"k", b"l", b"m")] == [b"2", b"same", None]
    index.commit(second, COVERED)
    overlay.retire(second)
    assert [overlay.get(key) for key in (b"k", b"l", b"m")] == [b"2", b"same", None]
    assert [index.get(key) for key in (b"k", b"l", b"m")] == [b"2", b"same", None]


def test_the_last_of_three_batches_on_one_key_outlives_an_equal_first(index: MemoryIndex) -> None:
    overlay = Overlay(index)
    batches = [apply(overlay, (b"k", value)) for value in (None, b"1", None)]
    for batch in batches[:2]:
        index.commit(batch, COVERED)
        overlay.retire(batch)
    assert index.get(b"k") == b"1"
    assert overlay.get(b"k") is None
    assert list(overlay.scan(b"k")) == []


def test_a_reducer_that_raises_is_undone_in_the_batch_too(index: MemoryIndex) -> None:
    overlay = Overlay(index)
    changes: dict[bytes, bytes | None] = {}

    def good(_record: Record, writer: Writer) -> None:
        writer.put(b"k", b"1")
        writer.delete(b"a000")

    def bad(_record: Record, writer: Writer) -> None:
        writer.put(b"k", b"2")
        writer.put(b"k", b"3")
        writer.put(b"a000", b"back")
        writer.put(b"new", b"x")
        raise ArithmeticError

    overlay.apply([RECORD], good, changes)
    before = dict(changes)
    with pytest.raises(ArithmeticError):
        overlay.apply([RECORD], bad, changes)
    assert changes == before
    assert overlay.get(b"k") == b"1"
    assert overlay.get(b"a000") is None
    assert overlay.get(b"new") is None


def test_only_reducers_change_it(index: MemoryIndex) -> None:
    with pytest.raises(RuntimeError):
        Overlay(index).put(b"k", b"v")


@pytest.mark.parametrize("key", [b"", b"k" * 481])
def test_keys_have_bounds(index: MemoryIndex, key: bytes) -> None:
    overlay = Overlay(index)
    with pytest.raises(ValueError, match="1 to 480 bytes"):
        apply(overlay, (key, b"v"))
    apply(overlay, (b"k" * 480, b"v"))


def test_prefix_end() -> None:
    assert prefix_end(b"a") == b"b"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"\xff\xff") is None
    assert prefix_end(b"") is None


def test_a_prefix_of_the_last_keys(index: MemoryIndex) -> None:
    overlay = Overlay(index)
    apply(overlay, (b"\xff\xff", b"1"), (b"\xff\xff\x01", b"2"))
    assert [key for key, _ in overlay.scan(b"\xff\xff")] == [b"\xff\xff", b"\xff\xff\x01"]


def test_what_is_forgotten_adds_up_per_segment_and_is_taken_back(index: MemoryIndex) -> None:
    overlay = Overlay(index)

    def forget(_record: Record, writer: Writer) -> None:
        writer.forget(Extent(1, 4096, 3))
        writer.forget(Extent(2, 4096, 8))
        writer.forget(Extent(1, 8192, 0))

    def refuse(record: Record, writer: Writer) -> None:
        forget(record, writer)
        raise ValueError("no")

    overlay.apply([RECORD], forget, {})
    with pytest.raises(ValueError, match="no"):
        overlay.apply([RECORD], refuse, {})
    dead = [parse_dead(overlay.get(dead_key(segment))) for segment in (1, 2, 3)]
    assert dead == [104 + 96, 104, 0]
    assert all(key.startswith(RESERVED) for key in map(dead_key, (0, 1, 1 << 40)))
