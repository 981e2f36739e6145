"""Who talks to a cluster under test: users, apps and chats, over whichever way calls travel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from typing import Protocol, TypeVar

from blake3 import blake3

from ostnode.env import Clock
from ostnode.errors import NotFoundError
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import AccessToken, Scope, mint_access
from ostnode.ids import NULL_ACCESSOR, BlobId, ClusterId, Principal, Uid
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply, call_of
from ostnode.wire.fields import READ_BYTES_MAX, Message, Request

CLUSTER = ClusterId(b"cluster-cluster-")
CHUNK_BYTES = 4096
M = TypeVar("M", bound=Message)

_serial = count(1)


def key(name: str) -> KeyPair:
    return KeyPair.from_seed(name.encode().ljust(32, b"."))


def blob_of(data: bytes) -> BlobId:
    return BlobId(blake3(data).digest())


def pieces(data: bytes) -> list[bytes]:
    """The chunks of a blob; an empty blob has one."""
    return [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)] or [b""]


class Place(Protocol):
    """A node as people know it."""

    key: KeyPair
    name: str


class Town(Protocol):
    """A cluster as people know it: how calls travel, and which node has which principal."""

    clock: Clock
    index: Place

    async def carry(self, person: Person, node: Place, request: Request, body: bytes) -> Reply:
        """One call of this person's; raises the OstError it is refused with."""
        ...

    def node(self, principal: Principal) -> Place:
        """The bucket of this principal."""
        ...


class Chat:
    """An accessor: its key, and the tokens its app's backend signs with it."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.key, self._clock = key(name), clock
        self.principal = self.key.principal

    def token(self, caller: Person, scope: Scope = Scope.READ, /, **changes: object) -> bytes:
        """A token of this chat for the caller."""
        now = int(self._clock.now())
        token = AccessToken(
            accessor=self.principal,
            cluster=CLUSTER,
            caller=caller.principal,
            scope=scope,
            issued_at=now,
            expires_at=now + (600 if scope is Scope.READ else 60),
            cti=next(_serial).to_bytes(16, "big"),
        )
        return mint_access(self.key, replace(token, **changes))

    def deletion(self, caller: Person, made: m.BlobReference, /, **changes: object) -> bytes:
        """A ref.del token for the reference that was made in this chat."""
        named = {"blob": made.blob_id, "owner": made.owner, "ref_id": made.ref_id}
        return self.token(caller, Scope.REF_DEL, **(named | changes))

    def named_in(self, made: m.BlobReference, /, **changes: object) -> m.ReferenceKey:
        """The reference as a removal names it."""
        return replace(
            m.ReferenceKey(made.blob_id, made.owner, self.principal, made.ref_id), **changes
        )


class Person:
    """Somebody with a key; each Person has connections of its own."""

    def __init__(self, name: str, town: Town) -> None:
        self.name, self.town = name, town
        self.key = key(name)
        self.principal = self.key.principal

    async def call(self, node: Place, request: Request, body: bytes = b"") -> Reply:
        reply = await self.town.carry(self, node, request, body)
        assert isinstance(reply.message, call_of(type(request)).result)
        return reply

    async def ask(self, request: Request, expected: type[M]) -> M:
        """A call to the index."""
        message = (await self.call(self.town.index, request)).message
        assert isinstance(message, expected)
        return message

    async def ask_bucket(
        self, bucket: Principal, request: Request, expected: type[M], body: bytes = b""
    ) -> M:
        message = (await self.call(self.town.node(bucket), request, body)).message
        assert isinstance(message, expected)
        return message

    # --- accounts ---

    async def change(self, *changes: tuple[str, Person, int]) -> list[str]:
        """As the app: (op, whom, limit) in one batch; the results' codes."""
        items = tuple(m.UserChange(op, whom.principal, size) for op, whom, size in changes)
        result = await self.ask(m.ChangeUsers(items), m.BatchResult)
        return [item.code for item in result.results]

    async def info(self) -> m.UserInfo:
        return await self.ask(m.GetUser(), m.UserInfo)

    async def uid(self) -> Uid:
        return (await self.info()).uid

    async def account(self) -> tuple[int, int]:
        """(used, reserved)."""
        allowance = (await self.info()).allowance
        return allowance.used, allowance.reserved

    async def delete_chat(self, chat: Chat, token: bytes = b"") -> None:
        await self.ask(m.DeleteAccessor(chat.principal, token), m.Ok)

    # --- uploads ---

    async def allocate(self, data: bytes, size: int | None = None) -> m.Allocation:
        size = len(data) if size is None else size
        return await self.ask(m.Allocate(blob_of(data), size), m.Allocation)

    async def push(
        self, allocation: m.Allocation, index: int, body: bytes, *chats: Chat, **params: object
    ) -> m.PushResult:
        accessors = tuple(chat.principal for chat in chats)
        request = m.PushChunk(allocation.grant, index, accessors, **params)
        return await self.ask_bucket(allocation.bucket.principal, request, m.PushResult, body)

    async def push_all(
        self,
        allocation: m.Allocation,
        data: bytes,
        *chats: Chat,
        indexes: Iterable[int] | None = None,
        **params: object,
    ) -> m.BlobReference:
        """Push the chunks, one after the other; the last must complete the upload."""
        chunks = pieces(data)
        result = m.PushResult(0)
        for index in range(len(chunks)) if indexes is None else indexes:
            result = await self.push(allocation, index, chunks[index], *chats, **params)
        assert result.missing == 0
        assert result.reference is not None
        return result.reference

    async def upload(self, data: bytes, *chats: Chat, **params: object) -> m.BlobReference:
        return await self.push_all(await self.allocate(data), data, *chats, **params)

    async def missing(self, allocation: m.Allocation, data: bytes) -> list[int]:
        """Indexes of the chunks that the bucket has not received yet."""
        request = m.UploadStatus(blob_of(data))
        info = await self.ask_bucket(allocation.bucket.principal, request, m.UploadInfo)
        return [
            index
            for index in range(len(pieces(data)))
            if not info.received[index // 8] >> index % 8 & 1
        ]

    async def cancel(self, allocation: m.Allocation, data: bytes) -> None:
        bucket = allocation.bucket.principal
        await self.ask_bucket(bucket, m.CancelUpload(blob_of(data)), m.Ok)

    # --- references ---

    async def forward(
        self,
        data: bytes,
        source: Chat | Person,
        *chats: Chat,
        token: bytes | None = None,
        allocation: m.Allocation | None = None,
        **params: object,
    ) -> m.BlobReference:
        """Forward with a read token of `source`, or as the owner when that is the person itself."""
        allocation = allocation or await self.allocate(data)
        if token is None:
            token = source.token(self) if isinstance(source, Chat) else b""
        accessors = tuple(chat.principal for chat in chats)
        request = m.AddReference(allocation.grant, source.principal, token, accessors, **params)
        result = await self.ask_bucket(allocation.bucket.principal, request, m.PushResult)
        assert result.reference is not None
        return result.reference

    async def read(
        self, source: Chat | Person, made: m.BlobReference, token: bytes | None = None
    ) -> bytes:
        """The whole blob, through a chat with its token, or as the owner without one."""
        if token is None:
            token = source.token(self) if isinstance(source, Chat) else b""
        request = m.ReadBlob(source.principal, made.blob_id, 0, READ_BYTES_MAX, token)
        reply = await self.call(self.town.node(made.bucket), request)
        return bytes(reply.body)

    async def can_read(
        self, source: Chat | Person, made: m.BlobReference, token: bytes | None = None
    ) -> bool:
        """Whether the right bytes come; every refusal must be the same."""
        refusal: NotFoundError | None = None
        try:
            assert blob_of(await self.read(source, made, token)) == made.blob_id
        except NotFoundError as error:
            refusal = error
        # Never why; over HTTP, what a visitor can make of it.
        words = {"not found", "there is no such blob, or it is not for you"}
        assert refusal is None or (refusal.message in words and not refusal.details)
        return refusal is None

    async def remove(self, made: m.BlobReference, chat: Chat | None, token: bytes = b"") -> str:
        """Remove one reference: by a token, or as its owner. The result's code."""
        accessor = NULL_ACCESSOR if chat is None else chat.principal
        item = m.ReferenceKey(made.blob_id, made.owner, accessor, made.ref_id, token)
        request = m.RemoveReferences((item,))
        result = await self.ask_bucket(made.bucket, request, m.BatchResult)
        return result.results[0].code


class Nobody(Person):
    """Claims to be alice and cannot prove it: its key is another. Over HTTP it has no session."""

    def __init__(self, town: Town) -> None:
        super().__init__("nobody", town)
        self.key.principal = self.principal = key("alice").principal
