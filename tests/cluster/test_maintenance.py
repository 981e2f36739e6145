"""An operator looks after a bucket: space comes back, damage is found and healed."""

from __future__ import annotations

from random import Random

import pytest
import trio

from ostnode.errors import DataCorruptError
from ostnode.store.segment import segment_name
from ostnode.wire import messages as m
from ostnode.wire import upkeep as u
from tests.support.cluster import BucketNode, Cluster, Shape
from tests.support.people import blob_of
from tests.support.refusals import DATA

ONE_BUCKET = Shape(buckets=1)
pytestmark = pytest.mark.parametrize("shape", [ONE_BUCKET])


async def ask(cluster: Cluster, request, expected):
    (bucket,) = cluster.buckets
    return await cluster.operator.ask_bucket(bucket.key.principal, request, expected)


async def status(cluster: Cluster) -> u.MaintenanceInfo:
    return await ask(cluster, u.MaintenanceStatus(), u.MaintenanceInfo)


def sealed_bytes(bucket: BucketNode) -> int:
    infos = bucket.service._store.segments()
    return sum(info.allocated for info in infos if info.sealed)


async def test_b42_half_of_the_bytes_deleted_come_back(autojump_clock, cluster: Cluster) -> None:
    (bucket,), rng = cluster.buckets, Random(5)
    await cluster.app.change(("update", cluster.alice, 1 << 26))
    datas = [rng.randbytes(rng.choice([300, 4096, 20_000, 60_000])) for _ in range(110)]
    made = [await cluster.alice.upload(data, cluster.general) for data in datas]
    gone, kept = made[::2], list(zip(datas[1::2], made[1::2], strict=True))
    for reference in gone:
        await cluster.alice.remove(reference, cluster.general)
    await cluster.until(lambda: len(bucket.stored) == len(kept))
    await cluster.until(lambda: bucket.drained)
    before = sealed_bytes(bucket)
    files = set(bucket.disk.files)

    plan = await ask(cluster, u.CompactBucket(dry_run=True), u.CompactionPlan)
    await trio.sleep(30)
    assert (sealed_bytes(bucket), set(bucket.disk.files)) == (before, files)
    assert plan.frees > 0.3 * before

    took = (await status(cluster)).segments.allocated
    plan = await ask(cluster, u.CompactBucket(), u.CompactionPlan)
    compaction = bucket.service._maintenance.compaction
    await cluster.until(lambda: compaction.figures.passes == plan.pass_number)
    told = await status(cluster)
    live = sum(len(data) for data, _ in kept)
    written = told.segments.allocated
    assert written <= 1.15 * live + 64 * 1024  # records of metadata, in small blobs' company
    assert took - written >= plan.frees
    for data, reference in kept:
        assert await cluster.bob.read(cluster.general, reference) == data
    await bucket.crash(power=True)
    for data, reference in kept:
        assert await cluster.bob.read(cluster.general, reference) == data
    assert not bucket.rows.findings(1)


async def test_b64_scrub_finds_damage_and_an_upload_heals_it(
    autojump_clock, cluster: Cluster
) -> None:
    (bucket,), rng = cluster.buckets, Random(6)
    made = await cluster.alice.upload(DATA, cluster.general)
    await cluster.app.change(("update", cluster.alice, 1 << 26))
    for _ in range(8):  # fill the segment, so that it is sealed
        await cluster.alice.upload(rng.randbytes(60_000), cluster.general)
    row = bucket.rows.own_chunk(bucket.rows.blob(made.blob_id).number, 1)
    bucket.disk.flip(segment_name(row.extent.segment), row.extent.offset + 1000)

    cycle = (await status(cluster)).scrub.cycle
    assert await ask(cluster, u.StartScrub(), m.Ok) == m.Ok()
    await trio.sleep(60)
    told = await status(cluster)
    assert (told.scrub.cycle, told.scrub.state) == (cycle + 1, "waiting")
    (finding,) = told.findings
    assert (finding.blob_id, finding.accessors) == (
        blob_of(DATA),
        (cluster.general.principal,),
    )
    with pytest.raises(DataCorruptError):
        await cluster.bob.read(cluster.general, made)

    await cluster.app.change(("update", cluster.bob, 1 << 26))
    again = await cluster.bob.upload(DATA, cluster.random)
    assert await cluster.bob.read(cluster.general, made) == DATA
    assert await cluster.bob.read(cluster.random, again) == DATA
    assert not (await status(cluster)).findings
    await ask(cluster, u.StartScrub(), m.Ok)
    await trio.sleep(60)
    assert (await status(cluster)).scrub.findings == 0
