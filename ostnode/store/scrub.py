"""Reading everything again, slowly: damage is found while there is still another copy.

A pass goes through the sealed segments in the order of the log. Its place is a sequence number, so
it survives restarts, and compaction in between: what a record was copied to is in the same place.
The segment being written to is left for the next pass; recovery has read it if it is ever needed
before. A pass ends with an audit of the key index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import trio

from ostnode.env import Worker
from ostnode.store.auditing import Auditor
from ostnode.store.catalog import Catalog, SegmentInfo
from ostnode.store.checking import Checked, SegmentCheck, Suspect
from ostnode.store.disk import Disk
from ostnode.store.errors import NotAFileError
from ostnode.store.keyspace import Reader
from ostnode.store.layout import read_layout
from ostnode.store.pace import Pace
from ostnode.store.pins import Pins
from ostnode.store.record import Damage, Problem
from ostnode.store.schema import Schema
from ostnode.store.segment import segment_name

SLICE_BYTES: Final = 4 << 20
_JUDGED_AT_ONCE: Final = 64
"""Suspects judged before other tasks get their turn: each asks the key index."""


@dataclass(frozen=True, slots=True)
class ScrubSlice:
    """What one step of a pass has done.

    `after_seq` is where the next step goes on; `done` says that the pass has come to the end, and
    the next one begins at 0. `nbytes` were read.
    """

    after_seq: int
    done: bool = False
    nbytes: int = 0
    problems: tuple[Problem, ...] = ()


class _Open(NamedTuple):
    """The segment that is being read, and where to go on in it."""

    info: SegmentInfo
    check: SegmentCheck
    offset: int
    after_seq: int


class Scrubber:
    """Checks sealed segments step by step. One step at a time; it belongs to the event loop."""

    def __init__(
        self,
        disk: Disk,
        worker: Worker,
        pins: Pins,
        schema: Schema,
        rows: Reader,
        catalog: Catalog,
        auditor: Auditor,
    ) -> None:
        self._disk, self._worker, self._pins = disk, worker, pins
        self._schema, self._rows = schema, rows
        self._catalog, self._auditor = catalog, auditor
        self._open: _Open | None = None

    async def step(self, after_seq: int, pace: Pace, limit_bytes: int = SLICE_BYTES) -> ScrubSlice:
        """Check records behind `after_seq`, about `limit_bytes` of one segment, then pay for it.

        Damage is reported once in a pass, and again in the next one. A record that is needed no
        more is not damaged, whatever its bytes are. Raises StoreFailedError when the key index is
        damaged.
        """
        here = self._open
        if here is None or here.after_seq != after_seq:
            self._open = here = None
            info = self._catalog.behind(after_seq)
            if info is None:
                await self._auditor.audit(pace)
                missing = await self._worker.run(_missing, self._disk)
                return ScrubSlice(after_seq, done=True, problems=tuple(missing))
        else:
            info = here.info
        pin = self._pins.take(info.number)
        try:
            result = await self._worker.run(self._read, info, here, after_seq, limit_bytes)
        finally:
            self._pins.release(info.number, pin)
        if result is None:
            self._open = None
            return self._gone(info, after_seq)
        self._open, checked = result
        problems = await self._damage(checked.suspects)
        after = max(info.last_seq, after_seq) if self._open is None else self._open.after_seq
        await pace.spend(checked.nbytes)
        return ScrubSlice(after, nbytes=checked.nbytes, problems=tuple(problems))

    def _gone(self, info: SegmentInfo, after_seq: int) -> ScrubSlice:
        """Compaction has taken the file: its output is in the same place. Or it is lost."""
        following = self._catalog.behind(after_seq)
        if following is None or following.number != info.number:
            return ScrubSlice(after_seq)
        lost = Problem(Damage.SEGMENT, info.number, 0, info.nbytes)
        return ScrubSlice(info.last_seq, problems=(lost,))

    def _read(
        self, info: SegmentInfo, here: _Open | None, after_seq: int, limit_bytes: int
    ) -> tuple[_Open | None, Checked] | None:
        """Check a slice; None when the segment is gone."""
        try:
            file = self._disk.open(segment_name(info.number))
        except (FileNotFoundError, NotAFileError):
            return None
        try:
            if here is None:
                check = SegmentCheck(file, info.number, cold=True)
                first = check.whole_file()
                if check.header is None:
                    return None, Checked(first)
                offset = check.offset_of(after_seq)
            else:
                _, check, offset, _ = here
                check.reopen(file)
                first = []
            checked = check.step(offset, limit_bytes)
            checked.suspects[:0] = first
        finally:
            file.close()
        if checked.next_offset is None:
            return None, checked
        seq = max(checked.seq, after_seq)
        return _Open(info, check, checked.next_offset, seq), checked

    async def _damage(self, suspects: list[Suspect]) -> list[Problem]:
        problems = []
        for count, suspect in enumerate(suspects, 1):
            if suspect.is_damage(self._schema, self._rows):
                problems.append(suspect.problem)
            if count % _JUDGED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return problems


def _missing(disk: Disk) -> list[Problem]:
    """Segments that are lost, and gaps in the log.

    Looked for twice: a compaction that ends during the first look takes files away under it.
    """
    problems = read_layout(disk).problems()
    return [problem for problem in read_layout(disk).problems() if problem in problems]
