"""An output takes the place of its inputs: what opening and compaction do alike."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from typing_extensions import override

from ostnode.store.disk import File
from ostnode.store.format import FooterEntry
from ostnode.store.keyspace import Writer
from ostnode.store.layout import SegmentFile
from ostnode.store.record import Extent, Record
from ostnode.store.schema import Schema
from ostnode.store.segment import read

_SLICE_RECORDS: Final = 128
"""Rows moved in one go: 2 ms of the event loop."""


class AllBut(Container[int]):
    """Segments that are not in the log: some inputs may have been unlinked already."""

    def __init__(self, log: Container[int]) -> None:
        self._log = log

    @override
    def __contains__(self, number: object) -> bool:
        return number not in self._log


def copies(
    output: int, entries: Iterable[FooterEntry], bulk_kinds: Container[int]
) -> Iterator[list[Record]]:
    """The bulk records of an output as they now lie there, in slices."""
    records = (_record(output, entry) for entry in entries if entry.header.kind in bulk_kinds)
    while piece := list(islice(records, _SLICE_RECORDS)):
        yield piece


def _record(output: int, entry: FooterEntry) -> Record:
    head = entry.header
    numbers = (head.seq, head.batch, head.number, head.chunk_index)
    extent = Extent(output, entry.offset, head.length)
    return Record(head.kind, *numbers, head.blob, b"", head.digest, extent)


def move_rows(
    schema: Schema, records: Sequence[Record], inputs: Container[int], rows: Writer
) -> None:
    """Point the rows of copied records to the copies."""
    for record in records:
        schema.relocate(record, inputs, rows)


def confirm(file: File, output: SegmentFile) -> None:
    """Make a seal durable that another process wrote: its sync may never have come, or failed.

    A failed sync leaves pages that look clean and are lost, so the bytes are written again. The
    records were synced before the seal was begun.
    """
    assert output.trailer is not None
    start = output.trailer.seal_offset
    file.write(start, [read(file, start, output.nbytes - start)])
    file.sync()
