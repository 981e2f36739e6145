"""A blob as chunks: how many, where each lies, which are missing. Pure.

All chunks but the last have `chunk_bytes` bytes; an empty blob is one empty chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [offset, offset + length) of a blob."""

    offset: int
    length: int


def chunk_count(size: int, chunk_bytes: int) -> int:
    """How many chunks a blob of `size` bytes has; at least one."""
    return max(1, -(-size // chunk_bytes))


def chunk_span(index: int, size: int, chunk_bytes: int) -> Span:
    """Where chunk `index` lies in a blob of `size` bytes."""
    offset = index * chunk_bytes
    return Span(offset, min(chunk_bytes, size - offset))


def missing_chunks(chunks: int, received: bytes = b"") -> Sequence[int]:
    """The chunks that a received-bitmap lacks, ascending.

    Chunk i is bit `i % 8`, from the least, of byte `i // 8`; bits beyond the bitmap are clear.
    """
    if not received:
        return range(chunks)
    told = 8 * len(received)
    return [i for i in range(chunks) if i >= told or not received[i // 8] >> i % 8 & 1]
