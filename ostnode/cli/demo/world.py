"""Who and what the demo's story is about."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from mimetypes import guess_type
from pathlib import Path
from typing import Final

import trio
from blake3 import blake3

import ostnode
from ostnode.cli.demo.processes import Cluster
from ostnode.cli.demo.stage import Stage
from ostnode.client import Client, UploadedBlob, connect, mint_read
from ostnode.env import SystemRng
from ostnode.identity.keys import KeyPair
from ostnode.ids import BlobId

MIB: Final = 1 << 20
BIG_BYTES: Final = 64 * MIB
_SLICE_BYTES: Final = MIB


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a key and a client."""

    key: KeyPair
    client: Client


@dataclass(frozen=True, slots=True)
class Post:
    """A file in a message: `ref_id` is the message's id."""

    path: Path
    ref_id: bytes

    @property
    def content_type(self) -> str:
        """By the file's name; empty when that says nothing."""
        return guess_type(self.path.name)[0] or ""

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size


@dataclass(slots=True)
class World:
    """The cluster, the people, two chats (their keys are the app's), and what was posted."""

    stage: Stage
    cluster: Cluster
    app: Person
    alice: Person
    bob: Person
    general: KeyPair
    random: KeyPair
    own: Post
    big: Post
    empty: Post
    files: Path
    posted: dict[Path, UploadedBlob] = field(default_factory=dict)

    @property
    def posts(self) -> tuple[Post, ...]:
        """What alice posts to `general` in step 2."""
        return (self.own, self.big, self.empty)

    def blob(self, post: Post) -> UploadedBlob:
        """The blob of something that was posted."""
        return self.posted[post.path]

    def read_token(self, chat: KeyPair, reader: KeyPair) -> bytes:
        """What the app's backend puts beside a message for one reader."""
        return mint_read(chat, reader.principal, cluster_id=self.cluster.cluster_id)


@asynccontextmanager
async def open_world(stage: Stage, cluster: Cluster, own: Path | None) -> AsyncIterator[World]:
    """Keys and clients for everybody, files for everything."""
    rng = SystemRng()
    files = cluster.root / "files"
    files.mkdir()
    async with AsyncExitStack() as stack:

        async def person(key: KeyPair) -> Person:
            opening = connect(cluster.index_url, key, index=cluster.index_principal)
            return Person(key, await stack.enter_async_context(opening))

        yield World(
            stage=stage,
            cluster=cluster,
            app=await person(cluster.app),
            alice=await person(KeyPair.generate(rng)),
            bob=await person(KeyPair.generate(rng)),
            general=KeyPair.generate(rng),
            random=KeyPair.generate(rng),
            own=Post(own or _document(), b"message-1"),
            big=Post(generate_file(files / "64MiB.bin", BIG_BYTES), b"message-2"),
            empty=Post(generate_file(files / "empty.txt", 0), b"message-3"),
            files=files,
        )


def generate_file(path: Path, size: int) -> Path:
    """A file of `size` bytes that no other run will make again."""
    with path.open("wb") as file:
        for offset in range(0, size, _SLICE_BYTES):
            file.write(os.urandom(min(_SLICE_BYTES, size - offset)))
    return path


async def account_of(person: Person) -> dict[str, int]:
    """Used and reserved bytes of somebody's account."""
    account = await person.client.allowance()
    return {"used": account.used, "reserved": account.reserved}


async def stored_bytes(world: World) -> int:
    """What the buckets have on disk, as they last told the index."""
    info = await world.app.client.cluster_status()
    return sum(bucket.space.stored for bucket in info.buckets)


async def hash_of(path: Path) -> BlobId:
    """The BLAKE3 of a file's bytes."""

    def read() -> BlobId:
        hasher = blake3()
        with path.open("rb") as file:
            while piece := file.read(_SLICE_BYTES):
                hasher.update(piece)
        return BlobId(hasher.digest())

    return await trio.to_thread.run_sync(read)


def _document() -> Path:
    """The repository's README; installed without one, a source file of this package."""
    package = Path(ostnode.__file__).parent
    readme = package.parent / "README.md"
    return readme if readme.is_file() and readme.stat().st_size else package / "errors.py"
