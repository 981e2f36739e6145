from __future__ import annotations

import pytest

from ostnode.wire.chunks import chunk_count, chunk_length


@pytest.mark.parametrize(
    ("size", "chunks"), [(0, 1), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (1 << 40, 1 << 38)]
)
def test_chunk_count(size: int, chunks: int) -> None:
    assert chunk_count(size, 4) == chunks


@pytest.mark.parametrize(("size", "lengths"), [(0, [0]), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_only_the_last_chunk_is_shorter(size: int, lengths: list[int]) -> None:
    assert [chunk_length(i, size, 4) for i in range(chunk_count(size, 4))] == lengths
