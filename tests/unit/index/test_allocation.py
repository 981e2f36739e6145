"""allocated_bucket, can_forward and release_grant, through the service."""

from __future__ import annotations

import pytest
import trio

from ostnode.errors import (
    AllowanceExceededError,
    BlobTooLargeError,
    BusyError,
    InvalidArgumentError,
    NoBucketError,
    NotAuthorizedError,
    UploadConflictError,
    UserUnknownError,
)
from ostnode.ids import GrantId
from ostnode.roles.index import Rules
from ostnode.wire import events as e
from ostnode.wire import fleet as f
from ostnode.wire import messages as m
from tests.support.index_cluster import IndexCluster, an_index, blob


async def test_a_grant_reserves_and_says_what_the_bucket_needs() -> None:
    async with an_index() as index:
        got = await index.allocate(index.alice, blob(1), 300)
        now = int(index.clock.now())
        assert got.bucket == m.BucketAddress(index.bucket.key.principal, "http://bucket.test")
        assert got.allowance == m.Allowance(limit=1000, used=0, reserved=300)
        assert got.expires_at == now + 3600
        assert not got.already_yours
        grant = index.bucket.open(got)
        assert (grant.grant_id, grant.blob_id) == (got.grant_id, blob(1))
        assert (grant.size, grant.reserved, grant.chunk_bytes) == (300, 300, 1 << 20)
        assert (grant.user, grant.uid) == (index.alice.principal, await index.uid(index.alice))
        assert (grant.issued_at, grant.expires_at) == (now, got.expires_at)
        status = await index.status()
        assert grant.grant_id.incarnation == status.incarnation


async def test_asking_again_renews_the_open_grant_and_reserves_once() -> None:
    async with an_index() as index:
        first = await index.allocate(index.alice, blob(1), 600)
        index.clock.time += 100
        again = await index.allocate(index.alice, blob(1), 600)
        assert again.grant_id == first.grant_id
        assert again.expires_at == first.expires_at + 100
        assert await index.account(index.alice) == (0, 600)


async def test_the_latest_end_never_goes_back_when_the_clock_does() -> None:
    async with an_index() as index:
        first = await index.allocate(index.alice, blob(1), 600)
        index.clock.time -= 500
        again = await index.allocate(index.alice, blob(1), 600)
        assert again.expires_at == first.expires_at


async def test_a_grant_ends_above_its_buckets_floor_when_the_clock_goes_back() -> None:
    async with an_index() as index:
        floor = int(index.clock.now())
        await index.bucket.sync(e.FloorRaised(floor))
        index.clock.time -= 10_000
        assert (await index.allocate(index.alice, blob(1), 600)).expires_at == floor + 3600


async def test_an_open_grant_keeps_its_chunk_size_when_the_config_changes(tmp_path) -> None:
    index = IndexCluster(Rules(chunk_bytes=65536), tmp_path, 1)
    async with index.open():
        await index.bucket.sync()
        await index.change(("register", index.alice, 1000))
        await index.allocate(index.alice, blob(1), 5)
    index.options = type(index.options)(
        cluster_id=index.options.cluster_id,
        buckets=index.options.buckets,
        data_dir=tmp_path,
        rules=Rules(chunk_bytes=131072),
    )
    async with index.open():
        assert (await index.allocate(index.alice, blob(1), 5)).chunk_bytes == 65536
        assert (await index.allocate(index.alice, blob(2), 5)).chunk_bytes == 131072


async def test_an_allowance_exceeded_says_everything() -> None:
    async with an_index() as index:
        done = await index.allocate(index.alice, blob(1), 300)
        await index.bucket.sync(index.bucket.completed(done))
        await index.allocate(index.alice, blob(2), 400)
        with pytest.raises(AllowanceExceededError) as refused:
            await index.allocate(index.alice, blob(3), 301)
        assert refused.value.details == {
            "limit": 1000,
            "used": 300,
            "reserved": 400,
            "needed": 301,
        }
        await index.allocate(index.alice, blob(3), 300)
        assert await index.account(index.alice) == (300, 700)


async def test_b24_parallel_allocations_never_jointly_exceed_the_limit() -> None:
    async with an_index() as index:
        granted, refused = [], []

        async def one(number: int) -> None:
            try:
                granted.append(await index.allocate(index.alice, blob(number), 90))
            except AllowanceExceededError:
                refused.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(one, number)
        assert len(granted) == 11
        assert len(refused) == 89
        assert await index.account(index.alice) == (0, 990)


async def test_parallel_allocations_of_one_blob_share_one_grant() -> None:
    async with an_index() as index:
        ids = set()

        async def one() -> None:
            ids.add((await index.allocate(index.alice, blob(1), 600)).grant_id)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        assert len(ids) == 1
        assert await index.account(index.alice) == (0, 600)


async def test_a_blob_already_charged_reserves_nothing() -> None:
    async with an_index() as index:
        first = await index.allocate(index.alice, blob(1), 900)
        await index.bucket.sync(index.bucket.completed(first))
        again = await index.allocate(index.alice, blob(1), 900)
        assert again.already_yours
        assert again.grant_id != first.grant_id
        assert index.bucket.open(again).reserved == 0
        assert await index.account(index.alice) == (900, 0)


async def test_b26_a_declared_size_that_differs_changes_nobodys_account() -> None:
    async with an_index() as index:
        await index.change(("register", index.bob, 1000))
        real = await index.allocate(index.alice, blob(1), 900)
        await index.bucket.sync(index.bucket.completed(real))
        with pytest.raises(InvalidArgumentError):
            await index.allocate(index.alice, blob(1), 899)
        # Bob's word about the size is his own reservation, whatever alice's is.
        lie = await index.allocate(index.bob, blob(1), 10)
        assert await index.account(index.bob) == (0, 10)
        await index.bucket.sync(index.bucket.closed(lie, "hash_mismatch"))
        assert await index.account(index.bob) == (0, 0)
        assert await index.account(index.alice) == (900, 0)


async def test_another_size_while_a_grant_is_open_is_a_conflict() -> None:
    async with an_index() as index:
        await index.allocate(index.alice, blob(1), 10)
        with pytest.raises(UploadConflictError):
            await index.allocate(index.alice, blob(1), 11)
        assert await index.account(index.alice) == (0, 10)


async def test_a_blob_too_large_is_refused_with_the_limit() -> None:
    async with an_index(Rules(blob_bytes_max=100)) as index:
        await index.allocate(index.alice, blob(1), 100)
        with pytest.raises(BlobTooLargeError) as refused:
            await index.allocate(index.alice, blob(2), 101)
        assert refused.value.details == {"limit": 100, "needed": 101}
        with pytest.raises(BlobTooLargeError):
            await index.ask(index.alice, m.CanForward(blob(2), 101))


async def test_strangers_and_the_blocked_get_no_grant() -> None:
    async with an_index() as index:
        with pytest.raises(UserUnknownError):
            await index.allocate(index.bob, blob(1), 1)
        await index.ask(index.app, m.BlockPrincipal(index.alice.proven))
        with pytest.raises(NotAuthorizedError):
            await index.allocate(index.alice, blob(1), 1)


async def test_open_grants_are_capped() -> None:
    async with an_index(Rules(user_grants_max=2)) as index:
        first = await index.allocate(index.alice, blob(1), 0)
        await index.allocate(index.alice, blob(2), 0)
        with pytest.raises(BusyError):
            await index.allocate(index.alice, blob(3), 0)
        await index.allocate(index.alice, blob(2), 0)
        await index.bucket.sync(index.bucket.completed(first))
        await index.allocate(index.alice, blob(3), 0)


async def test_empty_blobs_are_not_free_without_end() -> None:
    async with an_index(Rules(user_blobs_max=2)) as index:
        first = await index.allocate(index.alice, blob(1), 0)
        await index.bucket.sync(index.bucket.completed(first))
        await index.allocate(index.alice, blob(2), 0)
        with pytest.raises(AllowanceExceededError):
            await index.allocate(index.alice, blob(3), 0)
        # What is held already may be held again.
        await index.allocate(index.alice, blob(1), 0)


async def test_a_lowered_limit_refuses_new_uploads_and_deletes_nothing() -> None:
    async with an_index() as index:
        done = await index.allocate(index.alice, blob(1), 600)
        await index.bucket.sync(index.bucket.completed(done))
        pending = await index.allocate(index.alice, blob(2), 300)
        assert await index.change(("update", index.alice, 100)) == [""]
        with pytest.raises(AllowanceExceededError):
            await index.allocate(index.alice, blob(3), 0)
        await index.allocate(index.alice, blob(1), 600)
        await index.allocate(index.alice, blob(2), 300)
        await index.bucket.sync(index.bucket.completed(pending))
        assert await index.account(index.alice) == (900, 0)


async def test_a_forward_is_projected_without_reserving() -> None:
    async with an_index() as index:
        forward = m.CanForward(blob(1), 600)
        assert await index.ask(index.alice, forward) == m.Allowance(1000, 0, 600)
        assert await index.account(index.alice) == (0, 0)
        held = await index.allocate(index.alice, blob(1), 600)
        assert await index.ask(index.alice, forward) == m.Allowance(1000, 0, 600)
        with pytest.raises(AllowanceExceededError):
            await index.ask(index.alice, m.CanForward(blob(2), 401))
        await index.bucket.sync(index.bucket.completed(held))
        assert await index.ask(index.alice, forward) == m.Allowance(1000, 600, 0)
        with pytest.raises(InvalidArgumentError):
            await index.ask(index.alice, m.CanForward(blob(1), 599))


async def test_a_released_grant_frees_its_bytes_when_the_bucket_has_closed_it() -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 600)
        await index.bucket.feed()
        assert await index.ask(index.alice, m.ReleaseGrant(held.grant_id)) == m.Ok()
        assert await index.account(index.alice) == (0, 600)
        with pytest.raises(BusyError):
            await index.allocate(index.alice, blob(1), 600)
        grant = index.bucket.open(held)
        revoked = e.GrantRevoked(held.grant_id, grant.uid, blob(1), held.expires_at)
        assert revoked in await index.bucket.feed()
        result = await index.bucket.sync(index.bucket.closed(held, "revoked"))
        assert result.closed == (m.ClosedEnd(held.grant_id, held.expires_at),)
        assert await index.account(index.alice) == (0, 0)
        fresh = await index.allocate(index.alice, blob(1), 600)
        assert fresh.grant_id != held.grant_id


async def test_releasing_what_is_not_yours_or_not_there_changes_nothing() -> None:
    async with an_index() as index:
        await index.change(("register", index.bob, 1000))
        held = await index.allocate(index.alice, blob(1), 600)
        assert await index.ask(index.bob, m.ReleaseGrant(held.grant_id)) == m.Ok()
        assert await index.ask(index.alice, m.ReleaseGrant(GrantId(bytes(16)))) == m.Ok()
        assert (await index.allocate(index.alice, blob(1), 600)).grant_id == held.grant_id


async def test_a_bucket_never_heard_of_takes_nothing() -> None:
    index = IndexCluster(Rules(), None, 1)
    async with index.open():
        await index.change(("register", index.alice, 1000))
        with pytest.raises(NoBucketError):
            await index.allocate(index.alice, blob(1), 1)
        await index.bucket.sync()
        await index.allocate(index.alice, blob(1), 1)


def _used(share: float) -> m.Space:
    return m.Space(total=1000, free=round(1000 * (1 - share)), stored=0)


async def test_full_buckets_take_no_new_blob_until_well_below() -> None:
    async with an_index() as index:
        placed = await index.allocate(index.alice, blob(1), 1)
        await index.bucket.sync(space=_used(0.95))
        with pytest.raises(NoBucketError):
            await index.allocate(index.alice, blob(2), 1)
        assert (await index.allocate(index.alice, blob(1), 1)).grant_id == placed.grant_id
        await index.bucket.sync(space=_used(0.93))
        assert (await index.status()).buckets[0].state == "full"
        with pytest.raises(NoBucketError):
            await index.allocate(index.alice, blob(2), 1)
        await index.bucket.sync(space=_used(0.90))
        await index.allocate(index.alice, blob(2), 1)


async def test_a_blob_goes_where_it_fits() -> None:
    async with an_index(Rules(blob_bytes_max=1 << 50), buckets=2) as index:
        small, large = index.buckets
        await index.change(("update", index.alice, 1 << 60))
        await small.sync(space=m.Space(total=1 << 40, free=1 << 38, stored=0))
        chosen = set()
        for number in range(20):
            got = await index.allocate(index.alice, blob(13 * number << 248), 1 << 39)
            assert got.bucket.principal == large.key.principal
            chosen.add((await index.allocate(index.alice, blob(13 * number << 248 | 1), 1)).bucket)
        assert len(chosen) == 2
        await large.sync(space=m.Space(total=1 << 40, free=1 << 38, stored=0))
        with pytest.raises(NoBucketError):
            await index.allocate(index.alice, blob(99), 1 << 39)


async def test_one_hash_never_goes_to_two_buckets() -> None:
    async with an_index(buckets=2) as index:
        await index.change(("register", index.bob, 1000))
        first = await index.allocate(index.alice, blob(1), 10)
        for bucket in index.buckets:
            if bucket.key.principal == first.bucket.principal:
                await bucket.sync(space=_used(0.99))
        second = await index.allocate(index.bob, blob(1), 10)
        assert second.bucket == first.bucket


async def test_a_bucket_no_longer_in_the_config_gets_no_grants(tmp_path) -> None:
    index = IndexCluster(Rules(), tmp_path, 2)
    async with index.open():
        for bucket in index.buckets:
            await bucket.sync()
        await index.change(("register", index.alice, 1000))
        held = await index.allocate(index.alice, blob(1), 10)
    gone = next(b for b in index.buckets if b.key.principal == held.bucket.principal)
    (left,) = (b for b in index.buckets if b is not gone)
    index.options = type(index.options)(
        cluster_id=index.options.cluster_id,
        buckets=(left.key.principal,),
        data_dir=tmp_path,
        rules=Rules(blob_bytes_max=500),
    )
    async with index.open():
        with pytest.raises(NoBucketError):
            await index.allocate(index.alice, blob(1), 10)
        for number in range(2, 12):
            got = await index.allocate(index.alice, blob(number << 240), 10)
            assert got.bucket.principal == left.key.principal


def _of(free: int) -> m.Space:
    return m.Space(total=100_000, free=free, stored=0)


@pytest.mark.parametrize(
    ("space", "size"),
    [(_of(20_000), 30_000), (_of(1_000), 10), (_of(1_000), 0)],
    ids=["too large for every bucket", "every bucket full", "an empty blob"],
)
async def test_b61_want_of_room_does_not_tell_which_blobs_are_stored(space, size: int) -> None:
    async with an_index(buckets=2) as index:
        await index.change(("update", index.alice, 1 << 20), ("register", index.bob, 1 << 20))
        stored = await index.allocate(index.alice, blob(1), size)
        bucket = index.bucket_of(stored)
        await bucket.sync(bucket.completed(stored))
        granted = await index.allocate(index.alice, blob(2), size)
        for each in index.buckets:
            await each.sync(space=space)
        told = set()
        for number in (1, 2, 3):
            with pytest.raises(NoBucketError) as refused:
                await index.allocate(index.bob, blob(number), size)
            told.add((refused.value.code, refused.value.message, str(refused.value.details)))
        assert len(told) == 1
        assert await index.account(index.bob) == (0, 0)
        # Whoever has paid, or is about to, goes on.
        assert (await index.allocate(index.alice, blob(1), size)).already_yours
        again = await index.allocate(index.alice, blob(2), size)
        assert again.grant_id == granted.grant_id


async def test_b61_a_cluster_without_an_open_bucket_answers_alike() -> None:
    async with an_index() as index:
        await index.change(("register", index.bob, 1000))
        stored = await index.allocate(index.alice, blob(1), 10)
        await index.bucket.sync(index.bucket.completed(stored))
        for state in ("full", "standby", "retired"):
            request = f.SetBucketState(index.bucket.key.principal, state)
            await index.ask(index.operator, request)
            told = set()
            for number in (1, 2):
                with pytest.raises(NoBucketError) as refused:
                    await index.allocate(index.bob, blob(number), 10)
                told.add(refused.value.message)
            assert len(told) == 1


async def test_a_grant_renewed_and_never_used_does_not_hold_a_blob_in_a_full_bucket() -> None:
    async with an_index(buckets=2) as index:
        await index.change(("register", index.bob, 1 << 20))
        tiny = await index.allocate(index.alice, blob(1), 1)
        full = index.bucket_of(tiny)
        await full.sync(space=_of(1_000))
        wanted = await index.allocate(index.bob, blob(1), 5_000)
        await full.sync(full.closed(wanted, "bucket_full"), space=_of(1_000))
        # The tiny grant may be the honest one: it stays, and holds the blob there.
        assert (await index.allocate(index.bob, blob(1), 5_000)).bucket == tiny.bucket
        await full.feed()
        renewed = await index.allocate(index.alice, blob(1), 1)
        assert renewed.grant_id == tiny.grant_id
        (recalled,) = [each for each in await full.feed() if isinstance(each, e.GrantRecalled)]
        assert recalled.grant_id == tiny.grant_id
        again = await index.allocate(index.bob, blob(1), 5_000)
        recalls = [each for each in await full.feed() if isinstance(each, e.GrantRecalled)]
        assert [each.grant_id for each in recalls] == [again.grant_id]
        closed = (full.closed(each, "revoked") for each in (renewed, again))
        await full.sync(*closed, space=_of(1_000))
        assert (await index.allocate(index.bob, blob(1), 5_000)).bucket != tiny.bucket


async def test_a_stored_blobs_grants_are_renewed_in_a_full_bucket_as_ever() -> None:
    async with an_index() as index:
        stored = await index.allocate(index.alice, blob(1), 10)
        await index.bucket.sync(index.bucket.completed(stored), space=_of(1_000))
        for _ in range(2):
            await index.allocate(index.alice, blob(1), 10)
        assert not [each for each in await index.bucket.feed() if isinstance(each, e.GrantRecalled)]
