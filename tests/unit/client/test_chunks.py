from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ostnode.client.chunks import Span, chunk_span, missing_chunks
from ostnode.wire.chunks import chunk_count


@given(size=st.integers(0, 500), chunk_bytes=st.integers(1, 50))
def test_spans_cover_the_blob_without_gaps(size: int, chunk_bytes: int) -> None:
    spans = [chunk_span(i, size, chunk_bytes) for i in range(chunk_count(size, chunk_bytes))]
    assert spans[0].offset == 0
    assert all(a.offset + a.length == b.offset for a, b in pairwise(spans))
    assert all(span.length == chunk_bytes for span in spans[:-1])
    assert spans[-1] == Span(spans[-1].offset, size - spans[-1].offset)


def test_missing_chunks_follow_the_bitmap() -> None:
    assert list(missing_chunks(3)) == [0, 1, 2]
    assert list(missing_chunks(10, bytes([0b1110_1110, 0b01]))) == [0, 4, 9]
    assert list(missing_chunks(10, bytes([0xFF]))) == [8, 9]
    assert list(missing_chunks(10, bytes([0xFF, 0xFF]))) == []


@given(chunks=st.integers(1, 100), received=st.sets(st.integers(0, 99)))
def test_missing_is_what_was_not_received(chunks: int, received: set[int]) -> None:
    bitmap = bytearray(13)
    for index in received:
        bitmap[index // 8] |= 1 << index % 8
    assert list(missing_chunks(chunks, bytes(bitmap))) == sorted(set(range(chunks)) - received)
