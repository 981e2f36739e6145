"""Changes of rows that no record makes: a compaction moves what points into its inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Final

from typing_extensions import override

from ostnode.store.keyspace import Covered
from ostnode.store.staging import Batch

_NUMBERS: Final = count(-1, -1)


@dataclass(slots=True, eq=False)
class Upkeep(Batch):
    """Committed to the key index in its turn among the batches; nothing is written to the log.

    In its turn, because a batch that is on its way may hold a row that it copied from an older one.
    """

    number: int = field(default_factory=lambda: next(_NUMBERS))
    segment: int = 0
    offset: int = 0
    end: int = 0
    inputs: frozenset[int] = frozenset()
    """Segments that nothing points into any more once this is committed,"""
    output: tuple[int, bytes] = (0, b"")
    """and number and uuid of the one that stands for them."""

    @property
    @override
    def seals(self) -> bool:
        return False

    @property
    @override
    def is_ours(self) -> bool:
        return True

    def position(self, covered: Covered) -> Covered:
        """Where the key index stands after it."""
        if covered.segment not in self.inputs:
            return covered
        return Covered(*self.output, covered.batch)
