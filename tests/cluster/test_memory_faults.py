"""Random operations while buckets are killed and the index is cut: at rest, accounts are exact.

The model knows the references that must exist. An operation whose outcome is unknown is made
again until it is answered, as a client does; every one of them may be repeated.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from ostnode.errors import NotFoundError, OstError
from ostnode.identity.keys import KeyPair
from ostnode.net.transport import LinkClosedError
from ostnode.wire import messages as m
from tests.support.memorycluster import CHUNK_BYTES, MemoryCluster, blob_of, key_of, memory_cluster

OPERATIONS = 40
GRANT_TTL_S = 600


@dataclass(frozen=True)
class Ref:
    user: KeyPair
    data: bytes
    chat: KeyPair
    ref_id: bytes


@dataclass
class Story:
    """Operations on the cluster, and what must be true after each."""

    cluster: MemoryCluster
    rng: random.Random
    users: list[KeyPair] = field(default_factory=lambda: [key_of(f"user {n}") for n in range(3)])
    chats: list[KeyPair] = field(default_factory=lambda: [key_of(f"chat {n}") for n in range(3)])
    blobs: list[bytes] = field(default_factory=list)
    live: dict[Ref, m.BlobReference] = field(default_factory=dict)
    gone: dict[Ref, m.BlobReference] = field(default_factory=dict)
    chats_made: int = 3

    def __post_init__(self) -> None:
        sizes = [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 5 * CHUNK_BYTES - 7]
        self.blobs = [self.rng.randbytes(size) for size in sizes]

    async def upload(self) -> None:
        ref = Ref(
            self.rng.choice(self.users),
            self.rng.choice(self.blobs),
            self.rng.choice(self.chats),
            self.rng.choice([b"", b"a", b"b"]),
        )
        made = await self.answered(
            lambda: self.cluster.upload(ref.user, ref.data, ref.chat, ref_id=ref.ref_id)
        )
        self.live[ref] = made

    async def forward(self) -> None:
        if not self.live:
            return
        source, blob = self.rng.choice(list(self.live.items()))
        ref = Ref(self.rng.choice(self.users), source.data, self.rng.choice(self.chats), b"")
        made = await self.answered(
            lambda: self.cluster.forward(ref.user, blob, source.chat, ref.chat)
        )
        self.live[ref] = made

    async def remove(self) -> None:
        if not self.live:
            return
        ref = self.rng.choice(list(self.live))
        blob = self.live[ref]
        key = m.ReferenceKey(blob.blob_id, blob.owner, ref.chat.principal, ref.ref_id)
        await self.answered(
            lambda: self.cluster.ask(
                ref.user, blob.bucket, m.RemoveReferences((key,)), m.BatchResult
            )
        )
        self.drop(lambda one: one == ref)

    async def delete_chat(self) -> None:
        chat = self.chats.pop(self.rng.randrange(len(self.chats)))
        await self.answered(lambda: self.cluster.delete_chat(chat))
        self.chats.append(key_of(f"chat {self.chats_made}"))
        self.chats_made += 1
        self.drop(lambda one: one.chat is chat)

    async def register_anew(self) -> None:
        user = self.rng.choice(self.users)
        changes = [
            m.UserChange("delete", user.principal),
            m.UserChange("register", user.principal, 1 << 30),
        ]
        await self.answered(lambda: self.cluster.change_users(*changes))
        self.drop(lambda one: one.user is user)

    def drop(self, which: Callable[[Ref], bool]) -> None:
        for ref in [one for one in self.live if which(one)]:
            self.gone[ref] = self.live.pop(ref)

    async def answered(self, call: Callable[[], Awaitable]):
        """Make a call until it is answered; refusals that pass by themselves are waited for."""
        while True:
            try:
                return await call()
            except LinkClosedError:
                pass
            except OstError as error:
                if not error.retryable and error.code not in {"grant_closed", "user_unknown"}:
                    raise
            await trio.sleep(1)

    async def fault(self) -> None:
        """Somewhere in the middle of what happens meanwhile, a process ends and starts again."""
        for _ in range(self.rng.randrange(400)):
            await trio.lowlevel.checkpoint()
        if self.rng.random() < 0.3:
            await self.cluster.index.cut()
            await self.cluster.start_index()
        else:
            number = self.rng.randrange(2)
            await self.cluster.kill_bucket(number)
            await self.cluster.start_bucket(number)

    async def step(self) -> None:
        weighted = [self.upload] * 5 + [self.forward] * 3 + [self.remove] * 4
        weighted += [self.delete_chat, self.register_anew]
        operation = self.rng.choice(weighted)
        async with trio.open_nursery() as nursery:
            if self.rng.random() < 0.3:
                nursery.start_soon(self.fault)
            await operation()

    async def check(self) -> None:
        """Rule 6, rights, and bytes."""
        for user in self.users:
            blobs = {ref.data for ref in self.live if ref.user is user}
            expected = (sum(map(len, blobs)), 0)
            assert await self.cluster.account(user) == expected
        for ref, blob in self.live.items():
            assert await self.cluster.read(self.users[0], ref.chat, blob) == ref.data
        readable = {(ref.chat.principal, blob_of(ref.data)) for ref in self.live}
        for ref, blob in self.gone.items():
            if (ref.chat.principal, blob.blob_id) not in readable:
                with pytest.raises(NotFoundError):
                    await self.cluster.read(self.users[0], ref.chat, blob)
        info = await self.cluster.status()
        assert (info.open_grants, info.rejected_events) == (0, 0)


async def play(seed: int, tmp_path: Path) -> None:
    async with memory_cluster(tmp_path) as cluster:
        story = Story(cluster, random.Random(seed))
        for user in story.users:
            await cluster.register(user)
        for _ in range(OPERATIONS):
            await story.step()
        await trio.sleep(2 * GRANT_TTL_S)
        await story.check()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_b25_accounts_are_exact_at_rest(seed: int, tmp_path: Path, autojump_clock) -> None:
    await play(seed, tmp_path)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(3, 100))
async def test_b25_accounts_are_exact_after_many_stories(
    seed: int, tmp_path: Path, autojump_clock
) -> None:
    await play(seed, tmp_path)
