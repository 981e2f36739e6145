"""References in the tables: their rows, the ways to them, and names that share all of these."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostnode.ids import BlobId, Principal, Uid
from ostnode.roles.bucket import packing
from ostnode.roles.bucket import referencerows as references
from ostnode.roles.bucket import tables as t
from ostnode.store.record import Extent
from tests.support.bucketlog import Rows

ROW = t.ReferenceRow(0, 1_790_000_000, "image/jpeg", None)
BLOB, TWIN = BlobId(b"b" * 32), BlobId(b"b" * 8 + b"c" * 24)
ALICE, BOB = Uid(b"alice   "), Uid(b"bob     ")
GENERAL, RANDOM = Principal(b"g" * 32), Principal(b"r" * 32)
NUMBERS = st.integers(0, (1 << 64) - 1)


def name(
    blob: BlobId = BLOB, accessor: Principal = GENERAL, uid: Uid = ALICE, ref: bytes = b"1"
) -> t.ReferenceId:
    return t.ReferenceId(blob, accessor, uid, ref)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Nothing yet; and every accessor has the same tag."""
    monkeypatch.setattr("ostnode.roles.bucket.referencerows._tag", lambda _: b"the same")
    return Rows()


def test_names_that_share_every_tag_are_told_apart(rows: Rows) -> None:
    names = [
        name(), name(ref=b"2"), name(accessor=RANDOM), name(uid=BOB), name(TWIN),
        name(TWIN, RANDOM, BOB), name(TWIN, ref=b""),
    ]  # fmt: skip
    for seq, each in enumerate(names, start=1):
        assert references.find(rows, each) is None
        assert references.add(rows, seq, each, ROW)
    for seq, each in enumerate(names, start=1):
        assert references.find(rows, each) == (seq, ROW)
    assert list(references.references_to(rows, BLOB)) == names[:4]
    assert list(references.references_to(rows, TWIN, RANDOM)) == [names[5]]
    assert list(references.references_of(rows, BOB)) == [names[3], names[5]]
    assert list(references.references_of(rows, ALICE, TWIN)) == [names[4], names[6]]
    assert list(references.references_for(rows, RANDOM)) == [names[2], names[5]]
    assert references.remove(rows, names[0])
    assert not references.remove(rows, names[0])
    assert [each for each in names if references.find(rows, each)] == names[1:]
    for each in names[1:]:
        assert references.remove(rows, each)
    assert not list(rows.scan(b""))


def test_the_later_of_two_with_one_name_stands_alone() -> None:
    rows = Rows()
    assert references.add(rows, 5, name(), t.ReferenceRow(9, 1, "text/plain", "a"))
    assert not references.add(rows, 300, name(), t.ReferenceRow(7, 2, "text/x-odd", "b"))
    assert references.find(rows, name()) == (300, t.ReferenceRow(7, 2, "text/x-odd", "b"))
    assert len(list(rows.scan(b""))) == 5
    assert rows.get(references.reference_key(5)) is None


def test_expired_ones_come_in_the_order_of_their_ends() -> None:
    rows = Rows()
    for seq, end in ((1, 30), (2, 10), (3, 0), (300, 20), (70_000, 10)):
        references.add(rows, seq, name(ref=b"%d" % seq), t.ReferenceRow(end, 1, "a/b", None))
    assert [each.ref_id for each in references.expired(rows, 20)] == [b"2", b"70000", b"300"]
    assert not list(references.expired(rows, 9))


def test_accessors_of_a_blob_come_once_each() -> None:
    rows = Rows()
    for seq in range(1, 40):
        accessor = (GENERAL, RANDOM)[seq % 2]
        references.add(rows, seq, name(accessor=accessor, ref=b"%d" % seq), ROW)
    references.add(rows, 99, name(TWIN, Principal(b"x" * 32)), ROW)
    assert set(references.accessors_of(rows, BLOB)) == {GENERAL, RANDOM}
    assert len(list(references.accessors_of(rows, BLOB))) == 2


@given(st.lists(NUMBERS, max_size=5), st.binary(max_size=3))
def test_numbers_come_back(numbers: list[int], before: bytes) -> None:
    packed = before + b"".join(map(packing.pack_number, numbers))
    assert packing.unpack_numbers(packed, len(numbers), len(before)) == (numbers, len(packed))


@given(NUMBERS, NUMBERS, st.binary(max_size=2))
def test_numbers_in_keys_sort_as_they_count(one: int, other: int, more: bytes) -> None:
    first, second = packing.sortable(one), packing.sortable(other)
    assert (first < second) == (one < other)
    assert not (one != other and first.startswith(second))
    assert packing.sorted_number(b"K" + first + more, 1) == (one, 1 + len(first))


@given(NUMBERS, NUMBERS, st.text(max_size=40) | st.sampled_from(["image/png", "a/b"]), st.text())
def test_reference_rows_come_back(end: int, created: int, word: str, filename: str) -> None:
    row = t.ReferenceRow(end, created, word, filename or None)
    named = name(ref=filename.encode()[:64])
    found, rest = t.ReferenceId.unpack(named.pack() + row.pack())
    assert (found, t.ReferenceRow.unpack(rest)) == (named, row)


def test_what_a_common_blob_costs() -> None:
    assert len(ROW.pack()) == 7
    assert len(t.BlobRow(5_000_000, 5_000_001, 500_000, 1 << 20).pack()) <= 14
    assert len(t.ChunkRow(Extent(3, 200 << 20, 500_000), bytes(16)).pack()) <= 25


def test_the_places_of_content_types_are_the_layout() -> None:
    assert packing.pack_content_type("application/octet-stream") == b"\x01"
    assert packing.pack_content_type("text/plain; charset=utf-8") == b"\x13"
    assert packing.pack_content_type("x/y") == b"\0\x03x/y"
