"""A whole cluster in one process and in virtual time: an index and buckets on memory streams.

Roles are put together by `ostnode.node` as in a real process; only HTTP is left out, because it
needs sockets. The index keeps its SQLite file in a real directory, buckets live on simulated
disks, so that a bucket can be killed and find what a killed process leaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio
from blake3 import blake3
from typing_extensions import override

from ostnode.client import mint_read, mint_ref_delete
from ostnode.config import Config, parse_config
from ostnode.env import Clock, InlineWorker
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import BlobId, ClusterId, Principal, PrincipalKind
from ostnode.keyfiles import create_key_file
from ostnode.net.link import Link, open_link
from ostnode.net.memory import MemoryNetwork
from ostnode.node.bucket import open_bucket_role
from ostnode.node.index import open_index_role
from ostnode.node.listeners import serve_peers
from ostnode.node.role import Role
from ostnode.node.seams import Seams
from ostnode.wire import messages as m
from ostnode.wire.fields import Message, Request
from ostnode.wire.status import ClusterInfo, ClusterStatus
from tests.support.index_cluster import SeededRng
from tests.support.simdisk import SimDisk

CLUSTER = ClusterId(b"memory-cluster--")
CHUNK_BYTES = 4096
INDEX_PEER = "index:1"
SETTLED_S = 20.0
"""Virtual seconds after which every feed, outbox and sweep has run, and links are back."""
M = TypeVar("M", bound=Message)


def key_of(name: str) -> KeyPair:
    return KeyPair.from_seed(name.encode().ljust(32, b"."))


class VirtualClock(Clock):
    """Wall-clock time that runs with Trio's."""

    @override
    def now(self) -> float:
        return 1_700_000_000.0 + trio.current_time()


class Part:
    """One role that is started, stopped and cut as if it were a process."""

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[Role]], seams: Seams):
        self._opening = opening
        self._seams = seams
        self._scope = trio.CancelScope()
        self._stopping = trio.Event()
        self._ended = trio.Event()
        self.role: Role

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self._scope:
            async with self._opening() as self.role, trio.open_nursery() as nursery:
                await nursery.start(serve_peers, self.role, self._seams, self._stopping)
                task_status.started()
        self._ended.set()

    async def stop(self) -> None:
        self._stopping.set()
        await self._ended.wait()

    async def cut(self) -> None:
        self._scope.cancel()
        await self._ended.wait()


class MemoryCluster:
    """Made by `memory_cluster`; buckets are named by their number."""

    def __init__(self, root: Path, buckets: int, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._disks = {f"bucket-{n}": SimDisk(seed=n) for n in range(buckets)}
        self._kills = 0
        self.rng = SeededRng(7)
        self.clock = VirtualClock()
        self.seams = Seams(
            clock=self.clock,
            rng=self.rng,
            network=MemoryNetwork(),
            make_worker=lambda _threads: InlineWorker(),
            make_disk=lambda path: self._disks[path.name],
        )
        self.app = key_of("app")
        keys = {name: self._key(root, name) for name in ("index", *self._disks)}
        self.index_key = keys.pop("index")
        self.bucket_keys = list(keys.values())
        self.config = self._config(root)
        self.index: Part
        self.buckets: list[Part] = []

    @staticmethod
    def _key(root: Path, name: str) -> KeyPair:
        return KeyPair.from_seed(create_key_file(root / f"{name}.key"))

    def _config(self, root: Path) -> Config:
        bucket_names = [key.principal.text(PrincipalKind.BUCKET) for key in self.bucket_keys]
        index = {
            "key_file": "index.key",
            "data_dir": "index",
            "http": "127.0.0.1:1",
            "peer": INDEX_PEER,
            "admin": "127.0.0.1:2",
            "apps": [self.app.principal.text(PrincipalKind.APP)],
            "buckets": bucket_names,
            "chunk_bytes": CHUNK_BYTES,
            "grant_ttl": "10m",
        }
        buckets = [
            {
                "key_file": f"{name}.key",
                "data_dir": name,
                "http": f"127.0.0.1:{10 + number}",
                "public_url": f"http://{name}.test",
                "peer": f"{name}:1",
                "admin": f"127.0.0.1:{20 + number}",
                "index": self.index_key.principal.text(PrincipalKind.INDEX),
                "index_peer": INDEX_PEER,
                "segment_bytes": "8MiB",
                "floor_interval": "5s",
            }
            for number, name in enumerate(self._disks)
        ]
        document = {"cluster_id": str(CLUSTER), "index": index, "bucket": buckets}
        return parse_config(document, {}, base=root)

    # --- processes ----------------------------------------------------------------------------

    async def start_index(self) -> None:
        assert self.config.index
        self.index = Part(
            partial(open_index_role, self.config, self.config.index, self.seams), self.seams
        )
        await self._nursery.start(self.index.run)

    async def start_bucket(self, number: int) -> None:
        opening = partial(
            open_bucket_role,
            f"bucket[{number}]",
            self.config,
            self.config.bucket[number],
            self.seams,
        )
        part = Part(opening, self.seams)
        self.buckets[number : number + 1] = [part]
        await self._nursery.start(part.run)

    async def kill_bucket(self, number: int) -> None:
        """The process is gone at once; what it wrote without syncing may be there or not."""
        name = f"bucket-{number}"
        self._kills += 1
        left = self._disks[name].killed(self._kills)
        await self.buckets[number].cut()
        self._disks[name] = left

    # --- calls --------------------------------------------------------------------------------

    def link(self, user: KeyPair, node: Principal) -> AbstractAsyncContextManager[Link]:
        address = INDEX_PEER
        if node != self.index_key.principal:
            principals = [key.principal for key in self.bucket_keys]
            address = f"bucket-{principals.index(node)}:1"
        return open_link(
            self.seams.network, address, signer=user, verify=verify, expect=node, rng=self.rng
        )

    async def ask(
        self, user: KeyPair, node: Principal, request: Request, result: type[M], body: bytes = b""
    ) -> M:
        async with self.link(user, node) as link:
            reply = await link.call(request, body)
        assert isinstance(reply.message, result)
        return reply.message

    async def ask_index(self, user: KeyPair, request: Request, result: type[M]) -> M:
        return await self.ask(user, self.index_key.principal, request, result)

    async def change_users(self, *changes: m.UserChange) -> None:
        batch = await self.ask_index(self.app, m.ChangeUsers(changes), m.BatchResult)
        assert not any(item.code for item in batch.results), batch

    async def register(self, user: KeyPair, limit: int = 1 << 30) -> None:
        await self.change_users(m.UserChange("register", user.principal, limit))

    async def account(self, user: KeyPair) -> tuple[int, int]:
        """Used and reserved."""
        info = await self.ask_index(user, m.GetUser(), m.UserInfo)
        return info.allowance.used, info.allowance.reserved

    async def upload(
        self, user: KeyPair, data: bytes, *chats: KeyPair, ref_id: bytes = b""
    ) -> m.BlobReference:
        """Allocate and push all chunks; the last answer's reference."""
        allocation = await self.ask_index(user, m.Allocate(blob_of(data), len(data)), m.Allocation)
        accessors = tuple(chat.principal for chat in chats)
        result: m.PushResult | None = None
        async with self.link(user, allocation.bucket.principal) as link:
            for number, body in enumerate(pieces(data)):
                push = m.PushChunk(allocation.grant, number, accessors, ref_id)
                reply = await link.call(push, body)
                assert isinstance(reply.message, m.PushResult)
                result = reply.message
        assert result is not None
        assert result.reference is not None
        return result.reference

    async def forward(
        self, user: KeyPair, blob: m.BlobReference, source: KeyPair, *chats: KeyPair
    ) -> m.BlobReference:
        allocation = await self.ask_index(user, m.Allocate(blob.blob_id, blob.size), m.Allocation)
        request = m.AddReference(
            allocation.grant,
            source.principal,
            self.read_token(source, user),
            tuple(chat.principal for chat in chats),
        )
        result = await self.ask(user, blob.bucket, request, m.PushResult)
        assert result.reference is not None
        return result.reference

    def read_token(self, chat: KeyPair, reader: KeyPair) -> bytes:
        return mint_read(chat, reader.principal, cluster_id=CLUSTER, clock=self.clock, rng=self.rng)

    async def read(self, reader: KeyPair, chat: KeyPair, blob: m.BlobReference) -> bytes:
        token = self.read_token(chat, reader)
        request = m.ReadBlob(chat.principal, blob.blob_id, 0, 1 << 20, token)
        async with self.link(reader, blob.bucket) as link:
            return bytes((await link.call(request)).body)

    async def remove(self, user: KeyPair, blob: m.BlobReference, chat: KeyPair) -> None:
        """With a ref.del token of the chat."""
        token = mint_ref_delete(
            chat,
            user.principal,
            cluster_id=CLUSTER,
            blob_id=blob.blob_id,
            owner=blob.owner,
            ref_id=blob.ref_id,
            clock=self.clock,
            rng=self.rng,
        )
        key = m.ReferenceKey(blob.blob_id, blob.owner, chat.principal, blob.ref_id, token)
        batch = await self.ask(user, blob.bucket, m.RemoveReferences((key,)), m.BatchResult)
        assert batch.results == (m.ItemResult(),)

    async def delete_chat(self, chat: KeyPair) -> None:
        await self.ask_index(self.app, m.DeleteAccessor(chat.principal), m.Ok)

    async def status(self) -> ClusterInfo:
        return await self.ask_index(self.app, ClusterStatus(), ClusterInfo)

    @staticmethod
    async def settle() -> None:
        """Let everything that happens by itself happen."""
        await trio.sleep(SETTLED_S)


@asynccontextmanager
async def memory_cluster(root: Path, buckets: int = 2) -> AsyncIterator[MemoryCluster]:
    """A cluster whose buckets are known to the index; needs the autojump clock."""
    async with trio.open_nursery() as nursery:
        cluster = MemoryCluster(root, buckets, nursery)
        await cluster.start_index()
        for number in range(buckets):
            await cluster.start_bucket(number)
        await cluster.settle()
        yield cluster
        for part in cluster.buckets:
            await part.cut()
        await cluster.index.cut()


def blob_of(data: bytes) -> BlobId:
    return BlobId(blake3(data).digest())


def pieces(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)] or [b""]
