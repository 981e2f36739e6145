"""A bucket whose disk fails: it stops, says why, and what it had answered is there afterwards."""

from __future__ import annotations

import pytest

from ostnode.errors import ShuttingDownError
from ostnode.store.errors import StoreFailedError
from ostnode.store.simdisk import Faults
from tests.support.cluster import BucketNode, Cluster, Shape
from tests.support.people import Chat, Person, pieces

DATA = bytes(range(251)) * 60


@pytest.mark.parametrize("shape", [Shape(buckets=1)])
async def test_b44_a_failed_sync_ends_the_bucket_and_loses_nothing_it_had_answered(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    (bucket,) = cluster.buckets
    made = await alice.upload(b"before", general)
    await cluster.settle()
    allocation = await alice.allocate(DATA)
    bucket.disk.faults = _no_more_syncs(bucket)
    with pytest.raises(ShuttingDownError):
        await alice.push(allocation, 0, pieces(DATA)[0], general)
    assert await bucket.failed() == [StoreFailedError]
    with pytest.raises(ShuttingDownError):
        await alice.push(allocation, 0, pieces(DATA)[0], general)
    await bucket.crash(power=True)
    assert await bob.can_read(general, made)
    await alice.push_all(allocation, DATA, general)
    await cluster.check_accounts()


@pytest.mark.parametrize("shape", [Shape(buckets=1)])
async def test_b44_a_sync_that_fails_under_a_sweep_ends_the_bucket_with_its_reason_alone(
    autojump_clock, cluster: Cluster, alice: Person, app: Person, general: Chat
) -> None:
    (bucket,) = cluster.buckets
    await alice.upload(DATA, general)
    await cluster.settle()
    bucket.disk.faults = _no_more_syncs(bucket)
    await app.delete_chat(general)
    assert await bucket.failed() == [StoreFailedError]
    await bucket.crash(power=True)
    await cluster.check_accounts()
    assert await alice.account() == (0, 0)


def _no_more_syncs(bucket: BucketNode) -> Faults:
    done = bucket.disk.operations
    return Faults(sync_errors=frozenset(range(done, done + 10_000)))
