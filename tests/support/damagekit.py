"""A small log whose every byte is known, damaged and opened again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import trio
import trio.testing

from ostnode.errors import DataCorruptError
from ostnode.store import format as f
from ostnode.store.record import KIND_MARKER, KIND_SEAL, Damage, Extent, Problem
from ostnode.store.scan import Found, scan
from ostnode.store.segment import read_header, segment_name, segment_number
from ostnode.store.simdisk import SimDisk, SimIndex, copy_index
from ostnode.store.store import Store
from tests.support.storecrash import TINY
from tests.support.storekit import CHUNK, COUNT, SET, chunk, count, dump, opened, set_

INDEXES = ("kept", "old", "lost")
ROLES = ("sealed first", "sealed middle", "open last", "prepared")
"""The log's files, by number."""
GROUPS = 4
"""Groups per segment."""
_FIELDS = {
    "magic": 4, "kind": 1, "flags": 1, "version": 2, "length": 4, "index": 4, "seq": 8,
    "batch": 8, "number": 8, "blob": 32, "digest": 16, "check": 8,
}  # fmt: skip
assert sum(_FIELDS.values()) == f.RECORD_HEADER_BYTES
_KINDS = {
    CHUNK: "bulk",
    SET: "metadata",
    COUNT: "metadata",
    KIND_MARKER: "marker",
    KIND_SEAL: "seal",
}
HARMLESS = frozenset({"header rest", "padding", "tail", "first header copy", "second header copy"})
"""Classes of bytes in which one flipped bit changes nothing that anybody is told."""


@dataclass(frozen=True)
class Region:
    """Bytes of one class in a segment; `row` is what the record they belong to makes."""

    role: str
    segment: int
    start: int
    end: int
    what: str
    row: bytes = b""

    @property
    def name(self) -> str:
        """The class, and where the segment stands in the log."""
        return f"{self.role}: {self.what}"


@dataclass(frozen=True)
class Known:
    """A log of two sealed segments and an open one, killed after a marker proved all of it."""

    disk: SimDisk
    old_index: SimIndex
    rows: dict[bytes, bytes]
    payloads: dict[bytes, bytes]
    regions: list[Region]

    def damaged(self, segment: int, offset: int, mask: bytes, index: str) -> SimDisk:
        """A copy with `mask` laid over some bytes, and one of the key indexes."""
        disk = self.disk.killed(0)
        for at, bits in enumerate(mask):
            disk.flip(segment_name(segment), offset + at, bits)
        if index != "kept":
            disk.index = copy_index(self.old_index) if index == "old" else SimIndex()
            disk.index.disk = disk
        return disk

    def hit(self, segment: int, offset: int, length: int) -> list[Region]:
        """The regions that a range touches."""
        return [
            region
            for region in self.regions
            if region.segment == segment and region.start < offset + length and region.end > offset
        ]


@dataclass(frozen=True)
class Outcome:
    """What a store made of a damaged log."""

    problems: tuple[Problem, ...]
    wrong: list[bytes]
    """Rows with another value than was written, and payloads with other bytes: never."""
    refused: set[bytes]
    """Chunks that it would not read."""
    absent: set[bytes]


def known() -> Known:
    """Make the log."""
    disk = SimDisk(1)

    async def live(first: int) -> SimDisk:
        async with opened(disk, TINY, seed=first) as store:
            for number in range(first, first + GROUPS):
                await store.commit([
                    set_(f"k{number}", f"value {number}"),
                    chunk(Random(number).randbytes(200), number, 0),
                    chunk(Random(number).randbytes(13), number, 1),
                    count(f"c{number}"),
                ])
            await trio.sleep(1)
            return disk.killed(0)

    def run(first: int) -> SimDisk:
        return trio.run(live, first, clock=trio.testing.MockClock(autojump_threshold=0))

    run(1)
    old_index = copy_index(disk.index)
    run(1 + GROUPS)
    killed = run(1 + 2 * GROUPS)
    numbers = [number for name in killed.names() if (number := segment_number(name))]
    regions = [
        region
        for role, number in zip(ROLES, numbers, strict=True)
        for region in _regions(killed, number, role)
    ]
    rows, payloads = _read(killed.killed(0))
    return Known(killed, old_index, rows, payloads, regions)


def _read(disk: SimDisk) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    async def read() -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        async with opened(disk, TINY) as store:
            rows = dump(store.durable)
            return rows, {
                key: bytes(await store.read(Extent.unpack(value)))
                for key, value in rows.items()
                if key[:1] == b"C"
            }

    return trio.run(read)


def _regions(disk: SimDisk, segment: int, role: str) -> Iterator[Region]:
    file = disk.open(segment_name(segment))
    header = read_header(file)
    if header is None:
        yield Region(role, segment, 0, file.size(), "nothing yet")
        file.close()
        return
    body, half = f._SEGMENT.size, f.SEGMENT_HEADER_BYTES // 2
    yield Region(role, segment, 0, body, "first header copy")
    yield Region(role, segment, body, half, "header rest")
    yield Region(role, segment, half, half + body, "second header copy")
    yield Region(role, segment, half + body, f.SEGMENT_HEADER_BYTES, "header rest")
    end = f.SEGMENT_HEADER_BYTES
    for found in scan(file, f.segment_key(header.uuid)):
        assert isinstance(found, Found)
        yield from _record(disk, segment, role, found)
        end = found.end
        if found.header.kind == KIND_SEAL:
            yield Region(role, segment, end, end + f.TRAILER_BYTES, "trailer")
            end += f.TRAILER_BYTES
    if end < file.size():
        yield Region(role, segment, end, file.size(), "tail")
    file.close()


def _record(disk: SimDisk, segment: int, role: str, found: Found) -> Iterator[Region]:
    head, at = found.header, found.offset
    start = at + f.RECORD_HEADER_BYTES
    payload = bytes(disk.files[segment_name(segment)].seen[start : start + head.length])
    kind, row = _KINDS[head.kind], _row(head, payload)
    for field, length in _FIELDS.items():
        yield Region(role, segment, at, at + length, f"{kind} {field}", row)
        at += length
    if head.length:
        what = "footer" if kind == "seal" else f"{kind} payload"
        yield Region(role, segment, start, start + head.length, what, row)
    if found.end > start + head.length:
        yield Region(role, segment, start + head.length, found.end, "padding")


def _row(head: f.RecordHeader, payload: bytes) -> bytes:
    """The key of the row that a record makes."""
    if head.kind == CHUNK:
        return (
            b"C" + head.blob + head.number.to_bytes(8, "big") + head.chunk_index.to_bytes(4, "big")
        )
    if head.kind in {SET, COUNT}:
        return (b"M" if head.kind == SET else b"N") + payload.partition(b"=")[0]
    return b""


def look(log: Known, disk: SimDisk) -> Outcome:
    """Open a damaged log and read all of it; then write to it, and find that by a rebuild."""

    async def first() -> Outcome:
        async with opened(disk, TINY, seed=99) as store:
            outcome = await _outcome(log, store)
            await store.commit([set_("after", "damage")])
            return outcome

    async def again() -> Outcome:
        async with opened(disk, TINY, seed=100) as store:
            assert store.state.get(b"Mafter") == b"damage", "a write after the damage is lost"
            return await _outcome(log, store)

    outcome = trio.run(first)
    later = trio.run(again)
    assert (later.absent, later.refused) == (outcome.absent, outcome.refused)
    return Outcome(outcome.problems, outcome.wrong + later.wrong, outcome.refused, outcome.absent)


async def _outcome(log: Known, store: Store) -> Outcome:
    rows = dump(store.durable)
    rows.pop(b"Mafter", None)
    wrong = [key for key in rows if key not in log.rows]
    refused = set()
    for key, value in log.rows.items():
        if key not in rows:
            continue
        if key not in log.payloads:
            wrong += [key] if rows[key] != value else []
            continue
        try:
            data = bytes(await store.read(Extent.unpack(rows[key])))
        except DataCorruptError:
            refused.add(key)
        else:
            wrong += [key] if data != log.payloads[key] else []
    return Outcome(store.problems, wrong, refused, log.rows.keys() - rows.keys())


def is_reported(outcome: Outcome, segment: int, offset: int) -> bool:
    """Whether a problem covers that byte."""
    whole = {Damage.FOOTER, Damage.SEGMENT}
    return any(
        problem.segment == segment
        and (
            problem.what in whole
            or problem.offset <= offset < problem.offset + f.record_bytes(problem.length)
        )
        for problem in outcome.problems
    )


def judge(log: Known, segment: int, offset: int, mask: bytes, index: str) -> str:
    """Damage a copy, open it, check it; how it went, in a word."""
    hit = log.hit(segment, offset, len(mask))
    where = f"{index} index, {offset}+{len(mask)}: {', '.join(region.name for region in hit)}"
    outcome = look(log, log.damaged(segment, offset, mask, index))
    rows = {region.row for region in hit} - {b""}
    assert not outcome.wrong, f"{where}: wrong bytes for {outcome.wrong}"
    assert outcome.refused | outcome.absent <= rows, f"{where}: others are gone too"
    for row in outcome.absent:
        at = next(region.start for region in hit if region.row == row)
        assert is_reported(outcome, segment, max(at, offset)), f"{where}: gone, and not reported"
    if index == "kept":
        assert not any(row[:1] != b"C" for row in outcome.absent), f"{where}: not in the index"
    return word(outcome)


def word(outcome: Outcome) -> str:
    if outcome.absent:
        return "lost and reported"
    if outcome.refused:
        return "refused and reported" if outcome.problems else "refused when read"
    return "whole and reported" if outcome.problems else "whole"
