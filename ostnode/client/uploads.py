"""Uploads: ask what has arrived, push what is missing in parallel lanes.

Each lane reads, sends and reads again into one buffer of its own, so an upload holds `parallel`
chunks, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from ostnode.client.allocating import Allocating, ReferenceParams, UploadedBlob
from ostnode.client.chunks import chunk_span, missing_chunks
from ostnode.client.errors import BadAnswerError, ClientError
from ostnode.client.node import Node
from ostnode.client.options import ClientOptions
from ostnode.client.progress import Phase, Progress, ProgressCallback
from ostnode.client.source import Prepared
from ostnode.env import Worker
from ostnode.errors import NotFoundError, OstError
from ostnode.ids import Principal
from ostnode.wire import messages as m
from ostnode.wire.chunks import chunk_count, chunk_length

CHUNK_BYTES_MAX: Final = 8 << 20
"""The largest chunk a lane makes room for; an index that says more is not believed."""


class Upload:
    """One blob on its way up."""

    def __init__(
        self,
        prepared: Prepared,
        params: ReferenceParams,
        *,
        owner: Principal,
        options: ClientOptions,
        worker: Worker,
        progress: ProgressCallback,
    ) -> None:
        self._prepared = prepared
        self._params = params
        self._owner = owner
        self._options = options
        self._worker = worker
        self._progress = progress
        self._sent = 0
        self._bytes_done = 0
        self._bytes_best = 0

    async def run(
        self, allocating: Allocating, bucket_at: Callable[[m.BucketAddress], Node]
    ) -> UploadedBlob:
        """Carry it to its end; raises what stopped it."""
        total = 0

        async def use(allocation: m.Allocation) -> m.BlobReference | None:
            nonlocal total
            bucket = bucket_at(allocation.bucket)
            if not 1 <= allocation.chunk_bytes <= CHUNK_BYTES_MAX:
                reason = f"chunks of {allocation.chunk_bytes} bytes"
                raise BadAnswerError(bucket.url, reason)
            total = chunk_count(self._prepared.size, allocation.chunk_bytes)
            if allocation.already_yours:
                reference = await self._refer(bucket, allocation)
                if reference is not None:
                    return reference
            return await self._push_missing(bucket, allocation, total)

        reference, address = await allocating.rounds(
            self._prepared.blob_id, self._prepared.size, use, lambda: self._bytes_best
        )
        self._bytes_done = self._prepared.size
        self._show_progress()
        return UploadedBlob(reference, address, self._sent, total)

    async def _refer(self, bucket: Node, allocation: m.Allocation) -> m.BlobReference | None:
        """The caller has this blob already: one more reference, no bytes. None if it has not."""
        request = add_reference(allocation, self._params, source=self._owner)
        try:
            return (await bucket.call(request, m.PushResult)).reference
        except NotFoundError:
            return None

    async def _push_missing(
        self, bucket: Node, allocation: m.Allocation, total: int
    ) -> m.BlobReference | None:
        received = b"" if total == 1 else await self._received(bucket, allocation)
        # With nothing missing the answer to the last chunk was lost: it is given again.
        missing = missing_chunks(total, received) or [total - 1]
        size, chunk_bytes = self._prepared.size, allocation.chunk_bytes
        self._bytes_done = size - sum(chunk_length(i, size, chunk_bytes) for i in missing)
        self._show_progress()
        async with trio.open_nursery() as nursery:
            run = _Run(bucket, allocation, iter(missing), nursery.cancel_scope)
            for _ in range(min(self._options.parallel, len(missing))):
                nursery.start_soon(self._lane, run)
        if isinstance(run.outcome, Exception):
            raise run.outcome
        return run.outcome

    async def _received(self, bucket: Node, allocation: m.Allocation) -> bytes:
        """The bitmap of what has arrived under this grant."""
        request = m.UploadStatus(self._prepared.blob_id)
        try:
            info = await bucket.call(request, m.UploadInfo)
        except NotFoundError:
            return b""
        same = (info.grant_id, info.chunk_bytes) == (allocation.grant_id, allocation.chunk_bytes)
        return info.received if same else b""

    async def _lane(self, run: _Run) -> None:
        """Push one chunk after the other, until none is left or the run has ended."""
        buffer = bytearray(min(run.allocation.chunk_bytes, self._prepared.size))
        try:
            for index in run.queue:
                reference = await self._push(run, index, buffer)
                if reference is not None:
                    run.end(reference)
                    break
        except (OstError, ClientError, OSError) as error:
            run.end(error)

    async def _push(self, run: _Run, index: int, buffer: bytearray) -> m.BlobReference | None:
        span = chunk_span(index, self._prepared.size, run.allocation.chunk_bytes)
        body = await self._worker.run(self._prepared.read_into, span, buffer)
        params = self._params
        request = m.PushChunk(
            run.allocation.grant,
            index,
            params.accessors,
            params.ref_id,
            params.content_type,
            params.filename,
            params.expires_at,
        )
        deadline_s = self._options.push_deadline_s
        result = await run.bucket.call(request, m.PushResult, body, deadline_s)
        self._sent += 1
        self._bytes_done += span.length
        self._bytes_best = max(self._bytes_best, self._bytes_done)
        self._show_progress()
        return result.reference

    def _show_progress(self) -> None:
        self._progress(Progress(Phase.PUSH, self._bytes_done, self._prepared.size))


@dataclass(slots=True)
class _Run:
    """What the lanes of one round share. The first completion or failure ends them all."""

    bucket: Node
    allocation: m.Allocation
    queue: Iterator[int]
    scope: trio.CancelScope
    outcome: m.BlobReference | OstError | ClientError | OSError | None = None

    def end(self, outcome: m.BlobReference | OstError | ClientError | OSError) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.scope.cancel()


def add_reference(
    allocation: m.Allocation, params: ReferenceParams, *, source: Principal, token: bytes = b""
) -> m.AddReference:
    """A forward under an allocation; without a token the source is the owner itself."""
    return m.AddReference(
        allocation.grant,
        source,
        token,
        params.accessors,
        params.ref_id,
        params.content_type,
        params.filename,
        params.expires_at,
    )
