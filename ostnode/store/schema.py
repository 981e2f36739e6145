"""What a role tells the store about its records: what they do, and which are still needed."""

from __future__ import annotations

from collections.abc import Container
from enum import Enum, auto
from typing import Protocol

from ostnode.store.keyspace import Reader, Writer
from ostnode.store.record import Record


class Worth(Enum):
    """What a record is needed for."""

    LIVE = auto()
    """Without it the key space could not be rebuilt."""
    TOMBSTONE = auto()
    """Needed only while a file may hold an older record that it undoes."""
    DEAD = auto()
    """For nothing, and for ever: no later record can make it needed again."""


class Schema(Protocol):
    """The meaning of a role's records (kinds 1 to 199).

    All three are deterministic functions of the record and the rows. Compaction drops what is
    DEAD, and TOMBSTONEs that have nothing left to undo, from anywhere in the log: what remains,
    reduced in the order of sequence numbers, must give the same rows (extents apart).
    """

    @property
    def bulk_kinds(self) -> frozenset[int]:
        """Kinds whose payload stays in the segment; `Record.payload` is empty for them."""
        ...

    def reduce(self, record: Record, rows: Writer) -> None:
        """Apply one record; the only thing that changes the key space.

        It must accept any sequence of records, also one with records missing: recovery shows it
        what survived damage and compaction. Raising refuses the whole staged group; raising in
        recovery stops the start.
        """
        ...

    def worth(self, record: Record, rows: Reader) -> Worth:
        """What a durable record is needed for now. `rows` may change between two look-ups."""
        ...

    def relocate(self, record: Record, segments: Container[int], rows: Writer) -> None:
        """A bulk record was copied to `record.extent`: point its row there.

        Only a row that points into one of `segments` at this very record changes.
        """
        ...
