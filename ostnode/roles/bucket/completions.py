"""Finishing uploads whose chunks are all there: the whole hash, then one durable decision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
import trio
from blake3 import blake3

from ostnode.env import Clock, Worker
from ostnode.errors import (
    BusyError,
    DataCorruptError,
    InternalError,
    OstError,
    ShuttingDownError,
)
from ostnode.ids import BlobId
from ostnode.roles.bucket.core.chunks import count_chunks
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.core.healing import LOST_MAX, lose_chunks
from ostnode.roles.bucket.core.rules import Rules
from ostnode.roles.bucket.core.uploads import finish, missing
from ostnode.roles.bucket.damages import Damages, Unreadable
from ostnode.roles.bucket.desk import Desk
from ostnode.roles.bucket.hashing import plain, update_hash
from ostnode.roles.bucket.records import Upload
from ostnode.store.store import Store
from ostnode.wire import messages as m
from ostnode.wire.buffers import Buffer

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_AT_ONCE: Final = 2
"""Uploads hashed at the same time; each holds one chunk in memory."""
_SCANNED: Final = 256
_LOOKS_MAX: Final = 3
"""A copy that an upload rests on may turn out damaged while the upload is looked at."""


class _Job:
    """A completion under way, and whoever waits for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcome: m.PushResult | OstError = ShuttingDownError("the node is stopping")

    async def answer(self) -> m.PushResult:
        """The outcome; an error is raised afresh for each waiter."""
        await self.done.wait()
        if isinstance(self.outcome, OstError):
            raise type(self.outcome)(self.outcome.message, **self.outcome.details)
        return self.outcome


class Completions:
    """Completes each upload once, in tasks of the bucket's own: a client that goes away changes
    nothing, and several "last" chunks wait for the same completion.
    """

    def __init__(
        self,
        desk: Desk,
        store: Store,
        rules: Rules,
        damages: Damages,
        *,
        clock: Clock,
        worker: Worker,
        nursery: trio.Nursery,
    ) -> None:
        self._desk, self._store, self._rules, self._damages = desk, store, rules, damages
        self._clock, self._worker, self._nursery = clock, worker, nursery
        self._jobs: dict[int, _Job] = {}
        self._turns = trio.CapacityLimiter(_AT_ONCE)

    async def finish(self, number: int, upload: Upload) -> m.PushResult:
        """Complete upload `number`, all of whose chunks are durable; raises what refuses it."""
        return await self._start(number, upload).answer()

    async def resume(self) -> None:
        """Start what a crash left between the last chunk and the completion."""
        after = 0
        while uploads := self._desk.state.uploads(after, _SCANNED):
            for number, upload in uploads:
                if missing(self._desk.state, number, upload) == 0:
                    self._start(number, upload)
            after = uploads[-1][0]
            await trio.lowlevel.checkpoint()

    def _start(self, number: int, upload: Upload) -> _Job:
        job = self._jobs.get(number)
        if job is None:
            job = self._jobs[number] = _Job()
            self._nursery.start_soon(self._run, job, number, upload)
        return job

    async def _run(self, job: _Job, number: int, upload: Upload) -> None:
        try:
            job.outcome = await self._complete(number, upload)
        except OstError as error:
            job.outcome = error
        except OSError:
            # The disk, or no descriptor left: this upload's trouble, not the whole node's.
            log.exception("an upload could not be read back", number=number)
            job.outcome = InternalError()
        except Exception:
            job.outcome = InternalError()
            raise
        finally:
            del self._jobs[number]
            self._desk.losing.pop(number, None)
            job.done.set()

    async def _complete(self, number: int, upload: Upload) -> m.PushResult:
        for _ in range(_LOOKS_MAX):
            self._desk.losing[number] = False
            async with self._turns:
                verified, lost = await self._verify(number, upload)
            decision: Callable[[Draft], m.PushResult | OstError | None]
            if lost:
                decision = partial(lose_chunks, number=number, indexes=lost)
                log.error("chunks of an upload are damaged", number=number, chunks=lost)
            else:
                decision = partial(
                    finish,
                    rules=self._rules,
                    upload=upload,
                    number=number,
                    now=self._clock.now(),
                    verified=verified,
                )
            answer = await self._desk.decide(partial(self._unless_changed, number, decision))
            if answer is not None:
                return answer
        raise BusyError("the upload changes while it is looked at; try again")

    def _unless_changed(
        self,
        number: int,
        decision: Callable[[Draft], m.PushResult | OstError | None],
        draft: Draft,
    ) -> m.PushResult | OstError | None:
        """A chunk that was lost may be there again, with other bytes than those hashed."""
        return None if self._desk.losing[number] else decision(draft)

    async def _verify(self, number: int, upload: Upload) -> tuple[bool, list[int]]:
        """Whether the chunks are the blob, and which of them cannot be read.

        An upload that has ended meanwhile is not: it is gone, and the decision that follows says
        so.
        """
        hasher, lost = blake3(max_threads=blake3.AUTO), list[int]()
        for index in range(count_chunks(upload)):
            if self._desk.state.upload(number) is None:
                return False, []
            data = await self._chunk(number, index, upload.blob_id)
            if data is None:
                lost.append(index)
                if len(lost) == LOST_MAX:
                    break
            elif not lost:
                await update_hash(hasher, data, self._worker)
        return not lost and hasher.digest() == upload.blob_id, lost

    async def _chunk(self, number: int, index: int, blob_id: BlobId) -> Buffer | None:
        """The bytes; None when they are damaged, or are those of a copy that is."""
        view = self._desk.state
        row = view.chunk(number, index)
        matched = view.own_chunk(number, index) is None
        stored = view.sound_blob(blob_id) if matched else None
        if row is None or (matched and stored is None):
            await trio.lowlevel.checkpoint()
            return None
        try:
            return plain(await self._store.read(row.extent))
        except DataCorruptError:
            if stored is not None:
                self._damages.note(blob_id, Unreadable(stored.number, index, row.extent))
            return None
