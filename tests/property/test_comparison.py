"""The pure halves of a comparison: any pages, any cuts, and every difference told once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ostnode.ids import BlobId, ClusterId, Principal, Uid
from ostnode.roles.bucket import referencerows, tables
from ostnode.roles.bucket.views import View
from ostnode.roles.index.core import checking
from ostnode.roles.index.core.checking import Kind, Mending, Run, compare_holdings, differences
from ostnode.roles.index.core.rows import THE_INDEX, Bucket, Charge, Meta, User
from ostnode.roles.index.database.repository import run_alone
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.wire import checking as c
from tests.support.bucketlog import Rows

HERE, ELSEWHERE = Principal(b"h" * 32), Principal(b"e" * 32)
uids = st.sampled_from([Uid(bytes([n]) * 8) for n in range(3)])
# Ids that share their first eight bytes, and ids that do not.
blobs = st.builds(
    lambda tag, rest: BlobId(bytes([tag]) * 8 + bytes([rest]) * 24),
    st.integers(0, 2),
    st.integers(0, 3),
)
sizes = st.integers(0, 3)
keys = st.tuples(uids, blobs)


@given(
    st.dictionaries(st.binary(max_size=3), sizes | st.none()),
    st.dictionaries(st.binary(max_size=3), sizes),
)
def test_differences_are_what_the_sides_do_not_share(held: dict, charged: dict) -> None:
    found = {row.key: row for row in differences(held, charged)}
    assert list(found) == sorted(found)
    for key in held.keys() | charged.keys():
        same = key in held and key in charged and held[key] in {None, charged[key]}
        assert same == (key not in found)
    for key, row in found.items():
        assert (row.kind is Kind.CHARGE_WITHOUT_REFERENCE) == (key not in held)
        assert (row.kind is Kind.REFERENCE_WITHOUT_CHARGE) == (key not in charged)


@given(
    st.sets(st.tuples(keys, st.integers(0, 2)), max_size=30),
    st.dictionaries(blobs, sizes),
    st.binary(max_size=40),
)
def test_everything_held_is_told_once_and_in_order_from_any_place(
    references: set, stored: dict, after: bytes
) -> None:
    rows = Rows()
    for seq, ((uid, blob_id), chat) in enumerate(sorted(references, reverse=True), 1):
        name = tables.ReferenceId(blob_id, Principal(bytes([chat]) * 32), uid, b"")
        referencerows.add(rows, seq, name, tables.ReferenceRow(0, 1, "", None))
        size = stored.get(blob_id)
        # Two blobs that begin alike are told apart by what is stored.
        rows.put(tables.BLOBS + blob_id, tables.BlobRow(seq, seq, size or 0, 16).pack())
    told = [uid + blob_id for uid, blob_id, _ in View(rows).held(after)]
    assert told == sorted({uid + blob for (uid, blob), _ in references if uid + blob > after})


@given(
    st.dictionaries(keys, sizes, max_size=12),
    st.dictionaries(keys, st.tuples(st.sampled_from([HERE, ELSEWHERE]), sizes), max_size=12),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_pages_and_cuts_of_any_size_find_the_same(
    held: dict, charged: dict, page_rows: int, slice_rows: int, findings_max: int
) -> None:
    database = SqliteDatabase(None)
    bucket = Bucket(HERE, incarnation=1)

    def compare(rows) -> dict[tuple[str, bytes], tuple[int, int]]:
        rows.meta.put(Meta(THE_INDEX, 3, ClusterId(bytes(16)), HERE, 1, 0))
        for (uid, blob_id), (where, size) in charged.items():
            rows.users.put(User(uid, Principal(uid * 4), 1000, "refuse"))
            rows.charges.put(Charge(uid, blob_id, where, size, 1))
        after, done = b"", False
        while not done:
            place = after
            left = sorted(key for key in held if key[0] + key[1] > place)[:page_rows]
            through = left[-1][0] + left[-1][1] if len(left) == page_rows else b""
            page = c.Compare(
                1, c.Part.HOLDINGS, 1, 1, 0, after, through,
                tuple(c.Holding(*key, held[key]) for key in left),
            )  # fmt: skip
            answer = compare_holdings(rows, bucket, page, Run(1, Mending.REPORT, 1)).answer
            assert answer.done or answer.after > after
            after, done = answer.after, answer.done
        return {
            (row.kind, row.key): (row.expected, row.found)
            for row in rows.findings.where()
            if row.kind != Kind.UNKNOWN_USER
        }

    before = checking.CHARGES_MAX, checking.FINDINGS_MAX
    checking.CHARGES_MAX, checking.FINDINGS_MAX = slice_rows, findings_max
    try:
        found = run_alone(database, compare)
    finally:
        checking.CHARGES_MAX, checking.FINDINGS_MAX = before
        database.close()
    expected = {}
    for uid, blob_id in held.keys() | charged.keys():
        size = held.get((uid, blob_id))
        where, charge = charged.get((uid, blob_id), (None, None))
        key = uid + blob_id
        if size is not None and where is ELSEWHERE:
            expected[Kind.CHARGED_ELSEWHERE, key] = (charge, size)
        elif size is not None and where is None:
            expected[Kind.REFERENCE_WITHOUT_CHARGE, key] = (0, size)
        elif where is HERE and size is None:
            expected[Kind.CHARGE_WITHOUT_REFERENCE, key] = (charge, 0)
        elif where is HERE and size != charge:
            expected[Kind.WRONG_SIZE, key] = (charge, size)
    assert found == expected
