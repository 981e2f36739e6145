"""What decisions are made by: the bucket's name and its caps."""

from __future__ import annotations

from dataclasses import dataclass

from ostnode.ids import Principal


@dataclass(frozen=True, slots=True)
class Rules:
    """Caps per user keep what is free of charge (references, empty blobs) from growing for ever.

    `free_bytes_min` of the disk are left alone when room is promised to an upload. Other clocks
    may be `skew_s` behind.
    """

    bucket: Principal
    user_uploads_max: int = 64
    user_references_max: int = 1_000_000
    free_bytes_min: int = 64 << 20
    skew_s: int = 60
