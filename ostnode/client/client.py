"""The client: one caller's view of a cluster over HTTP."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from typing_extensions import override

from ostnode.client.allocating import Allocating, ReferenceParams, UploadedBlob
from ostnode.client.calls import IndexCalls, raise_first
from ostnode.client.downloads import Downloaded, download_to
from ostnode.client.http import Transport, open_http
from ostnode.client.node import Context, Node
from ostnode.client.options import ClientOptions, Observer, ignore_attempt
from ostnode.client.progress import ProgressCallback, ignore_progress
from ostnode.client.source import Source, prepare
from ostnode.client.streams import BlobStream, ByteRange, Origin, open_stream
from ostnode.client.uploads import Upload, add_reference
from ostnode.env import Clock, Rng, SystemClock, SystemRng, ThreadWorker, Worker
from ostnode.errors import InvalidArgumentError, NotFoundError
from ostnode.identity.keys import KeyPair
from ostnode.ids import BlobId, Principal
from ostnode.wire import messages as m
from ostnode.wire import upkeep
from ostnode.wire.fields import Message, Request

M = TypeVar("M", bound=Message)

NODES_MAX: Final = 64
"""Buckets whose sessions are remembered; more than one client talks to in a session's life."""
_DEFAULT_OPTIONS: Final = ClientOptions()
_CLOCK: Final = SystemClock()
_RNG: Final = SystemRng()


class Client(IndexCalls):
    """Uploads, downloads and calls in one caller's name. Made by `connect`.

    Any number of tasks may use it at once. Every method raises the OstError that a node refused
    with, UnreachableError or BadAnswerError. `token` is a read token of the accessor; without
    one, an owner reads its own blobs through its own principal in the accessor's place.
    `bucket` is where a blob is; without it the index is asked.
    """

    def __init__(self, index: m.BucketAddress, context: Context, worker: Worker) -> None:
        self._context = context
        self._worker = worker
        self._index = Node(index, context)
        self._nodes: OrderedDict[m.BucketAddress, Node] = OrderedDict()
        self._allocating = Allocating(self, context.options, context.rng)

    @property
    def principal(self) -> Principal:
        """Who the nodes take this client for."""
        return self._context.key.principal

    @override
    async def ask_index(self, request: Request, result: type[M]) -> M:
        return await self._index.call(request, result)

    async def upload(
        self,
        source: Source,
        *,
        accessors: Sequence[Principal] = (),
        ref_id: bytes = b"",
        content_type: str = "",
        filename: str | None = None,
        expires_at: int = 0,
        progress: ProgressCallback = ignore_progress,
    ) -> UploadedBlob:
        """Store a file, bytes or a stream and make it visible to accessors; none: the owner alone.

        The source is hashed first. An upload that was cut at any point goes on where it was when
        the same source is uploaded again with the same parameters. A blob that the caller has
        already gets a reference and sends no bytes. Raises OSError or SourceChangedError for the
        source, AllowanceExceededError, UploadConflictError when an open upload of the blob has
        other parameters, and what else a node refuses.
        """
        params = _params(accessors, ref_id, content_type, filename, expires_at)
        options = self._context.options
        async with prepare(source, self._worker, progress, options.spool_dir) as prepared:
            upload = Upload(
                prepared,
                params,
                owner=self.principal,
                options=options,
                worker=self._worker,
                progress=progress,
            )
            return await upload.run(self._allocating, self._node)

    async def forward(
        self,
        blob_id: BlobId,
        size: int,
        accessors: Sequence[Principal],
        *,
        source: Principal,
        token: bytes = b"",
        ref_id: bytes = b"",
        content_type: str = "",
        filename: str | None = None,
        expires_at: int = 0,
    ) -> UploadedBlob:
        """Make a stored blob visible to more accessors; no bytes move, the caller is charged.

        `source` and its read token are the proof of access. Raises NotFoundError when the caller
        may not read the blob, AllowanceExceededError.
        """
        params = _params(accessors, ref_id, content_type, filename, expires_at)

        async def use(allocation: m.Allocation) -> m.BlobReference | None:
            request = add_reference(allocation, params, source=source, token=token)
            result = await self._node(allocation.bucket).call(request, m.PushResult)
            if result.reference is None:
                raise NotFoundError("there is no such blob to forward")
            return result.reference

        reference, bucket = await self._allocating.rounds(blob_id, size, use)
        return UploadedBlob(reference, bucket)

    async def download(
        self,
        accessor: Principal,
        blob_id: BlobId,
        *,
        to: Path,
        token: bytes = b"",
        bucket: m.BucketAddress | None = None,
        byte_range: ByteRange | None = None,
        progress: ProgressCallback = ignore_progress,
    ) -> Downloaded:
        """A blob, or a range of it, as a file that appears only when it is complete.

        Raises IntegrityError when a whole blob is not what its id says, NotFoundError for
        everything the caller may not read, RangeNotSatisfiableError, OSError for the file.
        """
        async with self.stream(
            accessor, blob_id, token=token, bucket=bucket, byte_range=byte_range
        ) as stream:
            return await download_to(stream, to, self._worker, self._context.rng, progress)

    async def read(
        self,
        accessor: Principal,
        blob_id: BlobId,
        *,
        token: bytes = b"",
        bucket: m.BucketAddress | None = None,
        byte_range: ByteRange | None = None,
    ) -> bytes:
        """A small blob, or a range, in memory: at most the options' read_bytes_max.

        Raises like `download`, InvalidArgumentError for more than that.
        """
        async with self.stream(
            accessor, blob_id, token=token, bucket=bucket, byte_range=byte_range
        ) as stream:
            length, limit = stream.extent.length, self._context.options.read_bytes_max
            if length > limit:
                raise InvalidArgumentError(
                    f"{length} bytes are too many for memory (limit {limit}): download to a file"
                )
            return b"".join([piece async for piece in stream])

    @asynccontextmanager
    async def stream(
        self,
        accessor: Principal,
        blob_id: BlobId,
        *,
        token: bytes = b"",
        bucket: m.BucketAddress | None = None,
        byte_range: ByteRange | None = None,
    ) -> AsyncIterator[BlobStream]:
        """A blob, or a range, as an async iterator of bytes. Raises like `download`."""
        origin = Origin(
            await self._holder(accessor, blob_id, token, bucket),
            accessor,
            blob_id,
            token,
            self._context.options.retry,
            self._context.rng,
        )
        async with open_stream(origin, byte_range) as stream:
            yield stream

    async def blob_info(
        self,
        accessor: Principal,
        blob_id: BlobId,
        *,
        token: bytes = b"",
        bucket: m.BucketAddress | None = None,
    ) -> m.BlobInfo:
        """Size, content type and name of a blob the caller may read."""
        node = await self._holder(accessor, blob_id, token, bucket)
        return await node.call(m.BlobInfoRequest(accessor, blob_id, token), m.BlobInfo)

    async def delete_reference(self, bucket: m.BucketAddress, reference: m.ReferenceKey) -> None:
        """Delete one message's reference: by its owner, or with a ref.del token.

        NotFoundError when there is none, which an owner also sees when a first attempt did it
        and its answer was lost.
        """
        raise_first(await self.delete_references(bucket, [reference]))

    async def delete_references(
        self, bucket: m.BucketAddress, references: Sequence[m.ReferenceKey]
    ) -> m.BatchResult:
        """Delete up to 64 references in one bucket, with a result for each."""
        request = m.RemoveReferences(tuple(references))
        return await self._node(bucket).call(request, m.BatchResult)

    async def upload_status(self, bucket: m.BucketAddress, blob_id: BlobId) -> m.UploadInfo:
        """What has arrived of the caller's open upload; NotFoundError when none is open."""
        return await self._node(bucket).call(m.UploadStatus(blob_id), m.UploadInfo)

    async def cancel_upload(self, bucket: m.BucketAddress, blob_id: BlobId) -> None:
        """Give up an open upload: its chunks go, its reservation is freed."""
        await self._node(bucket).call(m.CancelUpload(blob_id), m.Ok)

    async def maintenance_status(self, bucket: m.BucketAddress) -> upkeep.MaintenanceInfo:
        """Compaction, scrub, damage and space of a bucket (operator only)."""
        request = upkeep.MaintenanceStatus()
        return await self._node(bucket).call(request, upkeep.MaintenanceInfo)

    async def compact_bucket(
        self, bucket: m.BucketAddress, *, dry_run: bool = False
    ) -> upkeep.CompactionPlan:
        """Start a compaction pass, or only say what it would free (operator only)."""
        request = upkeep.CompactBucket(dry_run)
        return await self._node(bucket).call(request, upkeep.CompactionPlan)

    async def pause_maintenance(self, bucket: m.BucketAddress, *, paused: bool = True) -> None:
        """Hold a bucket's compaction and scrub, or let them go on (operator only)."""
        await self._node(bucket).call(upkeep.PauseMaintenance(paused), m.Ok)

    async def start_scrub(self, bucket: m.BucketAddress) -> None:
        """Let a bucket read all it has again, from now on (operator only)."""
        await self._node(bucket).call(upkeep.StartScrub(), m.Ok)

    async def forget_findings(self, bucket: m.BucketAddress) -> None:
        """Strike out damage that makes no blob unreadable, and scrub again (operator only)."""
        await self._node(bucket).call(upkeep.ForgetFindings(), m.Ok)

    async def _holder(
        self,
        accessor: Principal,
        blob_id: BlobId,
        token: bytes,
        bucket: m.BucketAddress | None,
    ) -> Node:
        return self._node(bucket or await self.locate(accessor, blob_id, token=token))

    def _node(self, address: m.BucketAddress) -> Node:
        """The bucket at an address; its session is remembered among the last NODES_MAX."""
        node = self._nodes.setdefault(address, Node(address, self._context))
        self._nodes.move_to_end(address)
        if len(self._nodes) > NODES_MAX:
            self._nodes.popitem(last=False)
        return node


def _params(
    accessors: Sequence[Principal],
    ref_id: bytes,
    content_type: str,
    filename: str | None,
    expires_at: int,
) -> ReferenceParams:
    if not content_type.isascii() or not content_type.isprintable():
        raise InvalidArgumentError("a content type is printable ASCII")
    return ReferenceParams(tuple(accessors), ref_id, content_type, filename, expires_at)


@asynccontextmanager
async def connect(
    index_url: str,
    key: KeyPair,
    *,
    index: Principal,
    options: ClientOptions = _DEFAULT_OPTIONS,
    observer: Observer = ignore_attempt,
    clock: Clock = _CLOCK,
    rng: Rng = _RNG,
    worker: Worker | None = None,
    transport: Transport | None = None,
) -> AsyncIterator[Client]:
    """A client of the cluster whose index is at `index_url`, for the block.

    `index` is the index's principal: logins are statements to it and to nobody else. Nothing is
    sent before the first call. `observer` is told of every HTTP exchange. `transport` stands in
    for the network in tests.
    """
    async with open_http(
        clock,
        connections_max=options.connections_max,
        stall_deadline_s=options.stall_deadline_s,
        transport=transport,
    ) as http:
        context = Context(key, http, options, observer, clock, rng)
        address = m.BucketAddress(index, index_url)
        yield Client(address, context, worker or ThreadWorker(options.parallel))
