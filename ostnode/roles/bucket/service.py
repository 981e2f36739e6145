"""The bucket's calls: each verifies what it was shown, decides on the staged state, and answers
when that is durable.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

import trio
from typing_extensions import override

from ostnode.env import Clock, Worker
from ostnode.errors import NotAuthorizedError, NotFoundError, OstError
from ostnode.ids import BlobId, Principal
from ostnode.roles.bucket.completions import Completions
from ostnode.roles.bucket.core.admission import Ask, ask_for, require_user
from ostnode.roles.bucket.core.chunks import count_chunks
from ostnode.roles.bucket.core.draft import Draft, Pushed
from ostnode.roles.bucket.core.reading import Access
from ostnode.roles.bucket.core.references import forward, remove
from ostnode.roles.bucket.core.uploads import (
    Received,
    accept,
    accept_whole,
    cancel,
    find_upload,
)
from ostnode.roles.bucket.damages import Damages
from ostnode.roles.bucket.desk import METADATA_BYTES, Desk
from ostnode.roles.bucket.hashing import hash_of
from ostnode.roles.bucket.maintenance import Maintenance
from ostnode.roles.bucket.options import BucketOptions
from ostnode.roles.bucket.reader import BlobReader
from ostnode.roles.bucket.statements import Statements
from ostnode.store.format import DIGEST_BYTES
from ostnode.store.keyspace import Reader
from ostnode.store.store import Store
from ostnode.wire import messages as m
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import Caller, Reply, Service
from ostnode.wire.fields import Request

_COUNTED_MAX: Final = 256
"""Own references counted with each read: some 2 ms, in which nobody else gets a turn."""
_ASKED_HERE: Final = (m.UploadStatus, m.CancelUpload, m.RemoveReferences)
"""Calls whose decisions do not ask for a block; on a peer link there is no session either."""
_INDEXES_MAX: Final = 1024
"""Chunks looked up before others get their turn."""


class BucketService(Service):
    """The bucket's half of the call registry; see `ostnode.wire.messages` for every call.

    The body of a push is kept until it is on disk, also when the caller is cancelled before: it
    must not be written to again.
    """

    def __init__(
        self,
        options: BucketOptions,
        desk: Desk,
        store: Store,
        statements: Statements,
        completions: Completions,
        damages: Damages,
        maintenance: Maintenance,
        *,
        clock: Clock,
        worker: Worker,
    ) -> None:
        self._rules = options.rules
        self._desk, self._store, self._statements = desk, store, statements
        self._completions, self._damages = completions, damages
        self._maintenance = maintenance
        self._clock, self._worker = clock, worker
        self.last_progress: dict[int, float] = {}

    @property
    def rows(self) -> Reader:
        """What is durable, for whoever looks on."""
        return self._store.durable

    @property
    def decided(self) -> Reader:
        """The same with what is on its way to the disk."""
        return self._store.state

    def is_blocked(self, principal: Principal) -> bool:
        """Whether the principal may get no session."""
        return self._desk.durable.blocked(principal)

    @override
    async def handle(self, caller: Caller, request: Request, body: Buffer = b"") -> Reply:
        principal = caller.proven
        if isinstance(request, _ASKED_HERE) and self.is_blocked(principal):
            raise NotAuthorizedError("this principal is blocked")
        match request:
            case m.PushChunk():
                return Reply(await self._push(principal, request, body))
            case m.UploadStatus():
                return Reply(await self._upload_status(principal, request.blob_id))
            case m.CancelUpload():
                await self._desk.decide(lambda draft: cancel(draft, principal, request.blob_id))
                return Reply(m.Ok())
            case m.AddReference():
                return Reply(await self._forward(principal, request))
            case m.RemoveReferences():
                return Reply(await self._remove(principal, request))
            case m.BlobInfoRequest():
                return Reply(await self._info(caller, request))
            case m.ReadBlob():
                return await self._read(caller, request)
            case _:
                return Reply(await self._maintenance.handle(request))

    def check_grant(self, caller: Caller, grant: bytes) -> None:
        """Raise unless it is the caller's, for this bucket: what `Statements.grant` raises.

        For HTTP, before it reads a body: a push checks this again, and all the rest.
        """
        opened = self._statements.grant(grant, caller.proven, self._clock.now())
        require_user(self._desk.durable, caller.proven, opened)

    async def open_blob(
        self, caller: Caller, accessor: Principal, blob_id: BlobId, token: bytes
    ) -> BlobReader:
        """A reader of a blob that the caller may read; every refusal is the same NotFoundError."""
        await trio.lowlevel.checkpoint()
        if caller.principal is None:
            raise NotFoundError
        access = self._access(caller.principal, accessor, blob_id, token)
        return BlobReader(self._store, self._clock, access, self._damages)

    def _access(
        self, caller: Principal, accessor: Principal, blob_id: BlobId, token: bytes
    ) -> Access:
        """What the caller shows, with the token verified; raises NotFoundError."""
        try:
            opened = self._statements.access(token, accessor, self._clock.now())
        except OstError:
            raise NotFoundError from None
        return Access(caller, accessor, blob_id, opened)

    async def _push(self, caller: Principal, request: m.PushChunk, body: Buffer) -> m.PushResult:
        now = self._clock.now()
        ask = ask_for(caller, self._statements.grant(request.grant, caller, now), request, now)
        if count_chunks(ask.upload) == 1:
            return await self._push_whole(ask, request.chunk_index, body)
        # Hashed whether a copy is stored or not: the time an answer takes must not tell (B18).
        digest = await hash_of(body, self._worker)
        pushed = Pushed(request.chunk_index, body, digest=digest[:DIGEST_BYTES])
        free = self._store.space().free
        answer: Received | m.PushResult = await self._desk.decide(
            lambda draft: accept(draft, self._rules, ask, pushed, free), METADATA_BYTES + len(body)
        )
        if isinstance(answer, m.PushResult):
            return answer
        return await self._received(answer, ask)

    async def _push_whole(self, ask: Ask, index: int, body: Buffer) -> m.PushResult:
        """Bytes of the wrong length are not worth hashing; the decision refuses them."""
        upload = ask.upload
        digest = await hash_of(body, self._worker) if len(body) == upload.size else b""
        pushed = Pushed(index, body, digest[:DIGEST_BYTES], verified=digest == upload.blob_id)
        free = self._store.space().free
        return await self._desk.decide(
            lambda draft: accept_whole(draft, self._rules, ask, pushed, free),
            METADATA_BYTES + len(body),
        )

    async def _received(self, received: Received, ask: Ask) -> m.PushResult:
        if received.missing:
            self.last_progress[received.number] = trio.current_time()
            return m.PushResult(received.missing)
        return await self._completions.finish(received.number, ask.upload)

    async def _upload_status(self, caller: Principal, blob_id: BlobId) -> m.UploadInfo:
        """Only what is durable counts as received."""
        view = self._desk.durable
        number, upload = find_upload(view, caller, blob_id)
        received = bytearray(-(-count_chunks(upload) // 8))
        after = -1
        while indexes := view.chunk_indexes(number, _INDEXES_MAX, after):
            for index in indexes:
                received[index // 8] |= 1 << index % 8
            after = indexes[-1]
            await trio.lowlevel.checkpoint()
        find_upload(view, caller, blob_id)
        return m.UploadInfo(
            grant_id=upload.grant_id,
            size=upload.size,
            chunk_bytes=upload.chunk_bytes,
            received=bytes(received),
            expires_at=view.progress(number).end,
        )

    async def _forward(self, caller: Principal, request: m.AddReference) -> m.PushResult:
        now = self._clock.now()
        ask = ask_for(caller, self._statements.grant(request.grant, caller, now), request, now)
        try:
            access = self._access(caller, request.source, ask.upload.blob_id, request.token)
        except NotFoundError:
            access = None
        return await self._desk.decide(lambda draft: forward(draft, self._rules, ask, access))

    async def _remove(self, caller: Principal, request: m.RemoveReferences) -> m.BatchResult:
        """Each item sees what those before it did; all that succeed become durable together."""
        return await self._desk.decide(
            lambda draft: m.BatchResult(
                tuple(self._remove_one(draft, caller, key) for key in request.references)
            )
        )

    def _remove_one(self, draft: Draft, caller: Principal, key: m.ReferenceKey) -> m.ItemResult:
        now = self._clock.now()
        try:
            token = self._statements.access(key.token, key.accessor, now)
            remove(draft, self._rules, key, caller, token, now)
        except OstError as error:
            return m.ItemResult(error.code, error.message)
        return m.ItemResult()

    async def _info(self, caller: Caller, request: m.BlobInfoRequest) -> m.BlobInfo:
        reader = await self.open_blob(caller, request.accessor, request.blob_id, request.token)
        return self._describe(caller.proven, reader)

    async def _read(self, caller: Caller, request: m.ReadBlob) -> Reply:
        reader = await self.open_blob(caller, request.accessor, request.blob_id, request.token)
        data = await reader.read(request.offset, request.length)
        return Reply(self._describe(caller.proven, reader), data)

    def _describe(self, caller: Principal, reader: BlobReader) -> m.BlobInfo:
        view, now = self._desk.durable, self._clock.now()
        own = (
            name for uid in view.uids(caller) for name in view.references_of(uid, reader.blob_id)
        )
        return m.BlobInfo(
            size=reader.size,
            content_type=reader.content_type,
            filename=reader.filename,
            created_at=reader.created_at,
            own_references=sum(
                view.stands(name, now) is not None for name in islice(own, _COUNTED_MAX)
            ),
        )
