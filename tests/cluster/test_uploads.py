"""Uploads end to end: allocated at the index, pushed to a bucket, charged when complete."""

from __future__ import annotations

import pytest
import trio

from ostnode.errors import (
    BlobTooLargeError,
    ChunkOutOfRangeError,
    ChunkSizeMismatchError,
    GrantClosedError,
    GrantInvalidError,
    HashMismatchError,
    NotFoundError,
    UploadConflictError,
)
from ostnode.net.transport import LinkClosedError
from ostnode.wire import messages as m
from tests.support.cluster import GRANT_TTL_S, Cluster, Shape, insist
from tests.support.people import CHUNK_BYTES, Chat, Person, blob_of, pieces

DATA = bytes(range(251)) * 60
"""Four chunks, the last one short."""
CHUNKS = pieces(DATA)


async def test_b01_an_abandoned_upload_refunds(
    autojump_clock, cluster: Cluster, alice: Person, general: Chat
) -> None:
    allocation = await alice.allocate(DATA)
    await alice.push(allocation, 0, CHUNKS[0], general)
    assert await alice.account() == (0, len(DATA))
    await cluster.grants_over()
    assert await alice.account() == (0, 0)
    with pytest.raises(NotFoundError):
        await alice.missing(allocation, DATA)
    assert cluster.node(allocation.bucket.principal).chunks == 0
    await cluster.check_accounts()


@pytest.mark.parametrize("shape", [Shape(index={"grant_ttl": "7d"}, bucket={"upload_ttl": "5m"})])
async def test_b01_an_upload_that_stalls_refunds_long_before_its_grant_ends(
    autojump_clock, cluster: Cluster, alice: Person
) -> None:
    await alice.push(await alice.allocate(DATA), 0, CHUNKS[0])
    await trio.sleep(400)
    await cluster.settle()
    assert await alice.account() == (0, 0)


async def test_b02_b03_b04_what_is_no_chunk_of_the_blob_takes_no_slot(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    allocation = await alice.allocate(DATA)

    async def refused() -> None:
        for body in (CHUNKS[0][:-1], CHUNKS[0] + b"x", b""):
            with pytest.raises(ChunkSizeMismatchError) as refusal:
                await alice.push(allocation, 0, body, general)
            assert refusal.value.details == {"expected": CHUNK_BYTES, "got": len(body)}
        with pytest.raises(ChunkSizeMismatchError):
            await alice.push(allocation, 3, CHUNKS[0], general)
        for index in (4, (1 << 32) - 1):
            with pytest.raises(ChunkOutOfRangeError):
                await alice.push(allocation, index, CHUNKS[0], general)

    await refused()
    await alice.push(allocation, 1, CHUNKS[1], general)
    await refused()
    assert await alice.missing(allocation, DATA) == [0, 2, 3]
    made = await alice.push_all(allocation, DATA, general, indexes=[0, 2, 3])
    assert await bob.read(general, made) == DATA


async def test_b05_an_empty_blob_round_trips(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    made = await alice.upload(b"", general)
    assert await bob.read(general, made) == b""
    await cluster.check_accounts()
    assert await alice.account() == (0, 0)
    assert await alice.remove(made, general) == ""
    assert not await bob.can_read(general, made)


async def test_b05_a_huge_declared_size_allocates_nothing(
    autojump_clock, cluster: Cluster, alice: Person
) -> None:
    with pytest.raises(BlobTooLargeError) as refusal:
        await alice.allocate(DATA, size=(1 << 63) - 1)
    assert refusal.value.details["needed"] == (1 << 63) - 1
    assert await alice.account() == (0, 0)
    assert (await cluster.status()).open_grants == 0


async def test_b06_a_foreign_or_altered_chunk_is_refused_and_harms_nothing(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    allocation = await alice.allocate(DATA)
    said = {"content_type": "image/png", "ref_id": b"1"}
    await alice.push(allocation, 0, CHUNKS[0], general, **said)
    with pytest.raises(GrantInvalidError):
        await bob.push(allocation, 1, CHUNKS[1], general, **said)
    with pytest.raises(UploadConflictError):
        await alice.push(allocation, 1, CHUNKS[1], general, cluster.random, **said)
    for other in ({"content_type": "text/html"}, {"ref_id": b"2"}, {"filename": "x"}):
        with pytest.raises(UploadConflictError):
            await alice.push(allocation, 1, CHUNKS[1], general, **(said | other))
    with pytest.raises(UploadConflictError):
        await alice.allocate(DATA, size=len(DATA) - 1)
    made = await alice.push_all(allocation, DATA, general, indexes=[1, 2, 3], **said)
    assert await bob.read(general, made) == DATA
    assert not await bob.can_read(cluster.random, made)


async def test_b07_chunks_and_completions_whose_answers_were_lost(
    autojump_clock, cluster: Cluster, alice: Person, general: Chat
) -> None:
    allocation = await alice.allocate(DATA)
    bucket = cluster.node(allocation.bucket.principal)
    results = []
    for index, chunk in enumerate(CHUNKS):
        bucket.gate.lose_replies(m.PushChunk)
        results.append(
            await insist(lambda at=index, body=chunk: alice.push(allocation, at, body, general))
        )
    assert [result.missing for result in results] == [3, 2, 1, 0]
    assert sum(isinstance(request, m.PushChunk) for request in bucket.gate.asked) == 8
    assert results[-1] == await alice.push(allocation, 0, CHUNKS[0], general)
    await cluster.check_accounts()
    assert await alice.account() == (len(DATA), 0)


async def test_b08_any_order_from_several_connections(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    allocation = await alice.allocate(DATA)
    lanes = [Person("alice", cluster) for _ in range(4)]
    results = []

    async def push(lane: Person, index: int) -> None:
        results.append(await lane.push(allocation, index, CHUNKS[index], general))

    async with trio.open_nursery() as nursery:
        for lane, index in zip(lanes, (3, 1, 0, 2), strict=True):
            nursery.start_soon(push, lane, index)
            nursery.start_soon(push, lane, index)
    complete = {result.reference for result in results if result.missing == 0}
    assert len(complete) == 1
    (made,) = complete
    assert made is not None
    assert await bob.read(general, made) == DATA
    await cluster.check_accounts()
    assert await alice.account() == (len(DATA), 0)


async def test_b09_a_wrong_hash_costs_nobody_else(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    forged = await alice.allocate(DATA)
    honest = await bob.allocate(DATA)
    assert honest.bucket == forged.bucket
    await bob.push(honest, 0, CHUNKS[0], general)
    for index in (0, 1, 2):
        await alice.push(forged, index, CHUNKS[index], general)
    with pytest.raises(HashMismatchError):
        await alice.push(forged, 3, b"!" * len(CHUNKS[3]), general)
    with pytest.raises(GrantClosedError) as refusal:
        await alice.push(forged, 3, CHUNKS[3], general)
    assert refusal.value.details == {"reason": "hash_mismatch"}
    await cluster.settle()
    assert cluster.node(honest.bucket.principal).chunks == 1
    assert await alice.account() == (0, 0)

    made = await bob.push_all(honest, DATA, general, indexes=[1, 2, 3])
    assert await alice.read(general, made) == DATA
    # A stored copy does not make the next forgery any better.
    again = await alice.allocate(DATA)
    for index in (0, 1, 2):
        await alice.push(again, index, CHUNKS[index], general)
    with pytest.raises(HashMismatchError):
        await alice.push(again, 3, b"!" * len(CHUNKS[3]), general)
    await cluster.check_accounts()
    assert (await alice.account(), await bob.account()) == ((0, 0), (len(DATA), 0))


@pytest.mark.parametrize("end", ["client", "stop", "kill", "power"])
async def test_b10_only_missing_chunks_are_sent_after_a_restart(
    end: str, autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    allocation = await alice.allocate(DATA)
    bucket = cluster.node(allocation.bucket.principal)
    await alice.push(allocation, 2, CHUNKS[2], general)
    bucket.gate.lose_replies(m.PushChunk)
    with pytest.raises(LinkClosedError):
        await alice.push(allocation, 0, CHUNKS[0], general)
    if end == "client":
        alice = Person("alice", cluster)
        renewed = await alice.allocate(DATA)
        assert renewed.grant_id == allocation.grant_id
        allocation = renewed
    elif end == "stop":
        await bucket.stop()
        await bucket.start()
    else:
        await bucket.crash(power=end == "power")
    missing = await alice.missing(allocation, DATA)
    assert missing == [1, 3]
    made = await alice.push_all(allocation, DATA, general, indexes=missing)
    assert await bob.read(general, made) == DATA
    await cluster.check_accounts()
    assert await alice.account() == (len(DATA), 0)


async def test_b10_a_renewed_grant_goes_on_with_the_upload(
    autojump_clock, cluster: Cluster, alice: Person, general: Chat
) -> None:
    first = await alice.allocate(DATA)
    await alice.push(first, 0, CHUNKS[0], general)
    await trio.sleep(GRANT_TTL_S - 10)
    renewed = await alice.allocate(DATA)
    assert (renewed.grant_id, renewed.allowance.reserved) == (first.grant_id, len(DATA))
    await alice.push(renewed, 1, CHUNKS[1], general)
    await trio.sleep(GRANT_TTL_S - 10)
    made = await alice.push_all(renewed, DATA, general, indexes=[2, 3])
    assert await alice.read(alice, made) == DATA
    await cluster.check_accounts()


async def test_b11_two_users_at_once_one_copy_two_references_two_charges(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, carol: Person, general: Chat
) -> None:
    made = {}

    async def upload(person: Person) -> None:
        made[person] = await person.upload(DATA, general)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload, alice)
        nursery.start_soon(upload, bob)
    await cluster.check_accounts()
    assert [blob for bucket in cluster.buckets for blob in bucket.stored] == [blob_of(DATA)]
    assert cluster.node(made[alice].bucket).chunks == len(CHUNKS)
    assert await alice.account() == await bob.account() == (len(DATA), 0)
    assert await alice.remove(made[alice], general) == ""
    assert await carol.can_read(general, made[bob])
    assert await bob.remove(made[bob], general) == ""
    assert not await carol.can_read(general, made[bob])
    await cluster.check_accounts()
    assert await alice.account() == await bob.account() == (0, 0)
    assert cluster.node(made[alice].bucket).chunks == 0
