"""Steps 1 to 6: registering, posting, reading, sharing one copy, forwarding, being refused."""

from __future__ import annotations

import httpx2
import trio
from blake3 import blake3

from ostnode.cli.demo.stage import ProgressOf, eventually, expect, refused, require
from ostnode.cli.demo.visitor import Visitor
from ostnode.cli.demo.world import (
    BIG_BYTES,
    MIB,
    Post,
    World,
    account_of,
    generate_file,
    hash_of,
    stored_bytes,
)
from ostnode.cli.output import size_text
from ostnode.client import connect
from ostnode.env import SystemRng
from ostnode.errors import AllowanceExceededError
from ostnode.identity.keys import KeyPair
from ostnode.ids import BlobId, PrincipalKind

RANGE_START, RANGE_END = 1_000_000, 1_000_999
"""Inclusive, within the big file."""


async def register(world: World) -> None:
    """The app registers alice and bob, and makes a chat."""
    posts = sum(post.size for post in world.posts)
    limits = {
        "alice": (world.alice, posts + BIG_BYTES + 16 * MIB),
        "bob": (world.bob, BIG_BYTES + world.own.size + MIB),
    }
    for name, (person, limit) in limits.items():
        await world.app.client.register_user(person.key.principal, limit)
        account = await person.client.allowance()
        expect(f"{name}'s account", (limit, 0, 0), (account.limit, account.used, account.reserved))
        world.stage.fact(f"{name} may store {size_text(limit)}")
    world.stage.say(f"   the chat: {world.general.principal.text(PrincipalKind.ACCESSOR)}")


async def post_files(world: World) -> None:
    """Alice uploads three files at once, in parallel chunks."""
    with world.stage.transfers() as progress:
        async with trio.open_nursery() as nursery:
            for post in world.posts:
                nursery.start_soon(_post, world, post, progress)
    total = sum(post.size for post in world.posts)
    await eventually(
        "alice's account", {"used": total, "reserved": 0}, lambda: account_of(world.alice)
    )
    world.stage.fact(f"alice is charged {size_text(total)} for {len(world.posts)} files")


async def _post(world: World, post: Post, progress: ProgressOf) -> None:
    uploaded = await world.alice.client.upload(
        post.path,
        accessors=[world.general.principal],
        ref_id=post.ref_id,
        content_type=post.content_type,
        filename=post.path.name,
        progress=progress(post.path.name),
    )
    expect(f"blob id of {post.path.name}", await hash_of(post.path), uploaded.reference.blob_id)
    world.posted[post.path] = uploaded


async def read_files(world: World) -> None:
    """Bob reads them with a token of the chat; a stranger with the same URL learns nothing."""
    token = world.read_token(world.general, world.bob.key)
    for post in world.posts:
        blob = world.blob(post).reference
        copy = world.files / f"bob-{post.path.name}"
        await world.bob.client.download(world.general.principal, blob.blob_id, to=copy, token=token)
        expect(f"BLAKE3 of bob's {copy.name}", blob.blob_id, await hash_of(copy))
    world.stage.fact("bob has all three; their BLAKE3 is their blob id")
    async with httpx2.AsyncClient() as http:
        await _visit(world, http, token)


async def _visit(world: World, http: httpx2.AsyncClient, token: bytes) -> None:
    uploaded = world.blob(world.big)
    blob_id, chat = uploaded.reference.blob_id, world.general.principal
    stranger, reader = Visitor(http, uploaded.bucket), Visitor(http, uploaded.bucket)
    await stranger.log_in(KeyPair.generate(SystemRng()))
    await reader.log_in(world.bob.key)
    absent = await reader.ask(chat, BlobId(blake3(b"never uploaded").digest()), token)
    expect("status of a blob that does not exist", 404, absent.status)
    expect("the stranger's answer", absent, await stranger.ask(chat, blob_id, token))
    world.stage.fact("a stranger with bob's URL gets the 404 of a blob that does not exist")
    part = await reader.ask(chat, blob_id, token, byte_range=f"bytes={RANGE_START}-{RANGE_END}")
    content = world.big.path.read_bytes()[RANGE_START : RANGE_END + 1]
    expect("status and bytes of a range", (206, content), (part.status, part.body))
    head = await reader.ask(chat, blob_id, token, method="HEAD")
    seen = (head.status, head.headers.get("content-length"), head.body)
    expect("status, length and body of HEAD", (200, str(world.big.size), b""), seen)
    world.stage.fact("a range and a HEAD work")


async def share_one_copy(world: World) -> None:
    """Bob uploads what alice has uploaded: one copy, two charges."""
    before, post = await stored_bytes(world), world.big
    with world.stage.transfers() as progress:
        again = await world.bob.client.upload(
            post.path,
            accessors=[world.general.principal],
            ref_id=b"message-4",
            progress=progress(f"{post.path.name} (bob's)"),
        )
    expect("bob's bucket", world.blob(post).bucket, again.bucket)
    alice_bytes = sum(item.size for item in world.posts)
    await eventually(
        "bob's account", {"used": post.size, "reserved": 0}, lambda: account_of(world.bob)
    )
    expect("alice's account", {"used": alice_bytes, "reserved": 0}, await account_of(world.alice))
    grown = await stored_bytes(world) - before
    require(
        "bytes stored for bob's upload",
        f"much less than {post.size}",
        grown,
        holds=grown < post.size // 8,
    )
    world.stage.fact(f"both are charged {size_text(post.size)}; stored anew: {size_text(grown)}")


async def forward(world: World) -> None:
    """Bob forwards alice's document to a second chat, whose readers can then get it."""
    blob = world.blob(world.own).reference
    await world.bob.client.forward(
        blob.blob_id,
        blob.size,
        [world.random.principal],
        source=world.general.principal,
        token=world.read_token(world.general, world.bob.key),
        ref_id=b"message-5",
        filename=world.own.path.name,
    )
    carol = KeyPair.generate(SystemRng())
    token = world.read_token(world.random, carol)
    cluster = world.cluster
    async with connect(cluster.index_url, carol, index=cluster.index_principal) as client:
        copy = world.files / f"carol-{world.own.path.name}"
        await client.download(world.random.principal, blob.blob_id, to=copy, token=token)
        expect("BLAKE3 of carol's copy", blob.blob_id, await hash_of(copy))
        with refused("carol's read in the first chat"):
            await client.blob_info(world.general.principal, blob.blob_id, token=token)
    await eventually(
        "bob's account",
        {"used": world.big.size + blob.size, "reserved": 0},
        lambda: account_of(world.bob),
    )
    world.stage.fact(f"no bytes moved; carol reads it there; bob is charged {blob.size} B")


async def exceed(world: World) -> None:
    """An upload over the allowance is refused with the account."""
    post = Post(generate_file(world.files / "too-much.bin", 8 * MIB), b"message-6")
    before = await world.bob.client.allowance()
    try:
        await world.bob.client.upload(post.path, accessors=[world.general.principal])
    except AllowanceExceededError as refusal:
        told = refusal.details
    else:
        told = {}
    expected = {
        "limit": before.limit,
        "used": before.used,
        "reserved": before.reserved,
        "needed": post.size,
    }
    expect("details of the refusal", expected, told)
    held = {"used": before.used, "reserved": before.reserved}
    expect("bob's account", held, await account_of(world.bob))
    numbers = ", ".join(f"{name} {value}" for name, value in expected.items())
    world.stage.fact(f"allowance_exceeded: {numbers}")
