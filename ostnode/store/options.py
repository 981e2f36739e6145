"""What a store is limited by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SEGMENT_BYTES_MIN: Final = 16 << 10
SEGMENT_BYTES_MAX: Final = 1 << 32
"""So that every payload's length fits its 32 bits."""


@dataclass(frozen=True)
class StoreOptions:
    """Limits of one store."""

    segment_bytes: int = 256 << 20
    batch_bytes_max: int = (4 << 20) + (64 << 10)
    """Four chunks of 1 MiB with their headers and some company."""
    queue_bytes_max: int = 16 << 20
    """Bytes admitted or staged and not yet durable."""
    segments_open_max: int = 64
    verify_reads: bool = True
    marker_delay_s: float = 0.05
    """How long the log is idle before a marker closes a burst."""

    def __post_init__(self) -> None:
        if not SEGMENT_BYTES_MIN <= self.segment_bytes <= SEGMENT_BYTES_MAX:
            raise ValueError(f"a segment has {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes")
