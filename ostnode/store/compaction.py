"""Compaction: rewriting adjacent segments without what nothing needs any more.

It only goes forward. Until the output is sealed, the inputs are the log, and a crash leaves a file
that the next start removes. From then on the output is: rows are moved to it in slices, each in its
turn among the log's batches, and the inputs are unlinked once nothing points into them and their
readers are done. What stops in between is finished by the next compaction, or the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import trio

from ostnode.env import Worker
from ostnode.store.catalog import Catalog, SegmentInfo
from ostnode.store.disk import Disk
from ostnode.store.errors import NoSpaceError, StoreFailedError, StoreFullError
from ostnode.store.judging import Judgement, Judging, whole_blocks
from ostnode.store.keyspace import DurableReader, Overlay, Writer, dead_key, pack_dead, parse_dead
from ostnode.store.log import Log
from ostnode.store.output import Copy
from ostnode.store.planning import Run
from ostnode.store.reading import SegmentReader
from ostnode.store.record import Extent, Problem, Record
from ostnode.store.schema import Schema
from ostnode.store.segment import segment_name
from ostnode.store.staging import Staging
from ostnode.store.swap import copies, move_rows
from ostnode.store.upkeep import Upkeep
from ostnode.store.writer import GroupCommit

_DISCARD_DEADLINE_S: Final = 5.0
_PUNCHES: Final = 64
"""Holes made in one thread hop."""
_PUNCH_COST_BYTES: Final = 16 << 10
"""What a hole counts as for the pace: a write into the file system's journal."""


class Spending(Protocol):
    """What background work is paced by: `Pace`."""

    async def spend(self, nbytes: int) -> None:
        """Wait until work of so many bytes is paid for."""
        ...


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one run came to. Bytes of the disk; records of the role."""

    segments: tuple[int, ...]
    output: int
    freed: int
    kept: int
    dropped: int
    problems: tuple[Problem, ...]
    """Records found damaged while they were copied, where they lie now, and lost ranges."""


@dataclass(slots=True)
class _Swap:
    """A sealed output that takes its inputs' place."""

    inputs: list[SegmentInfo]
    output: SegmentInfo
    uuid: bytes
    slices: Iterator[list[Record]]
    dead_before: int
    last: Upkeep | None = None


class Compactor:
    """Judges, rewrites and punches sealed segments; one of the latter two at a time."""

    def __init__(
        self,
        *,
        disk: Disk,
        worker: Worker,
        schema: Schema,
        durable: DurableReader,
        overlay: Overlay,
        staging: Staging,
        commit: GroupCommit,
        log: Log,
        reading: SegmentReader,
        catalog: Catalog,
    ) -> None:
        self._disk, self._worker, self._schema = disk, worker, schema
        self._durable, self._overlay = durable, overlay
        self._staging, self._commit, self._log = staging, commit, log
        self._reading, self._catalog = reading, catalog
        self._busy = trio.Lock()
        self._swap: _Swap | None = None
        self.shrunk = 0
        """Bytes by which segments have become shorter."""

    async def judge(self, number: int) -> Judgement:
        """What a sealed segment's records are worth; ValueError when it is none."""
        (info,) = self._catalog.run([number])
        worth = (self._schema, self._durable)
        judging = await self._worker.run(Judging, self._disk, number, *worth)
        try:
            while await self._worker.run(judging.step):
                pass
            return replace(judging.result(), last_seq=info.last_seq)
        finally:
            judging.close()

    async def compact(self, run: Run, pace: Spending, tombstones_until: int = 0) -> Compacted:
        """Rewrite a run. TOMBSTONEs go up to the sequence number `tombstones_until`.

        Raises ValueError when the segments of the run are not what they were, StoreFullError
        when the output finds no room, StoreFailedError.
        """
        async with self._busy:
            await self._finish_swap()
            inputs = self._catalog.run(run.segments)
            copy = await self._copy(inputs, run.keeps_bytes, pace, tombstones_until)
            await self._finish_swap()
            freed = sum(info.allocated for info in inputs) - copy.nbytes
            counts = (freed, copy.kept, copy.dropped)
            return Compacted(run.segments, copy.header.number, *counts, tuple(copy.problems))

    async def _copy(
        self, inputs: Sequence[SegmentInfo], length: int, pace: Spending, tombstones_until: int
    ) -> Copy:
        """Make the output and its seal, or leave nothing of it."""
        self._commit.check_open()
        numbers = [info.number for info in inputs]
        number = self._staging.take_segment()
        dead_before = self._dead_bytes(inputs)
        worth = (self._schema, self._durable, tombstones_until)
        first, generation = inputs[0], 1 + max(info.generation for info in inputs)
        header = self._log.new_header(number, first.first_seq, first.first_batch, generation)
        copy = Copy(self._disk, header, numbers, *worth)
        try:
            await self._worker.run(copy.create, length)
            while nbytes := await self._worker.run(copy.step):
                await pace.spend(nbytes)
            indexed = self._log.indexed
            judged_at = indexed.batch if indexed else 0
            await self._worker.run(copy.seal, inputs[-1].last_seq, judged_at)
        except NoSpaceError as error:
            raise StoreFullError(length, self._disk.space()[1]) from error
        except StoreFailedError as error:
            self._commit.fail(error)
            raise
        finally:
            if not copy.sealed:
                with trio.move_on_after(_DISCARD_DEADLINE_S, shield=True):
                    await self._worker.run(copy.discard)
        copy.close()
        slices = copies(number, copy.entries(), self._schema.bulk_kinds)
        output = replace(
            first,
            number=number,
            generation=generation,
            last_seq=copy.last_seq,
            nbytes=copy.nbytes,
            allocated=copy.nbytes,
        )
        self._swap = _Swap(list(inputs), output, header.uuid, slices, dead_before)
        return copy

    def _dead_bytes(self, inputs: Sequence[SegmentInfo]) -> int:
        rows = self._overlay
        return sum(parse_dead(rows.get(dead_key(info.number))) for info in inputs)

    async def _finish_swap(self) -> None:
        """Move the rows that are left, then let the inputs go; may be called again."""
        swap = self._swap
        if swap is None:
            return
        numbers = frozenset(info.number for info in swap.inputs)
        for records in swap.slices:
            act = partial(move_rows, self._schema, records, numbers)
            await self._commit.wait(self._keep_up(act, Upkeep()))
        if swap.last is None:
            leave = Upkeep(inputs=numbers, output=(swap.output.number, swap.uuid))
            swap.last = self._keep_up(partial(self._move_estimate, swap), leave)
        await self._commit.wait(swap.last)
        for number in numbers:
            await self._reading.pins.drained(number)
        for number in numbers:
            self._reading.drop(number)
        self._swap = None
        self._catalog.replaced(swap.inputs, swap.output)
        self.shrunk += sum(info.nbytes for info in swap.inputs) - swap.output.nbytes
        await self._worker.run(self._unlink, [info.number for info in swap.inputs])

    def _keep_up(self, act: Callable[[Writer], None], upkeep: Upkeep) -> Upkeep:
        self._commit.check_open()
        self._overlay.change(act, upkeep.changes)
        self._commit.keep_up(upkeep)
        return upkeep

    def _move_estimate(self, swap: _Swap, rows: Writer) -> None:
        """What died while it was copied lies dead in the output."""
        died = self._dead_bytes(swap.inputs) - swap.dead_before
        for info in swap.inputs:
            rows.delete(dead_key(info.number))
        key = dead_key(swap.output.number)
        rows.put(key, pack_dead(parse_dead(rows.get(key)) + max(0, died)))

    def _unlink(self, numbers: list[int]) -> None:
        """In the order of the log: a crash must not leave the one that begins the range alone."""
        for number in numbers:
            self._disk.remove(segment_name(number))
        self._disk.sync_names()

    async def punch(self, judgement: Judgement, pace: Spending) -> int:
        """Give the blocks inside dead bulk payloads back to the file system; how many bytes.

        Who reads them began before their rows went, and is waited for. What a crash leaves of the
        blocks is of no interest. 0 where the file system cannot do it, or the segment is gone.
        """
        extents = [extent for extent in judgement.punchable if whole_blocks(extent)[1]]
        async with self._busy:
            if not extents or judgement.number not in {
                info.number for info in self._catalog.sealed
            }:
                return 0
            await self._reading.pins.drained(judgement.number)
            allocated = judgement.allocated
            for at in range(0, len(extents), _PUNCHES):
                some = extents[at : at + _PUNCHES]
                allocated = await self._worker.run(self._punch, judgement.number, some)
                self._catalog.punched(judgement.number, allocated)
                await pace.spend(len(some) * _PUNCH_COST_BYTES)
            return max(0, judgement.allocated - allocated)

    def _punch(self, number: int, extents: list[Extent]) -> int:
        file = self._disk.open(segment_name(number), write=True)
        try:
            for extent in extents:
                if not file.punch(*whole_blocks(extent)):
                    break
            return file.allocated()
        finally:
            file.close()


class CompactionPass:
    """Goes through the sealed segments once, in the order of the log.

    It knows up to where nothing is left that a tombstone undoes: every segment up to there has been
    judged clean, or been rewritten, since the pass began. Only tombstones that were in sealed
    segments when it began may go for that: what they undo was dead by then.
    """

    def __init__(self, compactor: Compactor, catalog: Catalog) -> None:
        self._compactor = compactor
        sealed = catalog.sealed
        self._since = sealed[-1].last_seq if sealed else 0
        self._clean_to = 0
        self._clean: dict[int, int] = {}

    async def judge(self, number: int) -> Judgement:
        """As `Store.judge`; the judgement says whether the segment's tombstones may go."""
        judgement = await self._compactor.judge(number)
        if judgement.clean:
            self._cleaned(judgement.first_seq, judgement.last_seq)
        return replace(judgement, tombstones_free=self._may_drop(judgement.first_seq))

    async def compact(self, run: Run, pace: Spending) -> Compacted:
        """As `Store.compact`, and without tombstones that have nothing left to undo."""
        until = self._since if self._may_drop(run.first_seq) else 0
        compacted = await self._compactor.compact(run, pace, until)
        self._cleaned(run.first_seq, run.last_seq)
        return compacted

    def _may_drop(self, first_seq: int) -> bool:
        return self._clean_to + 1 >= first_seq

    def _cleaned(self, first_seq: int, last_seq: int) -> None:
        if first_seq > self._clean_to + 1:
            self._clean[first_seq] = last_seq
            return
        self._clean_to = max(self._clean_to, last_seq)
        while self._clean_to + 1 in self._clean:
            self._clean_to = self._clean.pop(self._clean_to + 1)
