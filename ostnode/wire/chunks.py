"""How a blob is cut into chunks, as both ends of an upload reckon it. Pure.

All chunks but the last have `chunk_bytes` bytes; an empty blob is one empty chunk.
"""

from __future__ import annotations


def chunk_count(size: int, chunk_bytes: int) -> int:
    """How many chunks a blob of `size` bytes has; at least one."""
    return max(1, -(-size // chunk_bytes))


def chunk_length(index: int, size: int, chunk_bytes: int) -> int:
    """How many bytes chunk `index` of a blob of `size` bytes has."""
    return min(chunk_bytes, size - index * chunk_bytes)
