"""Large read buffers that are used again once nobody looks at them any more."""

from __future__ import annotations

from threading import Lock
from typing import Final

from ostnode.store.format import RECORD_HEADER_BYTES

_SIZES: Final = tuple((nbytes << 10) + RECORD_HEADER_BYTES for nbytes in (256, 512, 1024))
"""A payload's slice may come with its record's header. What is shorter than half of the first
comes from memory that the allocator keeps anyway; what is longer than the last is rare."""
_KEPT_MAX: Final = 16
"""Buffers of each size, 28 MiB in all at most: one for each of as many slow callers."""


class Buffers:
    """Memory for reads. A buffer is given out again when its last view is gone; any thread asks.

    The allocator gives large blocks back to the system as soon as they are free, and the first
    touch of fresh memory costs more than reading from the page cache (1.7 GB/s against 10 here).
    """

    def __init__(self) -> None:
        self._kept: dict[int, list[bytearray]] = {size: [] for size in _SIZES}
        self._lock = Lock()

    def take(self, length: int) -> memoryview:
        """`length` bytes of anything, nobody else's while a view of them lives.

        A view keeps at most about twice its length in memory.
        """
        size = next((size for size in _SIZES if size // 2 < length <= size), None)
        if size is None:
            return memoryview(bytearray(length))
        with self._lock:
            kept = self._kept[size]
            buffer = next(filter(_is_free, kept), None)
            if buffer is None:
                buffer = bytearray(size)
                if len(kept) < _KEPT_MAX:
                    kept.append(buffer)
            return memoryview(buffer)[:length]


def _is_free(buffer: bytearray) -> bool:
    """Whether no view of it is left: only then may a bytearray change its length."""
    try:
        buffer.pop()
    except BufferError:
        return False
    buffer.append(0)
    return True
