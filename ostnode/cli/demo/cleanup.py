"""Step 8: a message is deleted, then whole chats; everything goes and every byte returns."""

from __future__ import annotations

from functools import partial

from ostnode.cli.demo.stage import eventually, refused
from ostnode.cli.demo.world import World, account_of
from ostnode.client import mint_ref_delete
from ostnode.ids import PrincipalKind
from ostnode.wire.messages import ReferenceKey


async def delete_everything(world: World) -> None:
    """Alice's message goes and leaves bob's forward alone; then both chats go."""
    await _delete_message(world)
    for chat in (world.general, world.random):
        await world.app.client.delete_accessor(chat.principal)
    for name, person in (("alice", world.alice), ("bob", world.bob)):
        await eventually(
            f"{name}'s account", {"used": 0, "reserved": 0}, partial(account_of, person)
        )
    await eventually(
        "what the index still holds",
        {"charges": 0, "open grants": 0, "bytes used": 0, "bytes reserved": 0},
        lambda: _holdings(world),
    )
    token = world.read_token(world.general, world.bob.key)
    for uploaded in world.posted.values():
        with refused("a read in the deleted chat"):
            await world.bob.client.blob_info(
                world.general.principal,
                uploaded.reference.blob_id,
                token=token,
                bucket=uploaded.bucket,
            )
    world.stage.fact("both chats are deleted; nothing is left, both accounts are at 0")


async def _delete_message(world: World) -> None:
    uploaded = world.blob(world.own)
    blob, chat = uploaded.reference, world.general
    key = ReferenceKey(
        blob.blob_id,
        blob.owner,
        chat.principal,
        blob.ref_id,
        mint_ref_delete(
            chat,
            world.bob.key.principal,
            cluster_id=world.cluster.cluster_id,
            blob_id=blob.blob_id,
            owner=blob.owner,
            ref_id=blob.ref_id,
        ),
    )
    await world.bob.client.delete_reference(uploaded.bucket, key)
    token = world.read_token(chat, world.bob.key)
    with refused("a read of the deleted message"):
        await world.bob.client.blob_info(
            chat.principal, blob.blob_id, token=token, bucket=uploaded.bucket
        )
    forwarded = world.read_token(world.random, world.bob.key)
    await world.bob.client.blob_info(
        world.random.principal, blob.blob_id, token=forwarded, bucket=uploaded.bucket
    )
    left = sum(item.reference.size for item in world.posted.values()) - blob.size
    await eventually(
        "alice's account", {"used": left, "reserved": 0}, lambda: account_of(world.alice)
    )
    chat_text = world.random.principal.text(PrincipalKind.ACCESSOR)
    world.stage.fact(f"alice's message is gone; bob's forward in {chat_text[:12]}… stays")


async def _holdings(world: World) -> dict[str, int]:
    info = await world.app.client.cluster_status()
    return {
        "charges": info.charges,
        "open grants": info.open_grants,
        "bytes used": info.bytes_used,
        "bytes reserved": info.bytes_reserved,
    }
