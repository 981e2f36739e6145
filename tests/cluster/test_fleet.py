"""Buckets fill, fall silent, retire: a blob stays where it is, a new one goes elsewhere."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from ostnode.errors import BucketFullError, BusyError, NoBucketError, OstError, WrongBucketError
from ostnode.ids import PrincipalKind
from ostnode.wire import fleet as fl
from ostnode.wire import messages as m
from tests.support.cluster import BucketNode, Cluster, Shape, a_cluster
from tests.support.people import Person, pieces
from tests.support.refusals import KEPT_BACK

LOST_AFTER_S = 60
SHAPE = Shape(buckets=4, index={"lost_after": LOST_AFTER_S})


async def set_state(cluster: Cluster, bucket: BucketNode, state: str) -> None:
    request = fl.SetBucketState(bucket.key.principal, state)
    await cluster.operator.ask(request, fl.BucketStanding)


async def state_of(cluster: Cluster, bucket: BucketNode) -> fl.FleetBucket:
    info = await cluster.operator.ask(fl.FleetStatus(), fl.FleetInfo)
    return next(each for each in info.buckets if each.principal == bucket.key.principal)


async def reports(cluster: Cluster) -> None:
    """Wait until every bucket that is there has reported since."""
    await trio.sleep(21)


async def allocated(person: Person, data: bytes) -> m.Allocation:
    """Ask until the index is not busy with the last grant."""
    with trio.fail_after(60):
        while True:
            try:
                return await person.allocate(data)
            except BusyError:
                await trio.sleep(0.1)


async def data_for(cluster: Cluster, bucket: BucketNode, size: int = 150_000) -> bytes:
    """Something whose new blob would go to the bucket; alice has the grant."""
    for number in range(1000):
        data = bytes([number % 251]) * size + number.to_bytes(2, "big")
        allocation = await cluster.alice.allocate(data)
        if allocation.bucket.principal == bucket.key.principal:
            return data
        await cluster.alice.ask(m.ReleaseGrant(allocation.grant_id), m.Ok)
        await trio.sleep(1)
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_b33_a_blob_stays_in_its_bucket_whatever_becomes_of_buckets(
    seed: int, autojump_clock, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    datas = [bytes([number]) * 30_000 for number in range(12)]
    homes: dict[bytes, object] = {}
    async with a_cluster(tmp_path, SHAPE) as cluster:
        for _ in range(60):
            bucket = rng.choice(cluster.buckets)
            act = rng.choice(["state", "state", "offline", "wait", "upload", "upload", "upload"])
            if act == "state":
                state = rng.choice(["active", "active", "standby", "full", "retired"])
                await set_state(cluster, bucket, state)
            elif act == "offline":
                (bucket.go_online if bucket.uplink.down else bucket.go_offline)()
            elif act == "wait":
                await trio.sleep(rng.choice([1, 30, 2 * LOST_AFTER_S]))
            else:
                data, person = rng.choice(datas), rng.choice([cluster.alice, cluster.bob])
                try:
                    made = await person.upload(data, cluster.general)
                except (NoBucketError, BusyError):
                    continue
                assert homes.setdefault(data, made.bucket) == made.bucket
        for bucket in cluster.buckets:
            bucket.go_online()
        await cluster.settle()
        await cluster.check_accounts()
        stored = [blob_id for bucket in cluster.buckets for blob_id in bucket.stored]
        assert len(stored) == len(set(stored)) == len(homes) > 5


async def test_b34_b66_a_bucket_that_fills_keeps_its_promises_and_sends_others_elsewhere(
    autojump_clock, tmp_path: Path
) -> None:
    async with a_cluster(tmp_path, Shape(buckets=2)) as cluster:
        alice, bob = cluster.alice, cluster.bob
        full, other = cluster.buckets
        data = await data_for(cluster, full)
        promised = await allocated(alice, data)
        await alice.push(promised, 0, pieces(data)[0], cluster.general)
        theirs = await data_for(cluster, full, 160_000)
        given = await allocated(bob, theirs)
        # Somebody else's files fill the disk but for what is kept back and promised.
        disk = full.disk
        preallocated = full.service._store.space().free - disk.room()
        disk.faults.capacity = disk.used() + KEPT_BACK + len(data) - preallocated
        with pytest.raises(BucketFullError):
            await bob.push(given, 0, pieces(theirs)[0], cluster.general)
        for index, piece in list(enumerate(pieces(data)))[1:]:
            result = await alice.push(promised, index, piece, cluster.general)
        assert result.reference is not None
        # It was alice's blob as well that had no room: her grant for it is closed with his.
        made = await anew(bob, theirs, cluster)
        assert made.bucket == other.key.principal
        hers = await anew(alice, theirs, cluster)
        assert hers.bucket == other.key.principal
        disk.faults.capacity = None
        await reports(cluster)
        again = await allocated(bob, data)
        assert again.bucket.principal == full.key.principal
        await bob.push_all(again, data, cluster.random)
        await cluster.check_accounts()


async def anew(person: Person, data: bytes, cluster: Cluster) -> m.BlobReference:
    """As the SDK: allocate again until a bucket takes it."""
    with trio.fail_after(60):
        while True:
            try:
                return await person.upload(data, cluster.general)
            except OstError:
                await trio.sleep(0.5)


async def test_b34_a_full_disk_is_full_until_there_is_room_again(
    autojump_clock, tmp_path: Path
) -> None:
    async with a_cluster(tmp_path, Shape(buckets=2)) as cluster:
        full, other = cluster.buckets
        disk = full.disk
        for capacity, state in [
            (KEPT_BACK + (1 << 20), "full"), (None, "active"),
        ]:  # fmt: skip
            disk.faults.capacity = capacity
            await reports(cluster)
            assert (await state_of(cluster, full)).state == state
        disk.faults.capacity = KEPT_BACK
        await reports(cluster)
        for number in range(8):
            made = await cluster.alice.upload(bytes([number]) * 100, cluster.general)
            assert made.bucket == other.key.principal


async def test_a_lost_bucket_serves_whom_the_index_does_not_hear(
    autojump_clock, tmp_path: Path
) -> None:
    async with a_cluster(tmp_path, SHAPE) as cluster:
        alice, general = cluster.alice, cluster.general
        made = await alice.upload(b"a picture", general)
        home = cluster.node(made.bucket)
        home.go_offline()
        await trio.sleep(2 * LOST_AFTER_S)
        assert (await state_of(cluster, home)).state == "lost"
        where = await cluster.bob.ask(
            m.Locate(general.principal, made.blob_id, general.token(cluster.bob)), m.BucketAddress
        )
        assert where.principal == home.key.principal
        assert await cluster.bob.can_read(general, made)
        with pytest.raises(NoBucketError):
            await cluster.bob.allocate(b"a picture")
        home.go_online()
        await reports(cluster)
        assert (await state_of(cluster, home)).state == "active"
        assert (await cluster.bob.allocate(b"a picture")).bucket.principal == made.bucket


async def test_b33_the_wrong_bucket_says_where(autojump_clock, tmp_path: Path) -> None:
    async with a_cluster(tmp_path, Shape(buckets=3)) as cluster:
        # Addresses that came at the same time are told with later reports.
        await reports(cluster)
        data = b"somewhere"
        allocation = await cluster.alice.allocate(data)
        home = cluster.node(allocation.bucket.principal)
        for other in cluster.buckets:
            if other is home:
                continue
            for request, body in (
                (m.PushChunk(allocation.grant, 0), data),
                (m.AddReference(allocation.grant, cluster.alice.principal, b"", ()), b""),
            ):
                with pytest.raises(WrongBucketError) as caught:
                    await cluster.alice.call(other, request, body)
                assert caught.value.details == {
                    "bucket": home.key.principal.text(PrincipalKind.BUCKET),
                    "http": allocation.bucket.http,
                }
                assert allocation.bucket.http


async def test_zone_and_weight_arrive_over_links_that_take_them(
    autojump_clock, tmp_path: Path
) -> None:
    shape = Shape(bucket={"zone": "rack 7", "weight": "3GiB"})
    async with a_cluster(tmp_path, shape) as cluster:
        for bucket in cluster.buckets:
            told = await state_of(cluster, bucket)
            assert (told.zone, told.weight) == ("rack 7", 3 << 30)
