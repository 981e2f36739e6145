"""A whole cluster in one process: the real index and buckets, on real links over memory.

Under the autojump clock time is virtual and every run is the same. Links can be cut, replies
lost, nodes killed and started again from what their disks kept.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import trio
from typing_extensions import override

from ostnode.env import Clock, InlineWorker
from ostnode.errors import UserUnknownError
from ostnode.identity.keys import verify
from ostnode.ids import BlobId, Principal, Uid
from ostnode.net.dial import Backoff, dial_forever
from ostnode.net.link import Link, Signer, open_link
from ostnode.net.memory import MemoryNetwork
from ostnode.net.serve import serve_link
from ostnode.net.transport import LinkClosedError
from ostnode.roles.bucket.opening import Bucket, open_bucket
from ostnode.roles.bucket.options import BucketOptions
from ostnode.roles.index import IndexOptions, IndexService, Rules, open_index
from ostnode.store.errors import StoreFailedError
from ostnode.store.store import StoreOptions
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Kind, Reply, Service
from ostnode.wire.fields import Request
from tests.support.index_cluster import SeededRng
from tests.support.people import CHUNK_BYTES, CLUSTER, Chat, Person, Place, Town, key
from tests.support.simdisk import SimDisk

EPOCH = 1_700_000_000
LIMIT = 10_000
"""Everybody's allowance in bytes."""
GRANT_TTL_S = 600
FLOOR_S = 60
BACKOFF = Backoff(base_s=0.05, cap_s=0.2)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a test may want to be different; `bucket` are fields of BucketOptions."""

    buckets: int = 2
    rules: Rules = Rules(chunk_bytes=CHUNK_BYTES, grant_ttl_s=GRANT_TTL_S)
    bucket: Mapping[str, object] = field(default_factory=dict)


class ClusterClock(Clock):
    """Trio's time from EPOCH on; `ahead_s` moves the date and no deadline."""

    def __init__(self) -> None:
        self._start = trio.current_time()
        self.ahead_s = 0.0

    @override
    def now(self) -> float:
        return EPOCH + trio.current_time() - self._start + self.ahead_s


class Held(Generic[T]):
    """A context that a task of its own keeps open until `end`, or until it fails."""

    def __init__(
        self, opening: AbstractAsyncContextManager[T], until: Callable[[T], Awaitable[None]]
    ) -> None:
        self._opening, self._until = opening, until
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self.value: T

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self._scope:
                async with self._opening as self.value:
                    task_status.started()
                    await self._until(self.value)
        except* StoreFailedError:
            pass  # the bucket is gone, as a node would be; its test looks at what that means
        finally:
            self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    async def end(self) -> None:
        self._scope.cancel()
        await self._over.wait()


async def _forever(_value: object) -> None:
    await trio.sleep_forever()


class Gate(Service):
    """A node's service as callers meet it: replies can be lost, and a bug can be put in."""

    def __init__(self, cut: Callable[[], None]) -> None:
        self._cut = cut
        self._losing: Counter[type[Request]] = Counter()
        self.service: Service
        self.asked: list[tuple[Principal | None, Request]] = []
        self.broken = False

    def lose_replies(self, request: type[Request], count: int = 1) -> None:
        """Carry out the next such calls, and cut every link to the node instead of replying."""
        self._losing[request] += count

    @override
    async def handle(self, caller: Caller, request: Request, body: bytes = b"") -> Reply:
        self.asked.append((caller.principal, request))
        if self.broken:
            raise RuntimeError("a bug of ours")
        reply = await self.service.handle(caller, request, body)
        if self._losing[type(request)]:
            self._losing[type(request)] -= 1
            self._cut()
            await trio.sleep_forever()
        return reply


class Node(Place):
    """A role behind its address. `start` and what ends it may be called again and again."""

    kind: Kind

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.key = key(name)
        self.address = f"{name}:7000"
        self.gate = Gate(self.cut)
        self._role: Held[Service]
        self._listening: Held[None]

    @abstractmethod
    def open_role(self) -> AbstractAsyncContextManager[Service]:
        """The role's service, on what is on its disk."""

    def kinds_of(self, principal: Principal) -> frozenset[Kind]:
        return self.cluster.kinds_of(principal)

    async def start(self) -> None:
        self._role = await self.cluster.hold(self.open_role())
        self.gate.service = self._role.value
        self._listening = await self.cluster.hold(self._listen())

    async def stop(self) -> None:
        """Close everything in order; links end without a word."""
        self.cut()
        await self._listening.end()
        await self.close_role()

    async def close_role(self) -> None:
        """End the role behind a listener that goes on answering, as a failed store does."""
        await self._role.end()

    def cut(self) -> None:
        """Break every open link to this node."""
        self.cluster.network.sever(self.address)

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.cluster.network.serve, self.address, self._serve)
            yield
            nursery.cancel_scope.cancel()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        await serve_link(
            stream,
            signer=self.key,
            verify=verify,
            services={self.kind: self.gate},
            kinds_of=self.kinds_of,
            rng=self.cluster.rng,
        )


class IndexNode(Node):
    kind = Kind.INDEX
    service: IndexService

    @asynccontextmanager
    async def open_role(self) -> AsyncIterator[Service]:
        options = IndexOptions(
            cluster_id=CLUSTER,
            buckets=tuple(bucket.key.principal for bucket in self.cluster.buckets),
            data_dir=self.cluster.directory,
            rules=self.cluster.shape.rules,
        )
        async with open_index(
            options,
            self.key,
            clock=self.cluster.clock,
            rng=self.cluster.rng,
            worker=InlineWorker(),
        ) as self.service:
            yield self.service


class BucketNode(Node):
    """A bucket on a simulated disk, and its talk with the index."""

    kind = Kind.BUCKET
    bucket: Bucket

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster, name)
        self.disk = SimDisk()
        self.url = f"http://{name}.test"
        self._talking: Held[None]

    @override
    async def start(self) -> None:
        await super().start()
        await self.go_online()

    @override
    async def stop(self) -> None:
        await self.go_offline()
        await super().stop()

    async def kill(self, *, power: bool = False) -> None:
        """SIGKILL; with `power` the machine goes too, and what was not synced is lost at random."""
        seed = self.disk.operations
        after = self.disk.power_lost(seed) if power else self.disk.killed(seed)
        await self.stop()
        self.disk = after

    async def go_online(self) -> None:
        self._talking = await self.cluster.hold(self._talk())

    async def go_offline(self) -> None:
        """Leave the index alone; clients are served on."""
        await self._talking.end()

    @property
    def drained(self) -> bool:
        """Whether nothing waits here to be sent or swept."""
        view = self.bucket.desk.durable
        return not view.outbox(1) and not view.sweeps(1)

    @property
    def stored(self) -> list[BlobId]:
        """Blobs with a commit."""
        return [BlobId(name[1:]) for name, _ in self.bucket.store.durable.scan(b"B")]

    def held_by(self, uid: Uid) -> dict[BlobId, int]:
        """Distinct blobs that the uid has references to, with their sizes."""
        view = self.bucket.desk.durable
        blobs = {name.blob_id: view.blob(name.blob_id) for name in view.references_of(uid)}
        return {blob_id: row.size for blob_id, row in blobs.items() if row is not None}

    def chunks(self) -> int:
        """Chunks kept, whichever upload or blob they are of."""
        return len(list(self.bucket.store.durable.scan(b"C")))

    @asynccontextmanager
    async def open_role(self) -> AsyncIterator[Service]:
        options = BucketOptions(
            principal=self.key.principal,
            index=self.cluster.index.key.principal,
            cluster_id=CLUSTER,
            free_bytes_min=0,
            floor_interval_s=FLOOR_S,
            sweep_interval_s=10,
            store=StoreOptions(
                segment_bytes=1 << 20, batch_bytes_max=1 << 16, queue_bytes_max=1 << 18
            ),
        )
        async with open_bucket(
            replace(options, **self.cluster.shape.bucket),
            disk=self.disk,
            clock=self.cluster.clock,
            rng=self.cluster.rng,
            worker=InlineWorker(),
        ) as self.bucket:
            yield self.bucket.service

    @asynccontextmanager
    async def _talk(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            dial = partial(self.cluster.dial, self.cluster.index, self.key)
            use = partial(self._use, self.bucket)
            nursery.start_soon(
                partial(dial_forever, dial, use, rng=self.cluster.rng, backoff=BACKOFF)
            )
            yield
            nursery.cancel_scope.cancel()

    async def _use(self, bucket: Bucket, link: Link) -> None:
        await bucket.sync.run(link, self.url)


class Way:
    """How people's calls travel: here over one link for each person and node, dialled anew
    when it has broken.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._links: dict[tuple[Person, str], Held[Link]] = {}

    async def carry(self, person: Person, node: Node, request: Request, body: bytes) -> Reply:
        held = self._links.get((person, node.name))
        if held is None or held.over:
            opening = self._cluster.dial(node, self.signer(person))
            held = await self._cluster.hold(opening, Link.wait_closed)
            self._links[person, node.name] = held
        return await held.value.call(request, body)

    def signer(self, person: Person) -> Signer:
        return person.key


class Cluster(Town):
    """One index, some buckets, an app, an operator, three users with accounts, and a stranger."""

    def __init__(self, shape: Shape, directory: Path | None, nursery: trio.Nursery) -> None:
        self.shape, self.directory = shape, directory
        self._nursery = nursery
        self.clock = ClusterClock()
        self.rng = SeededRng()
        self.network = MemoryNetwork()
        self.way = Way(self)
        self.index: IndexNode = IndexNode(self, "index")
        self.buckets = [BucketNode(self, f"bucket{n}") for n in range(shape.buckets)]
        self.app, self.operator, self.alice, self.bob, self.carol, self.stranger = (
            Person(name, self) for name in ("app", "operator", "alice", "bob", "carol", "stranger")
        )
        self.general, self.random = Chat("general", self.clock), Chat("random", self.clock)

    def kinds_of(self, principal: Principal) -> frozenset[Kind]:
        kinds = {
            self.app.principal: Kind.APP,
            self.operator.principal: Kind.OPERATOR,
            self.index.key.principal: Kind.INDEX,
        } | {bucket.key.principal: Kind.BUCKET for bucket in self.buckets}
        return frozenset({kinds[principal]}) if principal in kinds else frozenset()

    @property
    def nodes(self) -> list[Node]:
        return [self.index, *self.buckets]

    @override
    def node(self, principal: Principal) -> BucketNode:
        return next(bucket for bucket in self.buckets if bucket.key.principal == principal)

    @override
    async def carry(self, person: Person, node: Place, request: Request, body: bytes) -> Reply:
        assert isinstance(node, Node)
        return await self.way.carry(person, node, request, body)

    async def hold(
        self,
        opening: AbstractAsyncContextManager[T],
        until: Callable[[T], Awaitable[None]] = _forever,
    ) -> Held[T]:
        held = Held(opening, until)
        await self._nursery.start(held.run)
        return held

    def dial(self, node: Node, signer: Signer) -> AbstractAsyncContextManager[Link]:
        return open_link(
            self.network,
            node.address,
            signer=signer,
            verify=verify,
            expect=node.key.principal,
            rng=self.rng,
        )

    async def start(self) -> None:
        for node in self.nodes:
            await node.start()
        everybody = (self.alice, self.bob, self.carol)
        await self.app.change(*(("register", person, LIMIT) for person in everybody))
        await self.until(self._all_active)

    async def _all_active(self) -> bool:
        return all(bucket.state == "active" for bucket in (await self.status()).buckets)

    async def status(self) -> m.ClusterInfo:
        return await self.operator.ask(m.ClusterStatus(), m.ClusterInfo)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until it holds; virtual time makes that cheap."""
        with trio.fail_after(30):
            while not await holds():
                await trio.sleep(0.01)

    async def settle(self) -> None:
        """Wait until feeds and outboxes are drained and everything is swept."""
        with trio.fail_after(1000):
            calm = 0
            while calm < 2:
                # Longer than sweeps wait, and than changes of bytes left wait for their push.
                await trio.sleep(11)
                calm = calm + 1 if await self._at_rest() else 0

    async def _at_rest(self) -> bool:
        fed = (await self.status()).feed_seq
        return all(
            bucket.drained and bucket.bucket.desk.durable.feed_cursor()[1] == fed
            for bucket in self.buckets
        )

    async def check_accounts(self) -> None:
        """Rule 6: at rest the index charges what the buckets hold, and no blob has two homes."""
        await self.settle()
        for person in (self.alice, self.bob, self.carol):
            try:
                info = await person.info()
            except UserUnknownError:
                continue
            held = [bucket.held_by(info.uid) for bucket in self.buckets]
            assert info.allowance.used == sum(sum(blobs.values()) for blobs in held)
        stored = [blob_id for bucket in self.buckets for blob_id in bucket.stored]
        assert len(stored) == len(set(stored))
        assert (await self.status()).rejected_events == 0

    async def grants_over(self) -> None:
        """Let every open grant come to its end, and the floor pass it."""
        await trio.sleep(GRANT_TTL_S + 5 * FLOOR_S)
        await self.settle()


async def insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Make the call again, the very same, for as long as the link breaks under it."""
    with trio.fail_after(60):
        while True:
            try:
                return await attempt()
            except LinkClosedError:
                await trio.sleep(0.05)


@asynccontextmanager
async def a_cluster(
    shape: Shape | None = None,
    directory: Path | None = None,
    way: Callable[[Cluster], Way] = Way,
) -> AsyncIterator[Cluster]:
    """A running cluster, all of whose buckets are active; without a directory the index's
    database is in memory, and gone when the index stops.
    """
    async with trio.open_nursery() as nursery:
        cluster = Cluster(shape or Shape(), directory, nursery)
        cluster.way = way(cluster)
        await cluster.start()
        yield cluster
        nursery.cancel_scope.cancel()
