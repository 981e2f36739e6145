"""A whole cluster in one process: the real index and buckets, on real links over memory.

Roles are put together by `ostnode.node` as in a process of their own; only HTTP is left out. Under
the autojump clock time is virtual and every run is the same. Links can be cut, replies lost,
nodes killed and started again from what their disks kept.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Generic, TypeVar

import trio
from typing_extensions import override

from ostnode.config import Config, parse_config
from ostnode.env import Clock, InlineWorker
from ostnode.errors import UserUnknownError
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import BlobId, Principal, PrincipalKind, Uid
from ostnode.keyfiles import create_key_file
from ostnode.net.link import Link, Signer, open_link
from ostnode.net.memory import MemoryNetwork, MemoryStream
from ostnode.net.tls import TlsNetwork
from ostnode.net.transport import Handler, LinkClosedError, Network
from ostnode.node.bucket import open_bucket_role
from ostnode.node.index import open_index_role
from ostnode.node.listeners import serve_peers
from ostnode.node.role import Role
from ostnode.node.seams import Seams
from ostnode.roles.bucket.service import BucketService
from ostnode.roles.bucket.views import View
from ostnode.store.errors import StoreFailedError
from ostnode.store.simdisk import SimCrash, SimDisk
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import Caller, Reply, Service
from ostnode.wire.fields import Request
from ostnode.wire.status import ClusterInfo, ClusterStatus
from tests.support.index_cluster import SeededRng
from tests.support.people import CHUNK_BYTES, CLUSTER, Chat, Person, Place, Town

EPOCH = 1_700_000_000
LIMIT = 1 << 20
"""Everybody's allowance in bytes."""
GRANT_TTL_S = 200
FLOOR_S = 60
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a test may want to be different: how many buckets, and keys of their config tables."""

    buckets: int = 2
    peer_tls: bool = False
    index: Mapping[str, object] = field(default_factory=dict)
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
        self.failures: list[BaseException] = []
        self.value: T

    async def keep(self, **start: trio.TaskStatus[None]) -> None:
        try:
            with self._scope:
                async with self._opening as self.value:
                    start["task_status"].started()
                    await self._until(self.value)
        except* (StoreFailedError, SimCrash) as group:
            # The role is gone, as its process would be; tests look at what that means.
            self.failures = flat(group)
        finally:
            self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    async def end(self) -> None:
        self._scope.cancel()
        await self._over.wait()

    async def ended(self) -> None:
        await self._over.wait()


def flat(group: BaseExceptionGroup) -> list[BaseException]:
    """Its exceptions without the groups between."""
    return [
        leaf
        for error in group.exceptions
        for leaf in (flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


async def _forever(_value: object) -> None:
    await trio.sleep_forever()


class Gate(Service):
    """A node's service as callers meet it: replies can be lost, and a bug can be put in."""

    def __init__(self, cut: Callable[[], None]) -> None:
        self._cut = cut
        self._losing: Counter[type[Request]] = Counter()
        self.service: Service
        self.asked: list[Request] = []
        self.broken = False

    def lose_replies(self, request: type[Request], count: int = 1) -> None:
        """Carry out the next such calls, and cut every link to the node instead of replying."""
        self._losing[request] += count

    @override
    async def handle(self, caller: Caller, request: Request, body: Buffer = b"") -> Reply:
        self.asked.append(request)
        if self.broken:
            raise RuntimeError("a bug of ours")
        reply = await self.service.handle(caller, request, body)
        if self._losing[type(request)]:
            self._losing[type(request)] -= 1
            self._cut()
            await trio.sleep_forever()
        return reply


class Uplink(Network):
    """One node's view of the network: what it dials can be cut, and forbidden."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._dialled: list[MemoryStream] = []
        self.down = False

    @override
    async def connect(self, address: str) -> trio.abc.Stream:
        if self.down:
            raise LinkClosedError("this node is cut off")
        stream = await self._network.connect(address)
        assert isinstance(stream, MemoryStream)
        self._dialled.append(stream)
        return stream

    @override
    def serve(self, address: str, handler: Handler, **started: trio.TaskStatus[str]):
        return self._network.serve(address, handler, **started)

    def cut(self) -> None:
        """Break what this node has dialled."""
        while self._dialled:
            self._dialled.pop().sever()


class Node(Place):
    """A role behind its peer address. Starting and ending it may be repeated."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.data_dir = cluster.directory / name
        self.data_dir.mkdir()
        self.key = KeyPair.from_seed(create_key_file(self.data_dir / "key", cluster.rng))
        # A name of the memory network; configs take peers on loopback only.
        self.address = f"127.0.0.1:{next(cluster.ports)}"
        self.uplink = Uplink(cluster.network)
        self.gate = Gate(self.cut)
        self.role: Role
        self._opened: Held[Role]
        self._listening: Held[trio.Event]
        self._stopping: trio.Event

    @abstractmethod
    def open_role(self, config: Config, seams: Seams) -> AbstractAsyncContextManager[Role]:
        """The role, on what is on its disk."""

    def seams(self) -> Seams:
        return Seams(
            clock=self.cluster.clock,
            rng=self.cluster.rng,
            network=self.uplink,
            below_tls=self.uplink,
            make_worker=lambda _threads: InlineWorker(),
        )

    async def start(self) -> None:
        seams = self.seams()
        self._opened = await self.cluster.hold(self.open_role(self.cluster.config, seams))
        self.role = self._opened.value
        self.gate.service = self.role.service
        self._stopping = trio.Event()
        self._listening = await self.cluster.hold(
            self._listen(seams, self._stopping), trio.Event.wait
        )

    async def stop(self) -> None:
        """As on SIGTERM: what is in flight is finished first."""
        self.begin_to_stop()
        await self._listening.ended()
        await self._opened.end()

    def begin_to_stop(self) -> None:
        self._stopping.set()

    async def kill(self) -> None:
        """As on SIGKILL: links break without a word."""
        self.cut()
        self.uplink.cut()
        await self._listening.end()
        await self._opened.end()

    async def failed(self) -> list[type[BaseException]]:
        """Wait until the role has ended by itself; what it ended with."""
        with trio.fail_after(5):
            await self._opened.ended()
        return [type(failure) for failure in self._opened.failures]

    def cut(self) -> None:
        """Break every open link to this node."""
        self.cluster.network.sever(self.address)

    @asynccontextmanager
    async def _listen(self, seams: Seams, stopping: trio.Event) -> AsyncIterator[trio.Event]:
        over = trio.Event()

        async def serve(**started: trio.TaskStatus[str]) -> None:
            role = replace(self.role, service=self.gate)
            await serve_peers(role, seams, stopping, **started)
            over.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield over
            nursery.cancel_scope.cancel()


class IndexNode(Node):
    """The index, on a SQLite file."""

    @override
    def open_role(self, config: Config, seams: Seams) -> AbstractAsyncContextManager[Role]:
        assert config.index is not None
        return open_index_role(config, config.index, seams)


class BucketNode(Node):
    """A bucket on a simulated disk, with its link to the index."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        super().__init__(cluster, name)
        self.disk = SimDisk()

    @override
    def seams(self) -> Seams:
        return replace(super().seams(), make_disk=lambda _path: self.disk)

    @override
    def open_role(self, config: Config, seams: Seams) -> AbstractAsyncContextManager[Role]:
        (table,) = (table for table in config.bucket if table.peer == self.address)
        return open_bucket_role(self.name, config, table, seams)

    @override
    async def kill(self, *, power: bool = False) -> None:
        """As on SIGKILL; with `power` the machine goes too, and what was not synced is lost at
        random.
        """
        seed = self.disk.operations
        after = self.disk.power_lost(seed) if power else self.disk.killed(seed)
        await super().kill()
        self.disk = after

    async def crash(self, *, power: bool = False) -> None:
        """Kill it and start it again."""
        await self.kill(power=power)
        await self.start()

    def go_offline(self) -> None:
        """Lose the index; clients are served on."""
        self.uplink.down = True
        self.uplink.cut()

    def go_online(self) -> None:
        self.uplink.down = False

    @property
    def service(self) -> BucketService:
        assert isinstance(self.role.service, BucketService)
        return self.role.service

    @property
    def rows(self) -> View:
        """What is durable."""
        return self.service._desk.durable

    @property
    def drained(self) -> bool:
        """Whether nothing waits here to be sent or swept."""
        return not self.rows.outbox(1) and not self.rows.sweeps(1)

    @property
    def stored(self) -> list[BlobId]:
        """Blobs with a commit."""
        return [BlobId(name[1:]) for name, _ in self.service._store.durable.scan(b"B")]

    @property
    def chunks(self) -> int:
        """Chunks kept, whichever upload or blob they are of."""
        return len(list(self.service._store.durable.scan(b"C")))

    def held_by(self, uid: Uid) -> dict[BlobId, int]:
        """Distinct blobs that the uid has references to, with their sizes."""
        blobs = {
            name.blob_id: self.rows.blob(name.blob_id) for name in self.rows.references_of(uid)
        }
        return {blob_id: row.size for blob_id, row in blobs.items() if row is not None}


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
            opening = self._cluster.dial(node, person.key)
            held = await self._cluster.hold(opening, Link.wait_closed)
            self._links[person, node.name] = held
        return await held.value.call(request, body)

    def link(self, person: Person, node: Node) -> Link:
        """The link that the person's last call to the node went over."""
        return self._links[person, node.name].value


class Cluster(Town):
    """One index, some buckets, an app, an operator, three users with accounts, and a stranger."""

    def __init__(self, shape: Shape, directory: Path, nursery: trio.Nursery) -> None:
        self.directory = directory
        self._nursery = nursery
        self.clock = ClusterClock()
        self.rng = SeededRng()
        self.network = MemoryNetwork()
        self.peers = TlsNetwork(below=self.network) if shape.peer_tls else self.network
        self.ports = count(7000)
        self.way = Way(self)
        self.index: IndexNode = IndexNode(self, "index")
        self.buckets = [BucketNode(self, f"bucket{n}") for n in range(shape.buckets)]
        self.app, self.operator, self.alice, self.bob, self.carol, self.stranger = (
            Person(name, self) for name in ("app", "operator", "alice", "bob", "carol", "stranger")
        )
        self.general, self.random = Chat("general", self.clock), Chat("random", self.clock)
        self.config = self._config(shape)

    def _config(self, shape: Shape) -> Config:
        who = {
            "apps": [self.app.principal.text(PrincipalKind.APP)],
            "operators": [self.operator.principal.text(PrincipalKind.OPERATOR)],
        }
        index = {
            "buckets": [bucket.key.principal.text(PrincipalKind.BUCKET) for bucket in self.buckets],
            "chunk_bytes": CHUNK_BYTES,
            "grant_ttl": GRANT_TTL_S,
        }
        bucket = {
            "index": self.index.key.principal.text(PrincipalKind.INDEX),
            "index_peer": self.index.address,
            "segment_bytes": "8MiB",
            "floor_interval": FLOOR_S,
        }
        document = {
            "cluster_id": str(CLUSTER),
            "node": {"peer_tls": shape.peer_tls},
            "index": _table(self.index) | who | index | dict(shape.index),
            "bucket": [_table(node) | who | bucket | dict(shape.bucket) for node in self.buckets],
        }
        config = parse_config(document, {}, base=self.directory)
        # Smaller than a config may say: simulated disks copy segments whole.
        small = {"segment_bytes": 256 << 10, "batch_bytes_max": 64 << 10}
        buckets = tuple(table.model_copy(update=small) for table in config.bucket)
        return config.model_copy(update={"bucket": buckets})

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
        await self._nursery.start(held.keep)
        return held

    def dial(self, node: Node, signer: Signer) -> AbstractAsyncContextManager[Link]:
        return open_link(
            self.peers,
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
        with trio.fail_after(30):
            while not await self._all_active():  # noqa: ASYNC110  no event tells
                await trio.sleep(0.01)

    async def _all_active(self) -> bool:
        return all(bucket.state == "active" for bucket in (await self.status()).buckets)

    async def status(self) -> ClusterInfo:
        return await self.operator.ask(ClusterStatus(), ClusterInfo)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds; virtual time makes that cheap."""
        with trio.fail_after(30):
            while not holds():  # noqa: ASYNC110  no event tells
                await trio.sleep(0.01)

    async def settle(self) -> None:
        """Wait until feeds and outboxes are drained and everything is swept."""
        with trio.fail_after(1000):
            calm = 0
            while calm < 2:
                # Longer than links wait to be redialled, and changes of bytes left for their push.
                await trio.sleep(11)
                calm = calm + 1 if await self._at_rest() else 0

    async def _at_rest(self) -> bool:
        fed = (await self.status()).feed_seq
        return all(
            bucket.drained and bucket.rows.feed_cursor()[1] == fed for bucket in self.buckets
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


def _table(node: Node) -> dict[str, object]:
    """What every role's config says; nobody binds HTTP and admin here."""
    table: dict[str, object] = {
        "key_file": str(node.data_dir / "key"),
        "data_dir": str(node.data_dir),
        "http": f"{node.name}.test:80",
        "peer": node.address,
        "admin": f"{node.name}.test:81",
    }
    return table


@asynccontextmanager
async def a_cluster(
    directory: Path, shape: Shape | None = None, way: Callable[[Cluster], Way] = Way
) -> AsyncIterator[Cluster]:
    """A running cluster, all of whose buckets are active."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(shape or Shape(), directory, nursery)
        cluster.way = way(cluster)
        await cluster.start()
        yield cluster
        nursery.cancel_scope.cancel()
