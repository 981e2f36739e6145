"""The flows on a whole cluster in one process: peer links, feeds and outboxes in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from ostnode.errors import AccessorDeletedError, AllowanceExceededError, NotFoundError
from ostnode.wire import messages as m
from tests.support.memorycluster import (
    CHUNK_BYTES,
    MemoryCluster,
    blob_of,
    key_of,
    memory_cluster,
    pieces,
)

ALICE, BOB, CAROL = key_of("alice"), key_of("bob"), key_of("carol")
GENERAL, RANDOM = key_of("general"), key_of("random")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    """Tests name `autojump_clock` too: only a test's own arguments set its clock."""
    async with memory_cluster(tmp_path) as running:
        for user in (ALICE, BOB):
            await running.register(user)
        yield running


def data_of(seed: int, size: int) -> bytes:
    return bytes((seed * 31 + i * 7 + (i >> 8)) & 0xFF for i in range(size))


async def test_upload_read_forward_delete(cluster: MemoryCluster, autojump_clock) -> None:
    data = data_of(1, 3 * CHUNK_BYTES + 17)
    blob = await cluster.upload(ALICE, data, GENERAL, ref_id=b"one")
    assert await cluster.read(BOB, GENERAL, blob) == data
    await cluster.forward(BOB, blob, GENERAL, RANDOM)
    assert await cluster.read(CAROL, RANDOM, blob) == data
    with pytest.raises(NotFoundError):
        await cluster.read(CAROL, key_of("elsewhere"), blob)
    await cluster.settle()
    assert await cluster.account(ALICE) == await cluster.account(BOB) == (len(data), 0)

    await cluster.remove(BOB, blob, GENERAL)
    with pytest.raises(NotFoundError):
        await cluster.read(BOB, GENERAL, blob)
    assert await cluster.read(CAROL, RANDOM, blob) == data
    await cluster.settle()
    assert await cluster.account(ALICE) == (0, 0)

    await cluster.delete_chat(RANDOM)
    await cluster.settle()
    with pytest.raises(NotFoundError):
        await cluster.read(CAROL, RANDOM, blob)
    assert await cluster.account(BOB) == (0, 0)
    info = await cluster.status()
    assert (info.charges, info.open_grants, info.bytes_used, info.bytes_reserved) == (0, 0, 0, 0)


async def test_b10_an_upload_resumes_after_its_bucket_was_killed(
    cluster: MemoryCluster, autojump_clock
) -> None:
    data = data_of(2, 8 * CHUNK_BYTES)
    allocation = await cluster.ask_index(ALICE, m.Allocate(blob_of(data), len(data)), m.Allocation)
    bucket = allocation.bucket.principal
    number = [key.principal for key in cluster.bucket_keys].index(bucket)

    async def push(index: int) -> m.PushResult:
        request = m.PushChunk(allocation.grant, index, (GENERAL.principal,))
        return await cluster.ask(ALICE, bucket, request, m.PushResult, pieces(data)[index])

    for index in (5, 0, 3):
        await push(index)
    await cluster.kill_bucket(number)
    await cluster.start_bucket(number)
    status = await cluster.ask(ALICE, bucket, m.UploadStatus(blob_of(data)), m.UploadInfo)
    assert int.from_bytes(status.received, "little") == 1 << 5 | 1 << 0 | 1 << 3
    results = [await push(index) for index in (7, 1, 2, 4, 6)]
    assert [result.missing for result in results] == [4, 3, 2, 1, 0]
    reference = results[-1].reference
    assert reference is not None
    assert await cluster.read(BOB, GENERAL, reference) == data
    await cluster.settle()
    assert await cluster.account(ALICE) == (len(data), 0)


async def test_b11_two_users_upload_one_blob_at_once(
    cluster: MemoryCluster, autojump_clock
) -> None:
    data = data_of(3, 6 * CHUNK_BYTES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cluster.upload, ALICE, data, GENERAL)
        nursery.start_soon(cluster.upload, BOB, data, GENERAL)
    await cluster.settle()
    assert await cluster.account(ALICE) == await cluster.account(BOB) == (len(data), 0)


async def test_b29_a_user_uploads_before_the_bucket_has_heard_of_it(
    cluster: MemoryCluster, autojump_clock
) -> None:
    await cluster.register(CAROL)
    blob = await cluster.upload(CAROL, data_of(4, 100), GENERAL)
    assert await cluster.read(BOB, GENERAL, blob) == data_of(4, 100)
    pending = data_of(5, 3 * CHUNK_BYTES)
    allocation = await cluster.ask_index(
        CAROL, m.Allocate(blob_of(pending), len(pending)), m.Allocation
    )
    push = m.PushChunk(allocation.grant, 0, (GENERAL.principal,))
    await cluster.ask(CAROL, allocation.bucket.principal, push, m.PushResult, pieces(pending)[0])
    await cluster.change_users(m.UserChange("delete", CAROL.principal))
    await cluster.settle()
    with pytest.raises(NotFoundError):
        await cluster.read(BOB, GENERAL, blob)
    info = await cluster.status()
    assert (info.charges, info.open_grants, info.bytes_used, info.bytes_reserved) == (0, 0, 0, 0)


async def test_b68_deleted_and_registered_again_at_once(
    cluster: MemoryCluster, autojump_clock
) -> None:
    old = await cluster.upload(ALICE, data_of(6, 200), GENERAL)
    await cluster.change_users(
        m.UserChange("delete", ALICE.principal),
        m.UserChange("register", ALICE.principal, 1 << 20),
    )
    new = await cluster.upload(ALICE, data_of(7, 300), GENERAL)
    assert new.owner != old.owner
    await cluster.settle()
    with pytest.raises(NotFoundError):
        await cluster.read(BOB, GENERAL, old)
    assert await cluster.read(BOB, GENERAL, new) == data_of(7, 300)
    assert await cluster.account(ALICE) == (300, 0)


async def test_b55_an_upload_begun_before_its_chat_was_deleted(
    cluster: MemoryCluster, autojump_clock
) -> None:
    data = data_of(8, 2 * CHUNK_BYTES)
    allocation = await cluster.ask_index(ALICE, m.Allocate(blob_of(data), len(data)), m.Allocation)

    async def push(index: int) -> m.PushResult:
        request = m.PushChunk(allocation.grant, index, (GENERAL.principal,))
        bucket = allocation.bucket.principal
        return await cluster.ask(ALICE, bucket, request, m.PushResult, pieces(data)[index])

    await push(0)
    await cluster.delete_chat(GENERAL)
    await cluster.settle()
    with pytest.raises(AccessorDeletedError):
        await push(1)
    await cluster.settle()
    assert await cluster.account(ALICE) == (0, 0)


async def test_a_bucket_that_was_away_catches_up(cluster: MemoryCluster, autojump_clock) -> None:
    blob = await cluster.upload(ALICE, data_of(9, 500), GENERAL)
    kept = await cluster.upload(ALICE, data_of(10, 600), RANDOM)
    for number in range(2):
        await cluster.kill_bucket(number)
    await cluster.delete_chat(GENERAL)
    await trio.sleep(1800)
    for number in range(2):
        await cluster.start_bucket(number)
    await cluster.settle()
    with pytest.raises(NotFoundError):
        await cluster.read(BOB, GENERAL, blob)
    assert await cluster.read(BOB, RANDOM, kept) == data_of(10, 600)
    assert await cluster.account(ALICE) == (600, 0)


async def test_an_index_that_was_away_hears_everything(
    cluster: MemoryCluster, autojump_clock
) -> None:
    blob = await cluster.upload(ALICE, data_of(11, 700), GENERAL)
    await cluster.settle()
    await cluster.index.cut()
    await cluster.remove(BOB, blob, GENERAL)
    await trio.sleep(60)
    await cluster.start_index()
    await cluster.settle()
    assert await cluster.account(ALICE) == (0, 0)


async def test_an_index_stops_in_order_under_its_buckets_long_polls(
    cluster: MemoryCluster, autojump_clock
) -> None:
    with trio.fail_after(5):
        await cluster.index.stop()
    await cluster.start_index()
    await cluster.settle()
    assert [bucket.state for bucket in (await cluster.status()).buckets] == ["active", "active"]


async def test_the_allowance_holds_across_the_cluster(
    cluster: MemoryCluster, autojump_clock
) -> None:
    await cluster.register(CAROL, 1000)
    await cluster.upload(CAROL, data_of(12, 600), GENERAL)
    with pytest.raises(AllowanceExceededError) as refusal:
        await cluster.upload(CAROL, data_of(13, 600), GENERAL)
    details = refusal.value.details
    assert (details["limit"], details["needed"]) == (1000, 600)
    assert details["used"] + details["reserved"] == 600
