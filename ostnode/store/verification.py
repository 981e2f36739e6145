"""Checking a log from one end to the other while nobody uses it, and its key index against it.

The log is only read. What recovery would do to it is done in memory (`FrozenDisk`), and a key index
is made from it in a directory of its own. The key index that is there is compared with that row by
row, in a copy that recovery has brought up to the log.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import lmdb

from ostnode.store.disk import RealDisk, sync_directory
from ostnode.store.frozen import FrozenDisk
from ostnode.store.indexview import ScratchIndex
from ostnode.store.keyspace import RESERVED, Covered, DurableReader, KeyIndex, Reader, Row
from ostnode.store.layout import Layout, read_layout
from ostnode.store.logcheck import LogCheck
from ostnode.store.record import Damage, Problem
from ostnode.store.recovery import recover
from ostnode.store.schema import Schema

FINDINGS_MAX: Final = 1000
"""Findings that are kept; the others are counted."""
_PLACES_MAX: Final = 100_000
"""Places remembered, so that what is found twice is told once."""
_PAGE_ROWS: Final = 1024

Referrers = Callable[[bytes, Reader], Sequence[str]]
"""Who refers to a blob, by the rows: the role's to say."""
Progress = Callable[[int, int], None]
"""Called with bytes checked and bytes in all."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `problem` is about the log, `key` about a row of the key index."""

    detail: str = ""
    problem: Problem | None = None
    key: bytes = b""
    referrers: Sequence[str] = ()


@dataclass(slots=True)
class Verified:
    """What a check found. `findings` are the first of `finding_count`.

    `index` is "equal", "differs", or why it was not compared. `notes` tell what the next start will
    do to the directory; none of it is damage.
    """

    segments: int = 0
    records: int = 0
    nbytes: int = 0
    index: str = "equal"
    rows: int = 0
    rows_differing: int = 0
    index_damaged: bool = False
    """It cannot be used, and should be of use."""
    is_replaced: bool = False
    findings: list[Finding] = field(default_factory=list)
    finding_count: int = 0
    notes: list[str] = field(default_factory=list)

    def report(self, finding: Finding) -> None:
        """Count a finding, and keep it while there is room."""
        self.finding_count += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)


class Verifier:
    """Checks the log in `data_dir`, whose lock the caller holds. Blocking."""

    def __init__(
        self, data_dir: Path, schema: Schema, referrers: Referrers, progress: Progress
    ) -> None:
        self._dir, self._schema = data_dir, schema
        self._referrers, self._progress = referrers, progress
        self._scratch = data_dir / "verify"
        self._seen: set[tuple[Damage, int, int]] = set()
        self._is_lossy = False
        self.found = Verified()

    def run(self, *, replace: bool = False) -> Verified:
        """Check everything; with `replace`, put the key index made from the log in its place.

        Not when records are lost that the present one may still know. Raises OSError, and
        StoreOwnerError for segments of different buckets.
        """
        self._clear()
        try:
            self._scratch.mkdir(mode=0o700)
            self._check(replace=replace)
        finally:
            self._clear()
        return self.found

    def _clear(self) -> None:
        """What an earlier check left behind when it was killed goes too."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._scratch)

    def _check(self, *, replace: bool) -> None:
        layout = read_layout(RealDisk(self._dir))
        rebuilt = ScratchIndex(self._scratch / "rebuilt")
        recovered = recover(FrozenDisk(RealDisk(self._dir)), rebuilt, self._schema, _owner(layout))
        is_better = False
        try:
            self._note_repairs(layout)
            last_batch = recovered.covered.batch if recovered.covered else 0
            with self._current(layout, last_batch) as current:
                rows = DurableReader(current or rebuilt)
                self._check_log(layout, rows)
                for problem in recovered.problems:
                    self._report(problem, "", rows)
                if current is not None:
                    self._compare(current, rebuilt)
                is_better = replace and self._is_better(current)
        finally:
            rebuilt.close(clean=is_better)
        if is_better:
            self._replace()

    def _is_better(self, current: KeyIndex | None) -> bool:
        """Whether the key index made from the log is to take the place of `current`."""
        if current is not None and self.found.index == "equal":
            return False
        if current is not None and self._is_lossy:
            self.found.notes.append("the key index stays: it may hold what the log has lost")
            return False
        return True

    def _replace(self) -> None:
        """A crash in between leaves no key index: the next start makes one."""
        place = self._dir / "keyindex"
        with suppress(FileNotFoundError):
            place.rename(self._scratch / "replaced")
        (self._scratch / "rebuilt").rename(place)
        sync_directory(self._dir)
        self.found.is_replaced = True

    def _note_repairs(self, layout: Layout) -> None:
        notes = self.found.notes
        kinds = (
            ("a compaction that never ended", layout.unfinished),
            ("prepared, never written to", layout.blank),
            ("replaced by a compaction", [file.number for file in layout.leftovers]),
        )
        for why, numbers in kinds:
            notes += [f"segment {number} will be removed: {why}" for number in numbers]

    def _check_log(self, layout: Layout, rows: Reader) -> None:
        check, found = LogCheck(RealDisk(self._dir)), self.found
        total = sum(segment.nbytes for segment in layout.log)
        for segment in layout.log:
            found.segments += 1
            for step in check.segment(segment, is_last=segment is layout.log[-1]):
                found.records += step.is_record
                found.nbytes += step.nbytes
                for flaw in step.flaws:
                    if flaw.suspect.is_damage(self._schema, rows):
                        self._report(flaw.suspect.problem, flaw.detail, rows)
                self._progress(min(found.nbytes, total), total)
        if check.torn is not None:
            number, offset, nbytes = check.torn
            found.notes.append(
                f"segment {number} ends with {nbytes} bytes of a batch that was never whole, at "
                f"offset {offset}: they will be cut off"
            )

    def _report(self, problem: Problem, detail: str, rows: Reader) -> None:
        """Once for each place: recovery and the check of the log find the same."""
        place = (problem.what, problem.segment, problem.offset)
        if not detail and place in self._seen:
            return
        if len(self._seen) < _PLACES_MAX:
            self._seen.add(place)
        self._is_lossy |= problem.kind not in self._schema.bulk_kinds and not detail
        referrers = self._referrers(problem.blob, rows) if any(problem.blob) else ()
        self.found.report(Finding(detail, problem, referrers=referrers))

    @contextmanager
    def _current(self, layout: Layout, last_batch: int) -> Iterator[KeyIndex | None]:
        """The key index that is there, brought up to the log; None when it would not be used."""
        original = self._dir / "keyindex"
        copy = ScratchIndex(self._scratch / "copy", original)
        was_clean = copy.says_clean()
        try:
            recover(FrozenDisk(RealDisk(self._dir)), copy, self._schema, _owner(layout))
        except lmdb.Error as error:
            self._note_index(f"cannot be read: {error}", is_damage=True)
            yield None
            return
        try:
            if copy.was_reset:
                is_there = (original / "data.mdb").exists()
                self._note_useless(copy.covered, last_batch, was_clean=was_clean and is_there)
            yield None if copy.was_reset else copy
        finally:
            copy.close(clean=False)

    def _note_useless(self, covered: Covered | None, last_batch: int, *, was_clean: bool) -> None:
        """Say why the next start will make the key index anew."""
        if covered is None and was_clean:
            self._note_index("is not what it was when it was closed", is_damage=True)
        elif covered is not None and covered.batch > last_batch:
            self._note_index("has followed a log that was longer than this one", is_damage=True)
        else:
            self._note_index("is of no use: the next start makes one", is_damage=False)

    def _note_index(self, why: str, *, is_damage: bool) -> None:
        self.found.index = why
        self.found.index_damaged = is_damage
        if is_damage:
            self.found.report(Finding(f"the key index {why}"))
        else:
            self.found.notes.append(f"the key index {why}")

    def _compare(self, current: KeyIndex, rebuilt: KeyIndex) -> None:
        """Row by row; the store's own rows are estimates and differ."""
        for key, difference in merged(rows_of(current), rows_of(rebuilt)):
            self.found.rows += 1
            if difference:
                self.found.rows_differing += 1
                self.found.index = "differs"
                self.found.report(Finding(difference, key=key))


def _owner(layout: Layout) -> bytes:
    return layout.log[0].header.owner if layout.log else b""


def rows_of(index: KeyIndex) -> Iterator[Row]:
    """All rows of a key index but the store's own."""
    low = bytes([RESERVED[0] + 1])
    while True:
        page = index.page(low, None, _PAGE_ROWS)
        yield from page
        if len(page) < _PAGE_ROWS:
            return
        low = page[-1][0] + b"\0"


def merged(current: Iterator[Row], rebuilt: Iterator[Row]) -> Iterator[tuple[bytes, str]]:
    """Every key of two key indexes in order, and how their rows differ; "" when they are equal."""
    ours, theirs = next(current, None), next(rebuilt, None)
    while ours is not None or theirs is not None:
        if theirs is None or (ours is not None and ours[0] < theirs[0]):
            assert ours is not None
            yield ours[0], "the log does not make this row"
            ours = next(current, None)
        elif ours is None or theirs[0] < ours[0]:
            yield theirs[0], "this row is missing"
            theirs = next(rebuilt, None)
        else:
            yield ours[0], "" if ours[1] == theirs[1] else "the log makes another row"
            ours, theirs = next(current, None), next(rebuilt, None)
