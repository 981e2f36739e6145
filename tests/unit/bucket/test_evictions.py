"""What the index wants removed, and what operators have blocked, at the bucket."""

from __future__ import annotations

import pytest

from ostnode.errors import BlobBlockedError, GrantClosedError, NotFoundError
from ostnode.roles.bucket.core import sweeps
from ostnode.wire import events as e
from tests.support.bucketkit import (
    ALICE,
    BOB,
    CAROL,
    GENERAL,
    RANDOM,
    Kit,
    blob_of,
    pieces,
    uid_of,
)

DATA = bytes(range(40))
SMALL = b"one chunk"
EVICT = e.EvictBlob(uid_of(ALICE), blob_of(SMALL))


def blocked(data: bytes, version: int = 1, *, now: bool = True) -> e.BlobBlocked:
    return e.BlobBlocked(blob_of(data), now, version)


async def test_b27_all_references_of_the_uid_go_and_those_of_others_stay() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        await kit.upload(ALICE, SMALL, RANDOM, ref_id=b"2")
        await kit.upload(ALICE, DATA, GENERAL)
        await kit.upload(BOB, SMALL, GENERAL)
        kit.index.tell(EVICT)
        await kit.talk()
        assert kit.index.events[-2:] == [
            e.Released(uid_of(ALICE), blob_of(SMALL), len(SMALL)),
            e.Evicted(uid_of(ALICE), blob_of(SMALL)),
        ]
        assert kit.index.used(ALICE) == len(DATA)
        assert kit.stored == {blob_of(SMALL), blob_of(DATA)}
        assert await kit.read(CAROL, GENERAL, SMALL) == SMALL
        with pytest.raises(NotFoundError):
            await kit.read(CAROL, RANDOM, SMALL)


async def test_b27_the_last_holder_s_eviction_frees_the_bytes() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        kit.index.tell(EVICT)
        await kit.talk()
        assert kit.stored == set()
        assert kit.index.used(ALICE) == 0


async def test_an_eviction_of_what_is_not_there_is_confirmed() -> None:
    """The uid removed it itself, a moment before."""
    async with Kit().running() as kit:
        kit.index.tell(EVICT)
        await kit.talk()
        assert e.Evicted(uid_of(ALICE), blob_of(SMALL)) in kit.index.events


async def test_b60_a_grant_that_rests_on_what_is_evicted_is_closed_at_once() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        again = kit.grant(ALICE, SMALL, reserved=0)
        kit.index.tell(EVICT)
        await kit.bucket.sync.poll_feed(kit.index, 0)
        with pytest.raises(GrantClosedError, match="not_held"):
            await kit.push(ALICE, again, 0, SMALL, accessors=(RANDOM.principal,))
        await kit.talk()
        assert kit.index.used(ALICE) == kit.index.reserved(ALICE) == 0
        assert kit.stored == set()


async def test_b60_a_reference_added_before_the_bucket_hears_of_it_goes_too() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        again = kit.grant(ALICE, SMALL, reserved=0)
        kit.index.tell(EVICT)
        await kit.push(ALICE, again, 0, SMALL, accessors=(RANDOM.principal,))
        await kit.talk()
        assert kit.index.used(ALICE) == kit.index.reserved(ALICE) == 0
        assert kit.stored == set()


async def test_what_is_evicted_may_come_again_and_be_evicted_again() -> None:
    kit = Kit()
    async with kit.running():
        for _ in range(2):
            await kit.upload(ALICE, SMALL, GENERAL)
            kit.index.tell(EVICT)
            await kit.talk()
        assert kit.stored == set()
        await kit.upload(ALICE, SMALL, GENERAL)
        await kit.talk()
        assert kit.index.used(ALICE) == len(SMALL)
    async with kit.running():
        await kit.talk()
        assert await kit.read(CAROL, GENERAL, SMALL) == SMALL


async def test_thousands_of_references_go_in_slices_also_across_a_restart(monkeypatch) -> None:
    monkeypatch.setattr(sweeps, "REFERENCES_MAX", 3)
    kit = Kit()
    async with kit.running():
        for number in range(8):
            await kit.upload(ALICE, SMALL, GENERAL, ref_id=bytes([number]))
        kit.index.tell(EVICT)
        await kit.bucket.sync.poll_feed(kit.index, 0)
        assert await kit.bucket.sweeper.sweep_once()
        assert kit.bucket.desk.state.reference_count(uid_of(ALICE)) == 5
        assert kit.bucket.desk.state.evicting(uid_of(ALICE), blob_of(SMALL))
    async with kit.running():
        await kit.talk()
        assert kit.bucket.desk.state.reference_count(uid_of(ALICE)) == 0
        assert kit.index.events.count(e.Evicted(uid_of(ALICE), blob_of(SMALL))) == 1


async def test_a_recalled_grant_is_closed_unless_its_upload_has_begun() -> None:
    async with Kit().running() as kit:
        claims = [kit.claims(who, DATA) for who in (ALICE, BOB)]
        begun, idle = map(kit.sign, claims)
        await kit.push(ALICE, begun, 0, pieces(DATA)[0])
        for each in claims:
            kit.index.tell(e.GrantRecalled(each.grant_id, each.uid, each.blob_id))
        await kit.talk()
        assert [reason for _, reason in kit.index.closings()] == ["revoked"]
        for number, piece in enumerate(pieces(DATA)):
            result = await kit.push(ALICE, begun, number, piece)
        assert result.reference is not None
        with pytest.raises(GrantClosedError):
            await kit.push(BOB, idle, 0, pieces(DATA)[0])


async def test_a_blocked_blob_is_refused_stored_or_not() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        kit.index.tell(blocked(SMALL), blocked(DATA))
        await kit.talk()
        for data in (SMALL, DATA):
            with pytest.raises(BlobBlockedError):
                await kit.push(BOB, kit.grant(BOB, data), 0, pieces(data)[0])
            with pytest.raises(BlobBlockedError):
                await kit.forward(BOB, data, GENERAL, RANDOM)
            with pytest.raises(NotFoundError) as caught:
                await kit.read(CAROL, GENERAL, data)
            assert caught.value.details == {}


async def test_unblocking_brings_back_what_is_stored() -> None:
    kit = Kit()
    async with kit.running():
        await kit.upload(ALICE, SMALL, GENERAL)
        kit.index.tell(blocked(SMALL))
        await kit.talk()
        assert kit.index.used(ALICE) == len(SMALL)
        assert kit.stored == {blob_of(SMALL)}
    async with kit.running():
        with pytest.raises(NotFoundError):
            await kit.read(CAROL, GENERAL, SMALL)
        kit.index.tell(blocked(SMALL, 2, now=False), blocked(SMALL, 1))
        await kit.talk()
        assert await kit.read(CAROL, GENERAL, SMALL) == SMALL


async def test_a_blob_blocked_under_a_running_read_ends_it() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        reader = await kit.reader(CAROL, GENERAL, DATA)
        assert await reader.read(0, 16) == DATA[:16]
        kit.index.tell(blocked(DATA))
        await kit.bucket.sync.poll_feed(kit.index, 0)
        with pytest.raises(NotFoundError):
            await reader.read(16, 16)


async def test_a_blob_blocked_while_it_is_uploaded_is_not_completed() -> None:
    """The upload keeps its chunks: unblocked in time, it goes on."""
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        *before, last = enumerate(pieces(DATA))
        for number, piece in before:
            await kit.push(ALICE, grant, number, piece)
        kit.index.tell(blocked(DATA))
        await kit.talk()
        with pytest.raises(BlobBlockedError):
            await kit.push(ALICE, grant, *last)
        kit.index.tell(blocked(DATA, 2, now=False))
        await kit.talk()
        assert (await kit.push(ALICE, grant, *last)).reference is not None


async def test_the_owner_removes_a_blocked_blob_s_references() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        kit.index.tell(blocked(SMALL))
        await kit.talk()
        assert await kit.remove(ALICE, kit.key_of(SMALL, ALICE, GENERAL)) == [""]
        await kit.talk()
        assert kit.index.used(ALICE) == 0
        assert kit.stored == set()
