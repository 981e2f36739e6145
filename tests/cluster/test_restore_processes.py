"""Backups put back on real processes and real directories, as docs/agreement.md has it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from ostnode.cli.demo.processes import Cluster, NodeProcess
from ostnode.cli.demo.stage import eventually
from ostnode.client import UploadedBlob, mint_read
from ostnode.config import load_config
from ostnode.env import SystemRng
from ostnode.errors import NotFoundError
from ostnode.identity.keys import KeyPair
from ostnode.ids import PrincipalKind
from ostnode.keyfiles import create_key_file
from tests.support.processes import client_of, ostnode, real_cluster

pytestmark = pytest.mark.system


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with real_cluster(tmp_path) as running:
        yield running


@pytest.fixture
def alice() -> KeyPair:
    return KeyPair.generate(SystemRng())


@pytest.fixture
def general() -> KeyPair:
    return KeyPair.generate(SystemRng())


@pytest.fixture
def doomed() -> KeyPair:
    return KeyPair.generate(SystemRng())


def data_dir(node: NodeProcess) -> Path:
    config = load_config(node.config_file, os.environ)
    return config.index.data_dir if config.index else config.bucket[0].data_dir


async def command(cluster: Cluster, *words: str) -> tuple[int, dict]:
    """Run a command as the operator; its exit code and its JSON."""
    address = f"{cluster.index_principal.text(PrincipalKind.INDEX)}@{cluster.index_url}"
    env = {"OST_INDEX": address, "OST_KEY": str(cluster.root / "app.key")}
    done = await trio.to_thread.run_sync(
        lambda: ostnode(*words, "--json", cwd=cluster.root, env=env)
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


async def used(cluster: Cluster, key: KeyPair) -> int:
    async with client_of(cluster, key) as client:
        return (await client.allowance()).used


async def back_up(cluster: Cluster) -> None:
    """Copy every node's directory while it is stopped."""
    for node in cluster.nodes:
        assert await node.stop() == 0
        shutil.copytree(data_dir(node), cluster.root / "backup" / node.name)
    for node in cluster.nodes:
        await node.start()


def put_back(cluster: Cluster, node: NodeProcess) -> None:
    shutil.rmtree(data_dir(node))
    shutil.copytree(cluster.root / "backup" / node.name, data_dir(node))


async def readable(cluster: Cluster, reader: KeyPair, chat: KeyPair, made: UploadedBlob) -> bool:
    token = mint_read(chat, reader.principal, cluster_id=cluster.cluster_id)
    async with client_of(cluster, reader) as client:
        try:
            await client.read(chat.principal, made.reference.blob_id, token=token)
        except NotFoundError:
            return False
        return True


async def fsck(cluster: Cluster, *words: str) -> tuple[int, set[str]]:
    """The exit code, and the kinds of what was found and not repaired."""
    code, told = await command(cluster, "fsck", "--quiet", *words)
    return code, {row["kind"] for row in told["findings"] if not row["repaired"]}


async def two_blobs(
    cluster: Cluster, alice: KeyPair, general: KeyPair, doomed: KeyPair
) -> tuple[UploadedBlob, UploadedBlob]:
    """What is there when the backup is made."""
    async with client_of(cluster, cluster.app) as app:
        await app.register_user(alice.principal, 1 << 30)
    async with client_of(cluster, alice) as client:
        early = await client.upload(b"early", accessors=[general.principal])
        return early, await client.upload(b"gone", accessors=[doomed.principal])


async def go_on(
    cluster: Cluster, alice: KeyPair, general: KeyPair, doomed: KeyPair
) -> UploadedBlob:
    """What happens after it: an upload, and the deletion of a chat."""
    async with client_of(cluster, alice) as client:
        late = await client.upload(b"late", accessors=[general.principal])
    async with client_of(cluster, cluster.app) as app:
        await app.delete_accessor(doomed.principal)
    await eventually("the deletion's refund", len(b"earlylate"), partial(used, cluster, alice))
    return late


async def test_b59_a_bucket_put_back_begins_anew_and_agrees(
    cluster: Cluster, alice: KeyPair, general: KeyPair, doomed: KeyPair
) -> None:
    early, gone = await two_blobs(cluster, alice, general, doomed)
    await back_up(cluster)
    late = await go_on(cluster, alice, general, doomed)
    bucket = cluster.buckets[late.reference.bucket]
    await bucket.stop()
    put_back(cluster, bucket)
    await bucket.start()
    with trio.fail_after(120):
        while await fsck(cluster) != (7, {"charge_without_reference"}):  # noqa: ASYNC110
            await trio.sleep(2)
    assert await fsck(cluster, "--repair") == (0, set())
    assert await fsck(cluster) == (0, set())
    assert await used(cluster, alice) == len(b"early")
    assert await readable(cluster, alice, general, early)
    assert not await readable(cluster, alice, doomed, gone)


async def test_b59_an_index_put_back_grants_when_every_bucket_has_agreed(
    cluster: Cluster, alice: KeyPair, general: KeyPair, doomed: KeyPair
) -> None:
    early, gone = await two_blobs(cluster, alice, general, doomed)
    await back_up(cluster)
    late = await go_on(cluster, alice, general, doomed)
    away = cluster.buckets[late.reference.bucket]
    away_name = late.reference.bucket.text(PrincipalKind.BUCKET)
    await away.stop()
    await cluster.index.stop()
    put_back(cluster, cluster.index)
    told = ostnode(
        "index", "restored", "--config", cluster.index.config_file, "--json", cwd=cluster.root
    )
    assert len(json.loads(told.stdout)["waits_for"]) == len(cluster.buckets)
    await cluster.index.start()

    async def missing() -> int:
        async with client_of(cluster, cluster.app) as operator:
            return len((await operator.check_progress()).missing)

    await eventually("buckets that are missing", 1, missing)
    _, status = await command(cluster, "cluster", "status")
    assert status["missing"] == [away_name]
    address = f"{cluster.index_principal.text(PrincipalKind.INDEX)}@{cluster.index_url}"
    key = cluster.root / "bob.key"
    bob = KeyPair.from_seed(create_key_file(key))
    async with client_of(cluster, cluster.app) as app:
        await app.register_user(bob.principal, 1 << 20)
    (cluster.root / "late").write_bytes(b"late")
    env = {"OST_INDEX": address, "OST_KEY": str(key)}
    refused = ostnode("blob", "put", "late", "--json", cwd=cluster.root, env=env)
    assert "1 buckets have agreed" in refused.stderr
    await away.start()
    await eventually("buckets that are missing", 0, missing)
    assert ostnode("blob", "put", "late", cwd=cluster.root, env=env).returncode == 0
    for made in (early, late):
        assert await readable(cluster, alice, general, made)
    assert not await readable(cluster, alice, doomed, gone)
    await fsck(cluster, "--repair")
    assert await fsck(cluster) == (0, set())
    assert await used(cluster, alice) == len(b"earlylate")
    assert await used(cluster, bob) == len(b"late")
