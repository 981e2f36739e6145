"""What a segment holds: from its footer, or by reading all of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ostnode.store.disk import File
from ostnode.store.format import FooterEntry, SegmentHeader, segment_key
from ostnode.store.record import KIND_SEAL, Damage, Problem
from ostnode.store.scan import Bad, Found, scan
from ostnode.store.segment import parse_footer, read_footer, read_trailer


@dataclass(frozen=True, slots=True)
class Contents:
    """A segment's records in the order of the log, and where its numbers end."""

    entries: list[FooterEntry]
    last_seq: int
    last_batch: int
    footer_damaged: bool = False


def read_contents(file: File, header: SegmentHeader, seen: int = 0) -> Contents:
    """From the footer, or by reading all of the segment when the footer is damaged.

    Whole records of batches up to `seen` are left out when there is a footer.
    """
    key = segment_key(header.uuid)
    trailer = read_trailer(file, key)
    footer = read_footer(file, trailer) if trailer else None
    if trailer is not None and footer is not None:
        return Contents(parse_footer(footer, seen), trailer.last_seq, trailer.last_batch)
    found = contents_of(list(scan(file, key)), header)
    kept = [entry for entry in found.entries if entry.header.kind != KIND_SEAL]
    return Contents(kept, found.last_seq, found.last_batch, footer_damaged=True)


def contents_of(items: Sequence[Found | Bad], header: SegmentHeader) -> Contents:
    """What a scan found."""
    found = [item.header for item in items if isinstance(item, Found)]
    return Contents(
        [item.entry() for item in items],
        max((head.seq for head in found), default=header.first_seq - 1),
        max((head.batch for head in found), default=header.first_batch - 1),
    )


def problem_of(segment: int, entry: FooterEntry) -> Problem:
    """What there is to say of a damaged record, or a damaged range."""
    head = entry.header
    if head.kind == 0:
        return Problem(Damage.RANGE, segment, entry.offset, head.length)
    names = (head.kind, head.blob, head.number, head.chunk_index, head.seq)
    return Problem(Damage.PAYLOAD, segment, entry.offset, head.length, *names)
