"""How far a transfer is, for whoever draws it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """What the bytes of a Progress are being."""

    HASH = "hash"
    PUSH = "push"
    DOWNLOAD = "download"


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` bytes of one phase.

    While a stream is hashed its total is not known yet and equals `done`. What a resumed upload
    finds at the bucket counts as done from the start; when a bucket drops chunks it had (its
    grant died), `done` falls.
    """

    phase: Phase
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]
"""Called in the Trio thread, often: it must be quick and must not raise."""


def ignore_progress(_progress: Progress) -> None:
    """For callers who do not watch."""
