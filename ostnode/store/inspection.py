"""What lies in segment files, without changing anything: beside a running store, or without one.

Payloads of bulk kinds are not read; everything else is looked at, one record after the other, so
that a segment of any size takes the same memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from typing_extensions import override

from ostnode.store.checking import SegmentCheck, Suspect, named, record_of
from ostnode.store.disk import File, RealDisk
from ostnode.store.format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
    payload_digest,
    record_bytes,
)
from ostnode.store.keyspace import Reader
from ostnode.store.record import KIND_SEAL, ROLE_KIND_MAX, Extent, Problem
from ostnode.store.scan import Found
from ostnode.store.schema import Schema, Worth
from ostnode.store.segment import read

PROBLEMS_MAX: Final = 256
"""Problems of one segment that are kept; the others are counted."""
_LOCKS: Final = Path("/proc/locks")


class Line(NamedTuple):
    """One record, as a list of records shows it."""

    header: RecordHeader
    extent: Extent
    worth: Worth | None
    whole: bool


@dataclass(slots=True)
class Tally:
    """How many records, and the bytes they take with headers and padding."""

    records: int = 0
    nbytes: int = 0

    def add(self, nbytes: int) -> None:
        """Count one record."""
        self.records += 1
        self.nbytes += nbytes


@dataclass(slots=True)
class Inspected:
    """A segment's header and the sum of its records.

    Ranges are of the records seen, None without any. `worth` is None where nothing tells it; the
    store's own records are in none of its sums. `problems` are the first few of `problem_count`.
    """

    header: SegmentHeader | None
    sealed: bool
    seqs: tuple[int, int] | None = None
    batches: tuple[int, int] | None = None
    kinds: dict[int, Tally] = field(default_factory=dict)
    worth: dict[Worth, Tally] | None = None
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0

    def add(self, header: RecordHeader) -> None:
        """Count a record."""
        seqs, batches = self.seqs or (header.seq, 0), self.batches or (header.batch, 0)
        self.seqs, self.batches = (seqs[0], header.seq), (batches[0], header.batch)
        self.kinds.setdefault(header.kind, Tally()).add(record_bytes(header.length))

    def report(self, problem: Problem) -> None:
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)


class Inspector:
    """Sums up segment files. `rows` is the key space to judge by, None when it cannot be read.

    `seen` is called with every record, in the order of the log.
    """

    def __init__(
        self, schema: Schema, rows: Reader | None, seen: Callable[[Line], None] | None = None
    ) -> None:
        self._schema, self._rows, self._seen = schema, rows, seen

    def inspect(self, file: File, number: int) -> Inspected:
        """One segment. Blocking.

        What is wrong in the last batch of an unsealed segment is a torn write, and no problem.
        """
        check = SegmentCheck(file, number, payloads=False)
        found = Inspected(check.header, check.sealed)
        if self._rows is not None:
            found.worth = {worth: Tally() for worth in Worth}
        self._report(found, check.whole_file() if check.sealed else [])
        end, torn = SEGMENT_HEADER_BYTES, list[Suspect]()
        for item in check.items() if check.header else ():
            later = isinstance(item, Found) and (found.batches or (0, 0))[1] < item.header.batch
            if later:
                self._report(found, torn)
                torn = []
            suspects = list(check.judge(item))
            if isinstance(item, Found):
                suspects += self._record(file, number, item, found)
            if check.sealed:
                self._report(found, suspects)
            else:
                torn += suspects
            end = item.end
        if check.sealed:
            self._report(found, list(check.rest(end)))
        return found

    def _record(self, file: File, number: int, item: Found, found: Inspected) -> list[Suspect]:
        """Count a record; what is wrong with it."""
        head = item.header
        extent = Extent(number, item.offset, head.length)
        payload = self._payload(file, head, item.offset)
        worth = None
        if payload is not None and found.worth is not None and head.kind <= ROLE_KIND_MAX:
            worth = self._worth(head, extent, payload)
            found.worth[worth].add(record_bytes(head.length))
        found.add(head)
        if self._seen is not None:
            self._seen(Line(head, extent, worth, payload is not None))
        return [] if payload is not None else [named(number, item.offset, head)]

    def _payload(self, file: File, head: RecordHeader, offset: int) -> bytes | None:
        """The payload; b"" of a bulk record, None of a damaged one."""
        if head.kind in self._schema.bulk_kinds or head.kind == KIND_SEAL:
            return b""
        with suppress(OSError):
            data = read(file, offset + RECORD_HEADER_BYTES, head.length)
            if payload_digest(data) == head.digest:
                return data
        return None

    def _worth(self, head: RecordHeader, extent: Extent, payload: bytes) -> Worth:
        assert self._rows is not None
        return self._schema.worth(record_of(head, extent, payload), self._rows)

    def _report(self, found: Inspected, suspects: Iterable[Suspect]) -> None:
        for suspect in suspects:
            if self._rows is None or suspect.is_damage(self._schema, self._rows):
                found.report(suspect.problem)


def lock_holder(data_dir: Path) -> int | None:
    """The process that owns a data directory, without asking for its lock; 0 when not visible."""
    try:
        stat = (data_dir / "node.lock").stat()
        locks = _LOCKS.read_text("ascii")
    except OSError:
        return None
    place = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    for line in locks.splitlines():
        fields = line.split()
        if "FLOCK" in fields and place in fields:
            return int(fields[fields.index(place) - 1])
    return None


class LooseFile(RealDisk):
    """One segment file, in a directory that need be no data directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._segments, self._name = path.parent, path.name

    @override
    def names(self) -> list[str]:
        return [self._name]
