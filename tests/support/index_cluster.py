"""One index on an in-memory database, with the keys and callers that talk to it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio.testing
from typing_extensions import override

from ostnode.env import Clock, InlineWorker, Rng, Worker
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import AccessToken, Grant, Scope, mint_access, open_grant
from ostnode.ids import BlobId, ClusterId, Principal, Uid
from ostnode.roles.index import IndexOptions, IndexService, Rules, open_index
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Kind, authorise, call_of
from ostnode.wire.eventcodec import decode_event, encode_event
from ostnode.wire.fields import Message, Request
from ostnode.wire.session import FEATURES
from ostnode.wire.status import ClusterInfo, ClusterStatus

ROOMY = m.Space(total=1 << 40, free=1 << 40, stored=0)


class SetClock(Clock):
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.time = now

    @override
    def now(self) -> float:
        return self.time


class SeededRng(Rng):
    """The same bytes in every run."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    @override
    def token(self, length: int) -> bytes:
        return self._random.randbytes(length)

    @override
    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


def blob(number: int) -> BlobId:
    return BlobId(number.to_bytes(32, "big"))


class OutboxEnd:
    """A bucket's end of the link: numbers its events, reads its feed."""

    def __init__(self, cluster: IndexCluster, key: KeyPair) -> None:
        self._cluster = cluster
        self.key = key
        self.caller = Caller(key.principal, frozenset({Kind.BUCKET}), frozenset(FEATURES))
        self.incarnation = 1_600_000_000_000_000
        self.next_seq = 1
        self.cursor = (0, 0)
        self.zone: str | None = None
        self.weight: int | None = None

    async def sync_bytes(
        self, *events: bytes, first_seq: int | None = None, space: m.Space = ROOMY
    ) -> m.SyncResult:
        first = self.next_seq if first_seq is None else first_seq
        request = m.SyncBucket(
            self.incarnation, first, events, space, "http://bucket.test", self.zone, self.weight
        )
        result = await self._cluster.ask(self.caller, request)
        assert isinstance(result, m.SyncResult)
        self.next_seq = result.acked_seq + 1
        return result

    async def sync(self, *events: e.OutboxEvent, **arguments) -> m.SyncResult:
        return await self.sync_bytes(*map(encode_event, events), **arguments)

    async def feed(self, wait_ms: int = 0) -> list[e.FeedEvent]:
        """What is behind the cursor once everything urgent is stamped."""
        await trio.testing.wait_all_tasks_blocked()
        batch = await self._cluster.ask(self.caller, m.Feed(*self.cursor, wait_ms))
        assert isinstance(batch, m.FeedBatch)
        self.cursor = (batch.incarnation, batch.next_seq)
        return [decode_event(event, e.FeedEvent) for event in batch.events]

    def open(self, allocation: m.Allocation) -> Grant:
        """The grant as this bucket would read it."""
        return open_grant(
            allocation.grant,
            index=self._cluster.index_key.principal,
            bucket=self.key.principal,
            bucket_incarnation=self.incarnation,
            now=self._cluster.clock.now(),
            skew=60,
        )

    def completed(self, allocation: m.Allocation) -> e.Completed:
        grant = self.open(allocation)
        return e.Completed(grant.grant_id, grant.uid, grant.blob_id, grant.size)

    def closed(self, allocation: m.Allocation, reason: str) -> e.GrantClosed:
        grant = self.open(allocation)
        return e.GrantClosed(grant.grant_id, grant.uid, grant.blob_id, reason)

    def released(self, allocation: m.Allocation) -> e.Released:
        grant = self.open(allocation)
        return e.Released(grant.uid, grant.blob_id, grant.size)


class IndexCluster:
    """The index under test. `app`, `operator`, `alice` and `bob` are callers."""

    def __init__(self, rules: Rules, directory: Path | None, buckets: int) -> None:
        self.rng = SeededRng()
        self.clock = SetClock()
        self.index_key, self.alice_key, self.bob_key, self.general = (
            KeyPair.generate(self.rng) for _ in range(4)
        )
        self.app = Caller(KeyPair.generate(self.rng).principal, frozenset({Kind.APP}))
        self.operator = Caller(KeyPair.generate(self.rng).principal, frozenset({Kind.OPERATOR}))
        self.alice, self.bob = Caller(self.alice_key.principal), Caller(self.bob_key.principal)
        self.buckets = [OutboxEnd(self, KeyPair.generate(self.rng)) for _ in range(buckets)]
        self.bucket = self.buckets[0]
        self.options = IndexOptions(
            cluster_id=ClusterId(self.rng.token(16)),
            buckets=tuple(bucket.key.principal for bucket in self.buckets),
            data_dir=directory,
            rules=rules,
            operators=frozenset({self.operator.proven}),
        )
        self.service: IndexService | None = None

    @asynccontextmanager
    async def open(self, worker: Worker | None = None) -> AsyncIterator[IndexService]:
        """Open the index; a second time is a restart."""
        async with open_index(
            self.options,
            self.index_key,
            clock=self.clock,
            rng=self.rng,
            worker=worker or InlineWorker(),
        ) as self.service:
            yield self.service

    async def ask(self, caller: Caller, request: Request) -> Message:
        assert self.service is not None
        authorise(call_of(type(request)), caller)
        reply = await self.service.handle(caller, request)
        assert isinstance(reply.message, call_of(type(request)).result)
        return reply.message

    async def change(self, *changes: tuple[str, Caller, int]) -> list[str]:
        """Apply (op, who, limit) in one batch; the results' codes."""
        result = await self.ask(
            self.app,
            m.ChangeUsers(tuple(m.UserChange(op, who.proven, size) for op, who, size in changes)),
        )
        assert isinstance(result, m.BatchResult)
        return [item.code for item in result.results]

    async def allocate(self, caller: Caller, blob_id: BlobId, size: int) -> m.Allocation:
        result = await self.ask(caller, m.Allocate(blob_id, size))
        assert isinstance(result, m.Allocation)
        return result

    def bucket_of(self, allocation: m.Allocation) -> OutboxEnd:
        """The bucket it names."""
        named = allocation.bucket.principal
        return next(bucket for bucket in self.buckets if bucket.key.principal == named)

    async def account(self, caller: Caller) -> tuple[int, int]:
        """(used, reserved)."""
        info = await self.user(caller.proven)
        return info.allowance.used, info.allowance.reserved

    async def user(self, principal: Principal) -> m.UserInfo:
        info = await self.ask(self.app, m.GetUser(principal))
        assert isinstance(info, m.UserInfo)
        return info

    async def uid(self, caller: Caller) -> Uid:
        return (await self.user(caller.proven)).uid

    async def status(self) -> ClusterInfo:
        info = await self.ask(self.operator, ClusterStatus())
        assert isinstance(info, ClusterInfo)
        return info

    def token(self, scope: Scope, caller: Caller, **changes: object) -> bytes:
        """A token of the chat `general`."""
        now = int(self.clock.now())
        token = AccessToken(
            accessor=self.general.principal,
            cluster=self.options.cluster_id,
            caller=caller.proven,
            scope=scope,
            issued_at=now,
            expires_at=now + 60,
            cti=self.rng.token(16),
        )
        return mint_access(self.general, replace(token, **changes))


@asynccontextmanager
async def an_index(
    rules: Rules | None = None, directory: Path | None = None, buckets: int = 1
) -> AsyncIterator[IndexCluster]:
    """A running index; its buckets have said hello, and alice may keep 1000 bytes."""
    cluster = IndexCluster(rules or Rules(), directory, buckets)
    async with cluster.open():
        for bucket in cluster.buckets:
            await bucket.sync()
        await cluster.change(("register", cluster.alice, 1000))
        yield cluster
