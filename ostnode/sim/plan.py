"""What a simulation is made of, as plain data: printed, kept, shortened and run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

CHUNK_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong at `at_s` and lasts `for_s`; see `ostnode.sim.faults` for the
    kinds, and what `other` and `amount` are to each.
    """

    at_s: float
    kind: str
    node: str
    for_s: float = 0.0
    other: str = "*"
    amount: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A cluster and what happens to it. `index` and `bucket` are keys of their config tables that
    are not as usual.
    """

    seed: int
    buckets: int = 2
    faults: tuple[Fault, ...] = ()
    chunk_bytes: int = CHUNK_BYTES
    index: Mapping[str, object] = field(default_factory=dict)
    bucket: Mapping[str, object] = field(default_factory=dict)
