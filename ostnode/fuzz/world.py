"""The node under test, in-process: the real index and the real bucket on memory alone.

Every case gets a world of its own: same keys, same clock, same randomness, same history. So a
case means the same whenever it is played.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVarTuple

import trio
from blake3 import blake3
from typing_extensions import TypeVar, override

from ostnode.env import Clock, InlineWorker
from ostnode.fuzz.cast import Cast
from ostnode.ids import BlobId, ClusterId
from ostnode.roles.bucket.opening import Bucket, open_bucket
from ostnode.roles.bucket.options import BucketOptions
from ostnode.roles.index import IndexOptions, IndexService, Rules, open_index
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.engine import Database
from ostnode.roles.index.database.repository import run_alone
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.store.simdisk import Faults, SimDisk
from ostnode.store.store import StoreOptions
from ostnode.virtual import SeededRng
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Kind, Reply, Service, authorise, call_of
from ostnode.wire.fields import Message, Request
from ostnode.wire.session import FEATURES

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH: Final = 1_700_000_000
CHUNK_BYTES: Final = 16
LIMIT_BYTES: Final = 4096
DISK_BYTES: Final = 64 << 20
CLUSTER: Final = ClusterId(b"fuzz-fuzz-fuzz-!")
URL: Final = "http://bucket.fuzz"
STORED: Final = b"alice sends this to general, and it is stored"
"""A whole blob of alice's, in the chat `general`."""
BEGUN: Final = b"alice has begun to send this; one chunk of it is there"
"""A blob whose first chunk has come."""
OLD: Final = b"carol has sent this before, and would lose it first"
"""A whole blob of carol's, who loses her oldest rather than be refused."""
_SETTLED_S: Final = 3.0
"""Longer than the index keeps small changes to itself."""
_UNJUDGED: Final = frozenset({"meta", "buckets", "feed", "unstamped", "leases"})
"""Tables that change by themselves: reports, the leader's beats, and the feed of all others."""


class VirtualClock(Clock):
    """Wall-clock time that follows Trio's."""

    @override
    def now(self) -> float:
        return EPOCH + trio.current_time()


class _Tap(InlineWorker):
    """Runs in place, and keeps hold of the database that it is asked to open."""

    def __init__(self) -> None:
        self.database: Database | None = None

    @override
    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        result = await super().run(function, *args)
        if isinstance(result, SqliteDatabase):
            self.database = result
        return result


class World:
    """An open index and bucket that know each other, with a little history."""

    def __init__(self, cast: Cast, index: IndexService, bucket: Bucket, database: Database) -> None:
        self.cast = cast
        self.index, self.bucket = index, bucket
        self._database = database
        self.grants: dict[str, bytes] = {}
        self.uids: dict[str, bytes] = {}
        self.cursor = 0
        """How far the bucket has read the feed: all there is."""
        self.features = frozenset(FEATURES)
        self.services: dict[str, tuple[Kind, Service]] = {
            "index": (Kind.INDEX, index),
            "bucket": (Kind.BUCKET, bucket.service),
        }

    async def ask(self, who: str, request: Request, body: bytes = b"") -> Message:
        """Make a call past the wire, as a member of the cast."""
        spec = call_of(type(request))
        principal = self.cast.principal(who)
        caller = Caller(principal, self.cast.kinds(principal), self.features)
        authorise(spec, caller)
        service = self.index if spec.role is Kind.INDEX else self.bucket.service
        return (await service.handle(caller, request, body)).message

    async def call(self, request: Request) -> Reply:
        """The bucket's way to the index."""
        return Reply(await self.ask("bucket", request))

    async def sync(self) -> None:
        """Feed down and outbox up, until both are drained and swept."""
        for _ in range(8):
            await self.bucket.sync.poll_feed(self, 0)
            while await self.bucket.sweeper.sweep_once():
                pass
            if not await self.bucket.sync.send_batch(self, URL):
                return

    def digest(self) -> str:
        """What the index and the bucket hold, as a hash: equal means that nothing changed."""
        digest = hashlib.blake2b(run_alone(self._database, _dump), digest_size=16)
        for key, value in self.bucket.store.durable.scan(b""):
            digest.update(b"%d %d " % (len(key), len(value)) + key + value)
        return digest.hexdigest()

    def broken_accounts(self) -> list[str]:
        """Accounts that break a rule, in words; empty when all is well."""
        return run_alone(self._database, _broken)

    async def live(self) -> None:
        """The history: three users, stored blobs in a chat, an upload that was begun."""
        await self.call(m.SyncBucket(self._incarnation, 1, (), _ROOMY, URL))
        changes = tuple(
            m.UserChange("register", self.cast.principal(who), LIMIT_BYTES, on_full)
            for who, on_full in _USERS.items()
        )
        await self.ask("app", m.ChangeUsers(changes))
        await self.sync()
        await self._upload("alice", "used", STORED, chunks=len(pieces_of(STORED)))
        await self._upload("alice", "open", BEGUN, chunks=1)
        await self._upload("bob", "bobs", STORED, chunks=0)
        await self._upload("carol", "carols", OLD, chunks=len(pieces_of(OLD)))
        for _ in range(2):  # what the index hears of the uploads is news for the feed again
            await trio.sleep(_SETTLED_S)
            await self.sync()
        _, self.cursor = self.bucket.desk.durable.feed_cursor()
        for who in _USERS:
            info = await self.ask(who, m.GetUser())
            assert isinstance(info, m.UserInfo)
            self.uids[who] = info.uid

    async def _upload(self, who: str, name: str, data: bytes, chunks: int) -> None:
        """Allocate, keep the grant by its name, and push the first chunks into `general`."""
        granted = await self.ask(who, m.Allocate(blob_id_of(data), len(data)))
        assert isinstance(granted, m.Allocation)
        self.grants[name] = granted.grant
        general = self.cast.principal("general")
        for number, piece in enumerate(pieces_of(data)[:chunks]):
            await self.ask(who, m.PushChunk(granted.grant, number, (general,), b"\x01"), piece)

    @property
    def _incarnation(self) -> int:
        return EPOCH * 1_000_000


_USERS: Final = {"alice": "refuse", "bob": "refuse", "carol": "evict_oldest"}
"""What becomes of each one's blobs when the allowance is full."""
_ROOMY: Final = m.Space(total=1 << 30, free=1 << 30, stored=0)


def blob_id_of(data: bytes) -> BlobId:
    """BLAKE3 of the bytes."""
    return BlobId(blake3(data).digest())


def pieces_of(data: bytes) -> list[bytes]:
    """The blob's chunks."""
    return [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]


@asynccontextmanager
async def open_world(cast: Cast) -> AsyncIterator[World]:
    """A world with its history behind it; to be opened under a virtual clock that starts at 0."""
    tap, clock = _Tap(), VirtualClock()
    index_options = IndexOptions(
        cluster_id=CLUSTER,
        buckets=(cast.principal("bucket"),),
        rules=Rules(chunk_bytes=CHUNK_BYTES, blob_bytes_max=1 << 20, user_grants_max=8),
        lost_after_s=86_400.0,  # the bucket reports when a case has it report
    )
    bucket_options = BucketOptions(
        principal=cast.principal("bucket"),
        index=cast.principal("index"),
        cluster_id=CLUSTER,
        user_uploads_max=8,
        free_bytes_min=0,
        store=StoreOptions(segment_bytes=1 << 20, batch_bytes_max=1 << 16, queue_bytes_max=1 << 18),
    )
    async with (
        open_index(
            index_options, cast.key("index"), clock=clock, rng=SeededRng("index"), worker=tap
        ) as index,
        open_bucket(
            bucket_options,
            disk=SimDisk(faults=Faults(capacity=DISK_BYTES)),
            clock=clock,
            rng=SeededRng("bucket"),
            worker=InlineWorker(),
            sweeping=False,
        ) as bucket,
    ):
        assert tap.database is not None
        world = World(cast, index, bucket, tap.database)
        await world.live()
        yield world


def _dump(tables: Tables) -> bytes:
    """Every judged table's rows as text."""
    rows = [
        (name, rows.where())
        for name, rows in sorted(vars(tables).items())
        if hasattr(rows, "where") and name.lstrip("_") not in _UNJUDGED
    ]
    assert rows, "an engine's tables are its attributes"
    return repr(rows).encode()


def _broken(tables: Tables) -> list[str]:
    problems = []
    for user in tables.users.where():
        charges = tables.charges.where(uid=user.uid)
        used = sum(charge.size for charge in charges if not charge.evicting)
        reserved = sum(grant.reserved for grant in tables.grants.where(uid=user.uid))
        if (used, reserved) != (user.used, user.reserved):
            problems.append("an account is not the sum of its charges and grants")
        if used + reserved > user.byte_limit and not user.deleted:
            problems.append("an account is over its limit")
    return problems
