"""What nodes tell, compared with what is durable at the moment they tell it.

A client hears an answer milliseconds later: by then a missing sync is made up for, most often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from typing_extensions import override

from ostnode.ids import Principal
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.views import View
from ostnode.roles.index.core.rows import THE_INDEX
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import accounts as ac
from ostnode.wire import messages as m
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import Caller, Reply, Service
from ostnode.wire.fields import Message, Request

Told: TypeAlias = Callable[[Caller, Request, Message], None]
"""Hears every answer before it leaves the node."""
_GONE: Final = frozenset({"", "not_found"})
"""A deletion that ends so says that there is no such reference now."""
_ALL: Final = 1 << 30


class Overheard(Service):
    """A role's service, whose answers somebody hears first."""

    def __init__(self, service: Service, told: Told) -> None:
        self._service, self._told = service, told

    @override
    async def handle(self, caller: Caller, request: Request, body: Buffer = b"") -> Reply:
        reply = await self._service.handle(caller, request, body)
        self._told(caller, request, reply.message)
        return reply


def undone_at_bucket(
    durable: View, decided: View, request: Request, answer: Message
) -> Iterator[str]:
    """What a bucket tells and a crash would undo now, in words.

    That is what is decided and not durable; what is neither has ended again since.
    """
    match request, answer:
        case _, m.PushResult(reference=m.BlobReference() as made):
            for accessor in made.accessors:
                name = t.ReferenceId(made.blob_id, accessor, made.owner, made.ref_id)
                if decided.reference(name) and not durable.reference(name):
                    yield f"a reference to blob {made.blob_id.hex()[:8]} is told of"
        case m.PushChunk(), _:
            for number, upload in decided.uploads(0, _ALL):
                where = number, request.chunk_index
                mine = upload.ref_id == request.ref_id and decided.has_chunk(*where)
                if mine and not durable.has_chunk(*where):
                    yield f"chunk {request.chunk_index} is told of"
        case m.RemoveReferences(), m.BatchResult():
            for key, result in zip(request.references, answer.results, strict=True):
                name = t.ReferenceId(key.blob_id, key.accessor, key.owner, key.ref_id)
                there = durable.reference(name) and not decided.reference(name)
                if result.code in _GONE and there:
                    yield f"the end of a reference to blob {key.blob_id.hex()[:8]} is told of"
        case _:
            pass


def undone_at_index(
    tables: Tables, bucket: Principal | None, request: Request, answer: Message
) -> Iterator[str]:
    """What the index tells and has not committed, in words. `bucket` is who asks, if one does."""
    match request, answer:
        case m.SyncBucket(), m.SyncResult():
            row = None if bucket is None else tables.buckets.get(bucket)
            same = row is not None and row.incarnation == request.incarnation
            if row is not None and same and answer.acked_seq > row.acked_seq:
                yield f"{answer.acked_seq} is told to be applied; it has {row.acked_seq}"
        case m.Feed(), m.FeedBatch():
            meta = tables.meta.get(THE_INDEX)
            same = meta is not None and meta.incarnation == answer.incarnation
            if meta is not None and same and answer.next_seq > meta.feed_seq:
                yield f"{answer.next_seq} of the feed is told of, which ends at {meta.feed_seq}"
        case m.DeleteAccessor(), m.Ok():
            if tables.burned.get(request.accessor) is None:
                yield f"the deletion of chat {request.accessor.hex()[:8]} is told of"
        case ac.BlockBlob(), m.Ok():
            if tables.blocked_blobs.get(request.blob_id) is None:
                yield f"the block of blob {request.blob_id.hex()[:8]} is told of"
        case _:
            pass


def unsent(durable: View, request: Request) -> Iterator[str]:
    """What a bucket tells the index and a crash of the bucket would undo now, in words."""
    if isinstance(request, m.SyncBucket) and request.events:
        last = request.first_seq + len(request.events) - 1
        same = request.incarnation == durable.number(t.INCARNATION)
        if same and last >= durable.number(t.OUTBOX_NEXT):
            yield f"the index is told of event {last}"
