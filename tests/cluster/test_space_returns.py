"""Real processes and files: what is deleted comes back to the disk."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import httpx2
import pytest
import trio
from blake3 import blake3

from ostnode.cli.demo.processes import Cluster, lay_out, stop_all
from ostnode.cli.demo.stage import eventually
from ostnode.client import Client, UploadedBlob
from ostnode.env import SystemRng
from ostnode.identity.keys import KeyPair
from ostnode.ids import NULL_ACCESSOR, PrincipalKind
from ostnode.wire.messages import BucketAddress, ReferenceKey
from tests.support.processes import client_of, ostnode

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
BATCH = 64


def plan_blobs(total: int) -> list[tuple[int, int]]:
    """(seed, size) of blobs from 4 KiB to 16 MiB, as many of each doubling as bytes allow."""
    rng, blobs = Random(7), []
    while total > 0:
        size = min(total, int(4 * KIB * 2 ** rng.uniform(0, 12)))
        blobs.append((len(blobs), max(size, 4 * KIB)))
        total -= size
    return blobs


def content(blob: tuple[int, int]) -> bytes:
    return Random(blob[0]).randbytes(blob[1])


def halves(blobs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Numbers of blobs to delete, half of the bytes, and of those to keep."""
    order = sorted(range(len(blobs)), key=lambda number: blobs[number][1])
    return order[::2], order[1::2]


def on_disk(directory: Path) -> int:
    """What `du` says."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def batches(keys: list[ReferenceKey]) -> Iterator[list[ReferenceKey]]:
    for at in range(0, len(keys), BATCH):
        yield keys[at : at + BATCH]


@asynccontextmanager
async def cluster_with(root: Path, segment: str) -> AsyncIterator[Cluster]:
    """One bucket, with small segments. It compacts nothing by itself: the command is shown here."""
    cluster = lay_out(root, buckets=1)
    config = root / "bucket-0.toml"
    text = config.read_text().replace('"64MiB"', f'"{segment}"')
    config.write_text(f'{text}compaction_rate = "1GiB"\ncompaction_interval = "1d"\n')
    try:
        for node in cluster.nodes:
            await node.start()
        yield cluster
    finally:
        with trio.move_on_after(30, shield=True):
            await stop_all(cluster.nodes)


async def upload_all(client: Client, blobs: list[tuple[int, int]]) -> list[UploadedBlob]:
    made: dict[int, UploadedBlob] = {}
    queue = iter(enumerate(blobs))

    async def work() -> None:
        for number, blob in queue:
            made[number] = await client.upload(content(blob))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(work)
    return [made[number] for number in range(len(blobs))]


async def check(client: Client, address: BucketAddress, made: UploadedBlob) -> None:
    digest = blake3()
    blob_id = made.reference.blob_id
    async with client.stream(client.principal, blob_id, bucket=address) as stream:
        async for piece in stream:
            digest.update(piece)
    assert digest.digest() == blob_id


@pytest.mark.parametrize(
    ("total", "segment"),
    [
        pytest.param(512 * MIB, "8MiB", marks=pytest.mark.system, id="512MiB"),
        pytest.param(10 * GIB, "64MiB", marks=pytest.mark.deep, id="10GiB"),
    ],
)
async def test_b42_space_of_deleted_blobs_comes_back(
    tmp_path: Path, total: int, segment: str
) -> None:
    blobs = plan_blobs(total)
    gone, kept = halves(blobs)
    live = sum(blobs[number][1] for number in kept)
    async with cluster_with(tmp_path, segment) as cluster:
        alice = KeyPair.generate(SystemRng())
        async with client_of(cluster, cluster.app) as app:
            await app.register_user(alice.principal, 2 * total)
        async with client_of(cluster, alice) as client:
            made = await upload_all(client, blobs)
            address, uid = made[0].bucket, (await client.user()).uid
            keys = [
                ReferenceKey(made[number].reference.blob_id, uid, NULL_ACCESSOR) for number in gone
            ]
            for batch in batches(keys):
                results = (await client.delete_references(address, batch)).results
                assert not any(result.code for result in results)

            async def used() -> int:
                return (await client.allowance()).used

            await eventually("bytes charged", live, used)
            before = on_disk(tmp_path / "bucket-0")
            assert before > total
            place = f"{address.principal.text(PrincipalKind.BUCKET)}@{address.http}"
            options = ("--bucket", place, "--key", tmp_path / "app.key")

            def run(*arguments: object) -> dict[str, object]:
                done = ostnode(*arguments, *options, "--json", cwd=tmp_path)
                assert done.returncode == 0, done.stderr
                answer: dict[str, object] = json.loads(done.stdout)
                return answer

            plan = await trio.to_thread.run_sync(run, "bucket", "compact", "--dry-run")
            assert on_disk(tmp_path / "bucket-0") == before
            done = await trio.to_thread.run_sync(run, "bucket", "compact", "--wait")
            assert plan["frees"] > 0.4 * total
            assert done["freed"] > 0.99 * plan["frees"]
            after = on_disk(tmp_path / "bucket-0")
            assert live <= after <= 1.15 * live
            (bucket,) = cluster.buckets.values()
            async with httpx2.AsyncClient(trust_env=False) as http:
                told = (await http.get(f"http://{bucket.admin}/metrics")).text
            assert "ostnode_bucket_compaction_passes_total 1.0\n" in told
            assert "ostnode_bucket_findings 0.0\n" in told
            for number in kept:
                await check(client, address, made[number])
