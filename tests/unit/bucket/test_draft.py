"""A draft shows the rows as its records will leave them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ostnode.roles.bucket.core.draft import Draft, _Overlay
from ostnode.roles.bucket.records import Floor
from tests.support.bucketlog import Rows

KEYS = st.binary(min_size=1, max_size=3).map(lambda key: bytes(byte % 3 for byte in key))


def filled(values: dict[bytes, bytes]) -> Rows:
    rows = Rows()
    for key, value in values.items():
        rows.put(key, value)
    return rows


@given(
    st.dictionaries(KEYS, st.just(b"old")),
    st.dictionaries(KEYS, st.sampled_from([b"new", b"", None])),
    st.one_of(st.just(b""), KEYS),
    st.one_of(st.just(b""), KEYS),
)
def test_an_overlay_reads_like_the_changed_rows(
    old: dict[bytes, bytes], changes: dict[bytes, bytes | None], prefix: bytes, after: bytes
) -> None:
    overlay, model = _Overlay(filled(old)), filled(old)
    for key, value in changes.items():
        if value is None:
            overlay.delete(key)
            model.delete(key)
        else:
            overlay.put(key, value)
            model.put(key, value)
    assert list(overlay.scan(prefix, after)) == list(model.scan(prefix, after))
    assert [overlay.get(key) for key in old | changes] == [model.get(key) for key in old | changes]


def test_a_draft_changes_nothing_by_itself() -> None:
    rows = Rows()
    draft = Draft(rows, next_seq=7)
    draft.add(Floor(5))
    assert draft.number(b"Mfloor") == 5
    assert draft.next_seq == 8
    assert rows.values == {}
