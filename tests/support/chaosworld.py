"""The stage of the chaos: real processes with short-lived grants, and who knows what of it."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ostnode.cli.demo.processes import STOP_DEADLINE_S, Cluster, NodeProcess, lay_out, stop_all
from ostnode.client import (
    Client,
    ClientOptions,
    RetryPolicy,
    UnreachableError,
    connect,
    mint_read,
)
from ostnode.env import Rng
from ostnode.errors import (
    OstError,
)
from ostnode.identity.keys import KeyPair
from ostnode.ids import Principal
from tests.support.chaosmodel import Account, Content, Model, State
from tests.support.index_cluster import SeededRng

MIB = 1 << 20
SIZES = (0, 1, 700, 64 << 10, (256 << 10) + 1, 512 << 10, MIB, 2 * MIB + 5, 3 * MIB, 6 * MIB)
ALLOWANCES = {"alice": 1 << 30, "bob": 1 << 30, "carol": 16 * MIB}
GRANT_TTL_S = 12
INDEX_KEYS = f'grant_ttl = "{GRANT_TTL_S}s"\nchunk_bytes = "256KiB"\n'
BUCKET_KEYS = 'floor_interval = "2s"\nupload_ttl = "10s"\n'
PATIENT = ClientOptions(retry=RetryPolicy(attempts_max=8, base_s=0.1, cap_s=1.5))
IMPATIENT = ClientOptions(retry=RetryPolicy(attempts_max=2, base_s=0.1), fruitless_rounds_max=2)
"""Gives up under every kill, so that outcomes stay open."""


class ViolationError(AssertionError):
    """The cluster broke its word."""


@asynccontextmanager
async def chaos_cluster(root: Path) -> AsyncIterator[Cluster]:
    """An index and two buckets whose grants, floors and uploads end within seconds."""
    cluster = lay_out(root)
    for node in cluster.nodes:
        keys = INDEX_KEYS if node is cluster.index else BUCKET_KEYS
        with node.config_file.open("a") as file:
            file.write(keys)
    try:
        await start_all(cluster.nodes)
        yield cluster
    finally:
        with trio.move_on_after(2 * STOP_DEADLINE_S, shield=True):
            await stop_all(cluster.nodes)


async def start_all(nodes: Sequence[NodeProcess]) -> None:
    """Start nodes at the same time: a bucket is ready once its index is."""
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.start)


@dataclass
class World:
    """Everybody, everything that was said and heard, and the kills."""

    cluster: Cluster
    random: random.Random
    root: Path
    model: Model = field(default_factory=Model)
    accounts: list[Account] = field(default_factory=list)
    chats: list[KeyPair] = field(default_factory=list)
    contents: list[Content] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    kills: int = 0
    over: bool = False
    serial: int = 0

    def __post_init__(self) -> None:
        self.rng: Rng = SeededRng(self.random.randrange(1 << 32))
        self.contents = [Content.of(self.random.randbytes(size)) for size in SIZES]
        self.live = [self.new_chat() for _ in range(3)]
        for name, limit in ALLOWANCES.items():
            self.accounts.append(Account(name, KeyPair.generate(self.rng), limit))

    def note(self, text: str) -> None:
        """A line of the history, which stays beside the nodes' logs."""
        with (self.root / "history.txt").open("a") as file:
            file.write(f"{time.time():.3f} {text}\n")

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def told(self) -> str:
        """What was done how often, and how much of it was never answered."""
        open_now = sum(self.model.state(ref) is State.OPEN for ref in self.model.refs)
        there = len(list(self.model.standing()))
        return f"{dict(sorted(self.counts.items()))}, references: {there} there, {open_now} open"

    def violated(self, what: str) -> ViolationError:
        self.note(f"VIOLATION {what}")
        return ViolationError(f"{what}\nhistory and logs: {self.root}")

    def new_chat(self) -> KeyPair:
        chat = KeyPair.generate(self.rng)
        self.chats.append(chat)
        return chat

    def new_ref_id(self) -> bytes:
        self.serial += 1
        return self.serial.to_bytes(4, "big")

    def some_content(self) -> Content:
        """Mostly one that others upload, too."""
        if self.random.random() < 0.15:
            size = self.random.choice(SIZES[2:])  # shorter ones may not be new
            self.contents.append(Content.of(self.random.randbytes(size)))
            return self.contents[-1]
        return self.random.choice(self.contents)

    def chat_of(self, accessor: Principal) -> KeyPair:
        return next(chat for chat in self.chats if chat.principal == accessor)

    def read_token(self, accessor: Principal, reader: Principal) -> bytes:
        return mint_read(self.chat_of(accessor), reader, cluster_id=self.cluster.cluster_id)

    async def persist(self, what: str, act: Callable[[], Awaitable[object]]) -> None:
        """An idempotent call, until it is acknowledged."""
        while True:
            try:
                await act()
            except UnreachableError:
                self.note(f"{what}: unreachable, again")
            except OstError as error:
                if not error.retryable:
                    raise self.violated(f"{what}: {error!r}") from error
            else:
                self.note(f"{what}: done")
                return


async def register(world: World, app: Client, account: Account) -> None:
    """Register, and learn the uid."""
    await world.persist(
        f"register {account.name}",
        lambda: app.register_user(account.principal, account.byte_limit),
    )

    async def learn() -> None:
        account.uid = (await app.user(account.principal)).uid

    await world.persist(f"uid of {account.name}", learn)


@asynccontextmanager
async def client_as(
    world: World, key: KeyPair, observer=None, options: ClientOptions = PATIENT
) -> AsyncIterator[Client]:
    async with connect(
        world.cluster.index_url,
        key,
        index=world.cluster.index_principal,
        options=options,
        observer=observer or (lambda _attempt: None),
    ) as client:
        yield client
