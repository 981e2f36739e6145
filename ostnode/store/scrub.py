"""Reading everything again, slowly: damage is found while there is still another copy.

A pass goes through the sealed segments in the order of the log. Its place is a sequence number, so
it survives restarts, and compaction in between: what a record was copied to is in the same place.
The segment being written to is left for the next pass; recovery has read it if it is ever needed
before. A pass ends with an audit of the key index.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, NamedTuple

import trio

from ostnode.env import Worker
from ostnode.store.auditing import Auditor
from ostnode.store.checking import Checked, SegmentCheck, Suspect
from ostnode.store.disk import Disk
from ostnode.store.keyspace import Reader
from ostnode.store.layout import read_layout
from ostnode.store.pace import Pace
from ostnode.store.pins import Pins
from ostnode.store.record import Problem
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


class _Turn(NamedTuple):
    """The segment to read next, and the last sequence number of its range."""

    segment: int
    last_seq: int


class _Open(NamedTuple):
    """The segment that is being read, and where to go on in it."""

    turn: _Turn
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
        auditor: Auditor,
    ) -> None:
        self._disk, self._worker, self._pins = disk, worker, pins
        self._schema, self._rows, self._auditor = schema, rows, auditor
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
            turn = await self._worker.run(_next_turn, self._disk, after_seq)
            if turn is None:
                await self._auditor.audit()
                missing = await self._worker.run(_missing, self._disk)
                return ScrubSlice(after_seq, done=True, problems=tuple(missing))
        else:
            turn = here.turn
        pin = self._pins.take(turn.segment)
        try:
            result = await self._worker.run(self._read, turn, here, after_seq, limit_bytes)
        finally:
            self._pins.release(turn.segment, pin)
        if result is None:  # compaction has taken it meanwhile; its output is in the same place
            self._open = None
            return ScrubSlice(after_seq)
        self._open, checked = result
        problems = await self._damage(checked.suspects)
        after = turn.last_seq if self._open is None else self._open.after_seq
        await pace.spend(checked.nbytes)
        return ScrubSlice(after, nbytes=checked.nbytes, problems=tuple(problems))

    def _read(
        self, turn: _Turn, here: _Open | None, after_seq: int, limit_bytes: int
    ) -> tuple[_Open | None, Checked] | None:
        """Check a slice; None when the segment is gone."""
        try:
            file = self._disk.open(segment_name(turn.segment))
        except FileNotFoundError:
            return None
        try:
            if here is None:
                check = SegmentCheck(file, turn.segment, cold=True)
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
        return _Open(turn, check, checked.next_offset, seq), checked

    async def _damage(self, suspects: list[Suspect]) -> list[Problem]:
        problems = []
        for count, suspect in enumerate(suspects, 1):
            if suspect.is_damage(self._schema, self._rows):
                problems.append(suspect.problem)
            if count % _JUDGED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return problems


def _next_turn(disk: Disk, after_seq: int) -> _Turn | None:
    """The first sealed segment with records behind `after_seq`."""
    log = read_layout(disk).log
    starts = [segment.first_seq for segment in log]
    for segment, following in zip_longest(log, starts[1:]):
        last_seq = segment.last_seq
        if last_seq is None:
            if following is None:
                return None  # it is being written to
            last_seq = following - 1
        if last_seq > after_seq:
            return _Turn(segment.number, last_seq)
    return None


def _missing(disk: Disk) -> list[Problem]:
    """Segments that are lost, and gaps in the log.

    Looked for twice: a compaction that ends during the first look takes files away under it.
    """
    problems = read_layout(disk).problems()
    return [problem for problem in read_layout(disk).problems() if problem in problems]
