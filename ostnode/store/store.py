"""The segment store: one log, one writer, and an ordered key space derived from the log.

A caller decides on `state`, stages records (which changes `state` at once) and waits until they
are durable before it tells anybody. What is staged together is applied together or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio
from typing_extensions import Buffer

from ostnode.env import Clock, Rng, Worker
from ostnode.store.admission import Admitted
from ostnode.store.auditing import Auditor
from ostnode.store.catalog import SegmentInfo
from ostnode.store.compaction import Compacted, CompactionPass, Spending
from ostnode.store.disk import Disk
from ostnode.store.format import DIGEST_BYTES
from ostnode.store.judging import Judgement
from ostnode.store.keyspace import DurableReader, KeyIndex, Reader
from ostnode.store.log import Log
from ostnode.store.options import StoreOptions
from ostnode.store.pace import Pace
from ostnode.store.parts import Parts, put_together
from ostnode.store.planning import Run
from ostnode.store.record import (
    ROLE_KIND_MAX,
    ZERO_32,
    Extent,
    NewRecord,
    Problem,
    SpaceInfo,
)
from ostnode.store.recovery import recover
from ostnode.store.schema import Schema
from ostnode.store.scrub import ScrubSlice
from ostnode.store.space import Space
from ostnode.store.staging import Batch, group_bytes
from ostnode.store.writer import GroupCommit

__all__ = ["Staged", "Store", "StoreOptions", "open_store"]

_CLOSE_DEADLINE_S: Final = 5.0
"""How long closing waits for what is staged; what is not durable by then was never answered."""


@dataclass(slots=True, eq=False)
class Staged:
    """Records that are in the log's order and in `state`, on their way to the disk."""

    seqs: range
    _batch: Batch
    _commit: GroupCommit

    def wait(self) -> Awaitable[None]:
        """Return once they are durable; raises StoreFailedError when they may not be.

        Cancelling it changes nothing: the records are written all the same.
        """
        return self._commit.wait(self._batch)


class Store:
    """Made by `open_store`. Every method belongs to the event loop's thread.

    Promises: what `Staged.wait` or `synced` returned for is found again after any crash; a group
    is found whole or not at all; no later group is found without the earlier ones.
    """

    state: Reader
    """The key space with staged effects included: for decisions."""
    durable: Reader
    """The key space as it is synced: for answers given without a wait."""
    problems: tuple[Problem, ...]
    """What recovery found in the part of the log it read: the last segment and what the key index
    had not covered. Whoever keeps the store records them before anything else."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._commit, self._staging = parts.commit, parts.staging
        self._overlay, self._reduce = parts.overlay, parts.schema.reduce
        self.state = parts.overlay
        self.durable = DurableReader(parts.index)
        self.problems = tuple(parts.recovered.problems)

    @property
    def next_seq(self) -> int:
        """The sequence number the next staged record gets; an await may change it."""
        return self._staging.next_seq

    @property
    def corrupt_reads(self) -> int:
        """How many reads met bytes that are not what was written."""
        return self._parts.reading.corrupt_reads

    @property
    def index_bytes(self) -> int:
        """Bytes of the disk that the key index takes."""
        return self._parts.index.nbytes()

    @property
    def queued_bytes(self) -> int:
        """Bytes admitted or staged and not yet durable."""
        return self._commit.admission.used

    @property
    def batches(self) -> int:
        """Batches made durable since the store was opened, each with one sync."""
        return self._commit.batches

    @property
    def written_bytes(self) -> int:
        """Bytes that these batches have in segments."""
        return self._commit.written

    def admit(self, nbytes: int) -> Admitted:
        """`async with store.admit(nbytes)`: wait for room for that many bytes of payload.

        It waits for the disk and for files that are being made, not for a full disk: there staging
        raises StoreFullError, and so does this while nothing at all can be written.
        """
        self._commit.check_unstuck(nbytes)
        return Admitted(self._commit.admission, nbytes)

    def stage(self, records: Sequence[NewRecord]) -> Staged:
        """Put a group into the log's order and into `state`; it becomes durable as a whole.

        Raises StoreFailedError when the store has failed or is closed, StoreFullError when the
        disk has no room for it (or may have, outside `admit`), ValueError for records that cannot
        be stored, and what the reducer raises; then nothing has changed.
        """
        for record in records:
            _check(record)
        plan = self._commit.plan(records)
        self._overlay.apply(plan.records, self._reduce, plan.batch.changes)
        self._commit.accept(plan)
        seqs = range(plan.records[0].seq, self._staging.next_seq)
        return Staged(seqs, plan.batch, self._commit)

    async def commit(self, records: Sequence[NewRecord]) -> Staged:
        """Stage a group once there is room for it, and wait until it is durable.

        For who need not look at `state` first; raises as `stage` does.
        """
        nbytes = group_bytes(records)
        if self._commit.admission.has_room(nbytes):
            staged = self.stage(records)
        else:
            async with self.admit(nbytes):
                staged = self.stage(records)
        await staged.wait()
        return staged

    async def synced(self) -> None:
        """Wait until everything staged so far is durable; raises StoreFailedError."""
        await self._commit.synced()

    async def read(self, extent: Extent, offset: int = 0, length: int | None = None) -> Buffer:
        """At most `length` bytes (default: the rest) of a payload from `offset`, fewer at its end.

        The extent must be fresh: looked up with no await since. Its bytes then stay where they are
        until this returns, whatever is deleted or compacted meanwhile. Raises DataCorruptError
        when the bytes are not what was written.
        """
        offset = min(offset, extent.length)
        rest = extent.length - offset
        length = rest if length is None else min(length, rest)
        pending = self._commit.pending(extent)
        if pending is None:
            return await self._parts.reading.read(extent, offset, length)
        await trio.lowlevel.checkpoint()
        return memoryview(pending[1]).cast("B")[offset : offset + length]

    async def scrub(self, after_seq: int, pace: Pace) -> ScrubSlice:
        """Check some of what lies behind `after_seq` in the log; one caller at a time.

        A pass begins at 0, goes on with the `after_seq` of each answer, and ends with one that is
        `done`. The place holds over restarts and compaction.
        """
        return await self._parts.scrubber.step(after_seq, pace)

    def digest(self, extent: Extent) -> bytes:
        """The 16-byte digest of a payload, from its record's header; raises DataCorruptError.

        Reads 96 bytes inline: a reducer that needs it often keeps `Record.digest` instead.
        """
        pending = self._commit.pending(extent)
        return self._parts.reading.digest(extent) if pending is None else pending[0].digest

    def space(self) -> SpaceInfo:
        """Bytes of the file system, free for this store, and in its segments.

        What is preallocated counts as free, the emergency reserve does not; a store that takes no
        bulk payloads now has nothing free.
        """
        total, free = self._parts.disk.space()
        free = free + self._staging.room_bytes if self._commit.takes_bulk else 0
        stored = self._parts.recovered.stored + self._commit.written
        return SpaceInfo(total, free, stored - self._parts.compactor.shrunk)

    async def roll(self) -> None:
        """Seal the segment that is being written to, so that the calls below reach all of the log.

        Nothing on a full disk. Raises StoreFailedError.
        """
        await self._commit.roll()

    def segments(self) -> list[SegmentInfo]:
        """The segments in the order of the log."""
        return self._parts.catalog.infos()

    async def judge(self, number: int) -> Judgement:
        """What the records of a sealed segment are worth now; ValueError when it is none.

        Reads its footer and the payloads of its metadata.
        """
        return await self._parts.compactor.judge(number)

    async def compact(self, run: Run, pace: Spending) -> Compacted:
        """Rewrite a run of segments (`plan_compaction`) without what nothing needs any more.

        One at a time. Tombstones are all kept: `compaction_pass` knows which may go. Raises
        ValueError when the segments are not what they were, StoreFullError when the disk has no
        room for the output, StoreFailedError; then, and when cancelled, nothing has changed or
        the next start, or the next call, finishes it.
        """
        return await self._parts.compactor.compact(run, pace)

    async def punch(self, judgement: Judgement, pace: Spending) -> int:
        """Give the blocks inside large dead payloads back to the file system; how many bytes."""
        return await self._parts.compactor.punch(judgement, pace)

    def compaction_pass(self) -> CompactionPass:
        """Begin to go through the sealed segments, in the order of the log."""
        return CompactionPass(self._parts.compactor, self._parts.catalog)


@asynccontextmanager
async def open_store(
    disk: Disk,
    options: StoreOptions,
    schema: Schema,
    *,
    owner: bytes,
    worker: Worker,
    clock: Clock,
    rng: Rng,
    index: KeyIndex | None = None,
    read_worker: Worker | None = None,
    maintenance_worker: Worker | None = None,
) -> AsyncIterator[Store]:
    """Recover the log on `disk` and keep it open; one process per data directory.

    `owner` is the bucket's principal: another bucket's directory is refused. `index` defaults to
    the one beside the log. Cold reads use `read_worker` and background work `maintenance_worker`
    (default: `read_worker`). Closing writes what is staged and seals the log.

    Raises StoreLockedError, StoreOwnerError, NotAFileError, OSError; a failed write ends the body,
    and an exception group with StoreFailedError comes out.
    """
    await worker.run(disk.lock)
    try:
        index = disk.key_index() if index is None else index
        space = await worker.run(Space, disk, options.segment_bytes)
        recovering = partial(recover, disk, index, schema, owner)
        recovered = await worker.run(space.having_room, recovering)
        log = Log(space, index, recovered.covered, owner, clock, rng)
        workers = (worker, read_worker or worker, maintenance_worker or read_worker or worker)
        parts = put_together(disk, options, schema, recovered, index, log, workers)
        commit = parts.commit
        try:
            await commit.make_room()
            async with _writing(commit, parts.auditor):
                yield Store(parts)
        finally:
            parts.reading.close()
            log.close()
            with trio.move_on_after(_CLOSE_DEADLINE_S, shield=True):
                if commit.clean:
                    await worker.run(space.remove_unused)
                await worker.run(lambda: index.close(clean=commit.clean))
    finally:
        disk.unlock()


@asynccontextmanager
async def _writing(commit: GroupCommit, auditor: Auditor) -> AsyncIterator[None]:
    """The writer task around the body; leaving writes what is staged, within a deadline."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit.run)
        nursery.start_soon(commit.close_bursts)
        nursery.start_soon(commit.watch_room)
        nursery.start_soon(auditor.run)
        try:
            yield
        finally:
            with trio.move_on_after(_CLOSE_DEADLINE_S, shield=True):
                await commit.close()
            nursery.cancel_scope.cancel()


def _check(record: NewRecord) -> None:
    kind, _, blob, number, index, digest = record
    if not 0 < kind <= ROLE_KIND_MAX:
        raise ValueError(f"kind {kind} is not a role's (1 to {ROLE_KIND_MAX})")
    if len(blob) != len(ZERO_32):
        raise ValueError(f"a blob id has 32 bytes, not {len(blob)}")
    if digest and len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
    if not (0 <= number < 1 << 64 and 0 <= index < 1 << 32):
        raise ValueError("number or chunk index out of range")
