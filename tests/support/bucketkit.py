"""One bucket on a simulated disk, with a small index that keeps the accounts by the rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count

import trio
from blake3 import blake3

from ostnode.env import InlineWorker, Worker
from ostnode.errors import InvalidArgumentError, NotFoundError
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import AccessToken, Grant, Scope, mint_access, mint_grant
from ostnode.ids import NULL_ACCESSOR, BlobId, ClusterId, GrantId, Principal, Uid
from ostnode.roles.bucket.core.sync import raise_floor
from ostnode.roles.bucket.opening import Bucket, open_bucket
from ostnode.roles.bucket.options import BucketOptions
from ostnode.roles.bucket.reader import BlobReader
from ostnode.store.simdisk import SimDisk
from ostnode.store.store import StoreOptions
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Reply, authorise, call_of
from ostnode.wire.checking import Compare, Compared
from ostnode.wire.eventcodec import decode_event, encode_event
from ostnode.wire.fields import Message, Request
from ostnode.wire.session import FEATURES
from tests.support.index_cluster import SetClock
from tests.support.storekit import SeededRng

NOW = 1_700_000_000
CHUNK_BYTES = 16
CLUSTER = ClusterId(b"cluster-cluster-")
HTTP = "http://bucket.test"


def key(name: str) -> KeyPair:
    return KeyPair.from_seed(name.encode().ljust(32, b"."))


INDEX, BUCKET = key("index"), key("bucket")
ALICE, BOB, CAROL = key("alice"), key("bob"), key("carol")
GENERAL, RANDOM = key("general"), key("random")

OPTIONS = BucketOptions(
    principal=BUCKET.principal,
    index=INDEX.principal,
    cluster_id=CLUSTER,
    free_bytes_min=0,
    store=StoreOptions(segment_bytes=1 << 20, batch_bytes_max=1 << 16, queue_bytes_max=1 << 18),
)


def uid_of(user: KeyPair) -> Uid:
    """Each user's first registration."""
    return Uid(user.principal[:8])


def blob_of(data: bytes) -> BlobId:
    return BlobId(blake3(data).digest())


def pieces(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> list[bytes]:
    return [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)] or [b""]


@dataclass
class OpenGrant:
    uid: Uid
    blob_id: BlobId
    reserved: int
    end: int


@dataclass
class FakeIndex:
    """Grants, charges and a feed: accounting rules 1 to 3, in a few dictionaries.

    `lose_answers` makes the next calls succeed and then fail, as a broken link would.
    """

    incarnation: int = NOW * 1_000_000
    clock: SetClock = field(default_factory=lambda: SetClock(NOW))
    acked: int = 0
    floor: int = 0
    grants: dict[GrantId, OpenGrant] = field(default_factory=dict)
    charges: dict[tuple[Uid, BlobId], int] = field(default_factory=dict)
    events: list[Message] = field(default_factory=list)
    feed: list[bytes] = field(default_factory=list)
    ends: dict[int, m.ClosedEnd] = field(default_factory=dict)
    """The latest ends as they were named, by the event that asked: a repeat gets the same."""
    batches: list[m.SyncBucket] = field(default_factory=list)
    asked_from: list[int] = field(default_factory=list)
    """Where in the feed each poll began."""
    lose_answers: int = 0
    features: frozenset[str] = frozenset(FEATURES)

    def used(self, user: KeyPair | Uid) -> int:
        uid = user if isinstance(user, Uid) else uid_of(user)
        return sum(size for (owner, _), size in self.charges.items() if owner == uid)

    def reserved(self, user: KeyPair | Uid) -> int:
        uid = user if isinstance(user, Uid) else uid_of(user)
        return sum(grant.reserved for grant in self.grants.values() if grant.uid == uid)

    def tell(self, *events: e.FeedEvent) -> None:
        self.feed.extend(map(encode_event, events))

    async def call(self, request: Request) -> Reply:
        if isinstance(request, Compare):
            # Nothing is ever wanted.
            await trio.sleep(request.wait_ms / 1000)
            return Reply(Compared(0))
        reply = self.take(request) if isinstance(request, m.SyncBucket) else self.read_feed(request)
        if self.lose_answers:
            self.lose_answers -= 1
            raise ConnectionError("the link broke")
        return Reply(reply)

    def read_feed(self, request: Request) -> m.FeedBatch:
        assert isinstance(request, m.Feed)
        self.asked_from.append(request.seq)
        events = tuple(self.feed[request.seq :][:500])
        seq = request.seq + len(events)
        return m.FeedBatch(self.incarnation, seq, int(self.clock.now()), events)

    def take(self, request: m.SyncBucket) -> m.SyncResult:
        if request.first_seq > self.acked + 1:
            raise InvalidArgumentError("a gap")
        self.batches.append(request)
        closed = []
        for seq, data in enumerate(request.events, request.first_seq):
            event = decode_event(data, e.OutboxEvent)
            if seq > self.acked:
                if isinstance(event, e.Completed | e.GrantClosed):
                    opened = self.grants.get(event.grant_id)
                    self.ends[seq] = m.ClosedEnd(event.grant_id, opened.end if opened else 0)
                self._apply(event)
                self.acked = seq
            if seq in self.ends:
                closed.append(self.ends[seq])
        return m.SyncResult(self.acked, tuple(closed))

    def _apply(self, event: Message) -> None:
        self.events.append(event)
        match event:
            case e.Completed():
                self.grants.pop(event.grant_id, None)
                self.charges.setdefault((event.uid, event.blob_id), event.size)
            case e.GrantClosed():
                self.grants.pop(event.grant_id, None)
                if event.reason == "not_held":
                    self.charges.pop((event.uid, event.blob_id), None)
            case e.Released():
                self.charges.pop((event.uid, event.blob_id), None)
            case e.FloorRaised():
                self.floor = event.floor
                over = [gid for gid, grant in self.grants.items() if grant.end <= event.floor]
                for grant_id in over:
                    del self.grants[grant_id]

    def closings(self) -> list[tuple[GrantId, str]]:
        return [
            (event.grant_id, event.reason)
            for event in self.events
            if isinstance(event, e.GrantClosed)
        ]


class Kit:
    """A bucket that can be restarted, and everybody who talks to it."""

    def __init__(self, options: BucketOptions = OPTIONS, disk: SimDisk | None = None) -> None:
        self.options = options
        self.disk = disk or SimDisk()
        self.clock = SetClock(NOW)
        self.index = FakeIndex(clock=self.clock)
        self.bucket: Bucket
        self.incarnation = NOW * 1_000_000
        self._serial = count(1)

    @asynccontextmanager
    async def running(
        self, *, sweeping: bool = False, worker: Worker | None = None
    ) -> AsyncIterator[Kit]:
        async with open_bucket(
            self.options,
            disk=self.disk,
            clock=self.clock,
            rng=SeededRng(),
            worker=worker or InlineWorker(),
            read_worker=InlineWorker(),
            sweeping=sweeping,
        ) as self.bucket:
            yield self

    @property
    def service(self):
        return self.bucket.service

    async def ask(self, user: KeyPair, request: Request, body: bytes = b"") -> Message:
        caller = Caller(user.principal)
        authorise(call_of(type(request)), caller)
        return (await self.service.handle(caller, request, body)).message

    def grant(self, user: KeyPair, data: bytes, /, **changes: object) -> bytes:
        """A new grant for the user's first registration, reserving unless it is charged."""
        return self.sign(self.claims(user, data, **changes))

    def claims(self, user: KeyPair, data: bytes, /, **changes: object) -> Grant:
        now = int(self.clock.now())
        uid = changes.get("uid", uid_of(user))
        blob_id = changes.get("blob_id", blob_of(data))
        size = changes.get("size", len(data))
        serial = next(self._serial).to_bytes(8, "big")
        grant = Grant(
            grant_id=GrantId(self.index.incarnation.to_bytes(8, "big") + serial),
            index=INDEX.principal,
            bucket=BUCKET.principal,
            bucket_incarnation=self.incarnation,
            user=user.principal,
            uid=uid,
            blob_id=blob_id,
            size=size,
            chunk_bytes=CHUNK_BYTES,
            reserved=0 if (uid, blob_id) in self.index.charges else size,
            issued_at=now,
            expires_at=now + 3600,
        )
        return replace(grant, **changes)

    def sign(self, grant: Grant) -> bytes:
        """Issue a grant, or renew it: the index remembers its latest end."""
        opened = OpenGrant(grant.uid, grant.blob_id, grant.reserved, grant.expires_at)
        self.index.grants[grant.grant_id] = opened
        return mint_grant(INDEX, grant)

    async def push(
        self, user: KeyPair, grant: bytes, index: int, body: bytes, **params: object
    ) -> m.PushResult:
        result = await self.ask(user, m.PushChunk(grant, index, **params), body)
        assert isinstance(result, m.PushResult)
        return result

    async def upload(self, user: KeyPair, data: bytes, *chats: KeyPair, **params: object) -> bytes:
        """Push every chunk under a new grant, which is returned; it must complete."""
        grant = self.grant(user, data)
        accessors = tuple(chat.principal for chat in chats)
        for index, body in enumerate(pieces(data)):
            result = await self.push(user, grant, index, body, accessors=accessors, **params)
        assert result.missing == 0
        assert result.reference is not None
        return grant

    async def forward(
        self, user: KeyPair, data: bytes, source: KeyPair, *chats: KeyPair, **params: object
    ) -> m.PushResult:
        """Forward with a read token of `source`, or as the owner when it is the user itself."""
        token = b"" if source is user else self.token(source, user)
        grant = params.pop("grant", None) or self.grant(user, data)
        accessors = tuple(chat.principal for chat in chats)
        request = m.AddReference(grant, source.principal, token, accessors, **params)
        result = await self.ask(user, request)
        assert isinstance(result, m.PushResult)
        return result

    def token(self, chat: KeyPair, reader: KeyPair, **changes: object) -> bytes:
        now = int(self.clock.now())
        token = AccessToken(
            accessor=chat.principal,
            cluster=CLUSTER,
            caller=reader.principal,
            scope=Scope.READ,
            issued_at=now,
            expires_at=now + 600,
            cti=next(self._serial).to_bytes(16, "big"),
        )
        return mint_access(chat, replace(token, **changes))

    def deletion(self, chat: KeyPair, deleter: KeyPair, data: bytes, owner: KeyPair, /, **changes):
        """A ref.del token for one reference."""
        named = {
            "scope": Scope.REF_DEL,
            "blob": blob_of(data),
            "owner": uid_of(owner),
            "ref_id": b"",
            "expires_at": int(self.clock.now()) + 60,
        }
        return self.token(chat, deleter, **(named | changes))

    async def reader(self, user: KeyPair, chat: KeyPair, data: bytes) -> BlobReader:
        token = b"" if chat is user else self.token(chat, user)
        caller = Caller(user.principal)
        return await self.service.open_blob(caller, chat.principal, blob_of(data), token)

    async def read(self, user: KeyPair, chat: KeyPair, data: bytes) -> bytes:
        reader = await self.reader(user, chat, data)
        return bytes(await reader.read(0, max(1, reader.size)))

    async def readable(self, user: KeyPair, chat: KeyPair, data: bytes) -> bool:
        """Whether the bytes come; every refusal must look like this one."""
        try:
            found = await self.read(user, chat, data)
        except NotFoundError as error:
            told = (error.message, error.details)
        else:
            assert found == data
            return True
        assert told == ("not found", {})
        return False

    def key_of(
        self, data: bytes, owner: KeyPair | Uid, chat: KeyPair | None, **changes: object
    ) -> m.ReferenceKey:
        uid = owner if isinstance(owner, Uid) else uid_of(owner)
        accessor: Principal = NULL_ACCESSOR if chat is None else chat.principal
        return m.ReferenceKey(blob_of(data), uid, accessor, **changes)

    async def remove(self, user: KeyPair, *keys: m.ReferenceKey) -> list[str]:
        """The code of each item; empty for success."""
        result = await self.ask(user, m.RemoveReferences(keys))
        assert isinstance(result, m.BatchResult)
        return [item.code for item in result.results]

    async def sweep(self) -> None:
        while await self.bucket.sweeper.sweep_once():
            pass

    async def talk(self) -> None:
        """Feed down and outbox up until both are drained and swept."""
        seq = -1
        while seq != self.bucket.desk.durable.feed_cursor()[1]:
            seq = self.bucket.desk.durable.feed_cursor()[1]
            await self.bucket.sync.poll_feed(self.index, 0)
        await self.sweep()
        while await self.bucket.sync.send_batch(self.index, HTTP):
            pass

    async def raise_floor(self, floor: int) -> None:
        """As the index's clock would have it, and sweep."""
        await self.bucket.desk.decide(lambda draft: raise_floor(draft, floor))
        await self.sweep()

    @property
    def stored(self) -> set[BlobId]:
        """Blobs with a commit."""
        rows = self.bucket.store.durable.scan(b"B")
        return {BlobId(key[1:]) for key, _ in rows}
