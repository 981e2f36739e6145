"""Step 7: a bucket is killed in the middle of an upload; only what is missing is sent again."""

from __future__ import annotations

import signal

import trio

from ostnode.cli.demo.processes import NodeProcess
from ostnode.cli.demo.stage import eventually, expect, require
from ostnode.cli.demo.world import BIG_BYTES, Post, World, account_of, generate_file, hash_of
from ostnode.client import Phase, Progress, ProgressCallback
from ostnode.wire.chunks import chunk_count
from ostnode.wire.messages import UploadInfo


class Killer:
    """A progress callback that kills a node once half of the bytes are acknowledged."""

    def __init__(self, node: NodeProcess, scope: trio.CancelScope, show: ProgressCallback) -> None:
        self._node = node
        self._scope = scope
        self._show = show
        self.acknowledged = 0

    def __call__(self, progress: Progress) -> None:
        """A ProgressCallback. What is acknowledged after the kill was sent before it."""
        self._show(progress)
        if progress.phase is not Phase.PUSH:
            return
        self.acknowledged = max(self.acknowledged, progress.done)
        if progress.done >= progress.total // 2 and not self._scope.cancel_called:
            self._node.send_signal(signal.SIGKILL)
            self._scope.cancel()


async def kill_and_resume(world: World) -> None:
    """SIGKILL in the middle of 64 MiB, restart, resume."""
    post = Post(generate_file(world.files / "cut-64MiB.bin", BIG_BYTES), b"message-7")
    client = world.alice.client
    allocation = await client.allocated_bucket(await hash_of(post.path), post.size)
    node = world.cluster.buckets[allocation.bucket.principal]
    acknowledged = await _upload_until_killed(world, post, node)
    expect(f"how {node.name} ended", -signal.SIGKILL, await node.wait())
    await node.start()
    status = await client.upload_status(allocation.bucket, await hash_of(post.path))
    total, kept = _chunks(status)
    require(
        "chunks that survived the kill",
        f"at least the {acknowledged} acknowledged, not all {total}",
        kept,
        holds=acknowledged <= kept < total,
    )
    world.stage.fact(f"{node.name} was killed with {acknowledged} of {total} chunks acknowledged")
    world.stage.fact(f"restarted, it has {kept} of them")
    with world.stage.transfers() as progress:
        uploaded = await client.upload(
            post.path,
            accessors=[world.general.principal],
            ref_id=post.ref_id,
            progress=progress(f"{post.path.name} (resumed)"),
        )
    expect("chunks sent to finish", total - kept, uploaded.chunks_sent)
    world.posted[post.path] = uploaded
    charged = sum(blob.reference.size for blob in world.posted.values())
    await eventually(
        "alice's account", {"used": charged, "reserved": 0}, lambda: account_of(world.alice)
    )
    world.stage.fact(f"{uploaded.chunks_sent} chunks were sent to finish, none twice")


async def _upload_until_killed(world: World, post: Post, node: NodeProcess) -> int:
    """Chunks acknowledged before the bucket was killed; the upload is given up there."""
    with world.stage.transfers() as progress, trio.CancelScope() as scope:
        killer = Killer(node, scope, progress(post.path.name))
        await world.alice.client.upload(
            post.path,
            accessors=[world.general.principal],
            ref_id=post.ref_id,
            progress=killer,
        )
    require("the upload", "cut in its middle", "it went through", holds=scope.cancelled_caught)
    return killer.acknowledged // (1 << 20)


def _chunks(status: UploadInfo) -> tuple[int, int]:
    """How many chunks the upload has, and how many have arrived."""
    total = chunk_count(status.size, status.chunk_bytes)
    return total, int.from_bytes(status.received, "little").bit_count()
