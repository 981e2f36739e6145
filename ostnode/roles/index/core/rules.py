"""The limits the index's decisions are held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REFUSE: Final = "refuse"
EVICT_OLDEST: Final = "evict_oldest"
ON_FULL: Final = (REFUSE, EVICT_OLDEST)
"""What may happen when an allowance is full: see `core.eviction`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Limits per cluster, user and bucket; shares are of a bucket's disk, 0 … 1.

    A bucket is full from `bucket_full_at` on and takes new blobs again at `bucket_back_at`.
    `target_active` buckets are kept active, with `headroom_bytes` free among them; 0 is no target,
    and then every bucket that reports is activated.
    """

    chunk_bytes: int = 1 << 20
    blob_bytes_max: int = 16 << 30
    grant_ttl_s: int = 3600
    user_grants_max: int = 1000
    user_blobs_max: int = 1_000_000
    accessor_deletions_per_day: int = 1000
    bucket_full_at: float = 0.95
    bucket_back_at: float = 0.90
    target_active: int = 0
    headroom_bytes: int = 0
