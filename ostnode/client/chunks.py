"""A blob as chunks: where each lies, which are missing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ostnode.wire.chunks import chunk_length


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [offset, offset + length) of a blob."""

    offset: int
    length: int


def chunk_span(index: int, size: int, chunk_bytes: int) -> Span:
    """Where chunk `index` lies in a blob of `size` bytes."""
    return Span(index * chunk_bytes, chunk_length(index, size, chunk_bytes))


def missing_chunks(chunks: int, received: bytes = b"") -> Sequence[int]:
    """The chunks that a received-bitmap lacks, ascending.

    Chunk i is bit `i % 8`, from the least, of byte `i // 8`; bits beyond the bitmap are clear.
    """
    if not received:
        return range(chunks)
    told = 8 * len(received)
    return [i for i in range(chunks) if i >= told or not received[i // 8] >> i % 8 & 1]
