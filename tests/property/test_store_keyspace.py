"""The key space equals a plain dict, whatever is applied, committed and scanned in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ostnode.store.keyspace import Covered, DurableReader, Overlay, Writer
from ostnode.store.memoryindex import MemoryIndex
from ostnode.store.record import Extent, Record

RECORD = Record(1, 1, 1, 0, 0, bytes(32), b"", bytes(16), Extent(1, 4096, 0))
KEYS = st.binary(min_size=1, max_size=3).map(lambda key: bytes(b % 4 * 85 for b in key))
CHANGES = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=2)), max_size=12)
STEPS = st.lists(st.tuples(CHANGES, st.booleans(), KEYS | st.just(b""), st.binary(max_size=3)))


@given(STEPS)
def test_the_key_space_equals_a_dict(steps: list) -> None:
    index = MemoryIndex()
    overlay = Overlay(index)
    staged: dict[bytes, bytes] = {}
    durable: dict[bytes, bytes] = {}
    waiting: list[dict[bytes, bytes | None]] = []
    for number, (changes, commit, prefix, after) in enumerate(steps):
        waiting.append(_apply(overlay, staged, changes))
        if commit:
            oldest = waiting.pop(0)
            index.commit(oldest, Covered(1, bytes(16), number))
            overlay.retire(oldest)
            _update(durable, oldest)
        assert list(overlay.scan(prefix, after)) == _scan(staged, prefix, after)
        assert list(DurableReader(index).scan(prefix, after)) == _scan(durable, prefix, after)
        assert overlay.get(b"\x00") == staged.get(b"\x00")


def _apply(overlay: Overlay, staged: dict[bytes, bytes], changes: list) -> dict:
    gathered: dict[bytes, bytes | None] = {}

    def reducer(_record: Record, writer: Writer) -> None:
        for key, value in changes:
            writer.delete(key) if value is None else writer.put(key, value)

    overlay.apply([RECORD], reducer, gathered)
    _update(staged, gathered)
    return gathered


def _update(into: dict[bytes, bytes], changes: dict[bytes, bytes | None]) -> None:
    for key, value in changes.items():
        if value is None:
            into.pop(key, None)
        else:
            into[key] = value


def _scan(rows: dict[bytes, bytes], prefix: bytes, after: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, rows[key]) for key in sorted(rows) if key.startswith(prefix) and (key > after)]
