"""Forwarding and removing references: who may, what stays, who is charged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostnode.errors import (
    AccessorDeletedError,
    GrantClosedError,
    GrantInvalidError,
    NotFoundError,
)
from ostnode.identity.tokens import Scope
from ostnode.ids import ClusterId
from ostnode.roles.bucket.core import sweeps
from ostnode.wire import events as e
from ostnode.wire import messages as m
from tests.support.bucketkit import (
    ALICE,
    BOB,
    BUCKET,
    CAROL,
    GENERAL,
    NOW,
    RANDOM,
    Kit,
    blob_of,
    pieces,
    uid_of,
)

DATA = bytes(range(40))
SMALL = b"one chunk"


async def test_b14_removing_one_of_two_references_leaves_the_other_readable() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL, RANDOM)
        assert await kit.remove(ALICE, kit.key_of(DATA, ALICE, GENERAL)) == [""]
        assert not await kit.readable(CAROL, GENERAL, DATA)
        assert await kit.readable(CAROL, RANDOM, DATA)
        await kit.talk()
        assert kit.index.used(ALICE) == 40
        assert await kit.remove(ALICE, kit.key_of(DATA, ALICE, RANDOM)) == [""]
        await kit.talk()
        assert kit.index.used(ALICE) == 0
        assert kit.stored == set()
        assert not list(kit.bucket.store.durable.scan(b"C"))


async def test_b15_deleting_an_accessor_leaves_its_neighbours() -> None:
    async with Kit().running() as kit:
        blobs = [bytes([n]) * 20 for n in range(5)]
        await kit.upload(ALICE, blobs[0], GENERAL)
        await kit.upload(ALICE, blobs[1], RANDOM)
        await kit.upload(ALICE, blobs[2])
        await kit.upload(BOB, blobs[3], GENERAL, RANDOM)
        await kit.upload(ALICE, blobs[4], GENERAL)
        await kit.upload(BOB, blobs[4])
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        await kit.bucket.sync.poll_feed(kit.index, 0)
        # At once, before anything is swept.
        assert not any([await kit.readable(CAROL, GENERAL, data) for data in blobs])
        await kit.talk()
        assert [await kit.readable(CAROL, RANDOM, data) for data in blobs] == [
            False,
            True,
            False,
            True,
            False,
        ]
        assert await kit.readable(ALICE, ALICE, blobs[2])
        assert await kit.readable(BOB, BOB, blobs[4])
        assert kit.stored == {blob_of(data) for data in blobs[1:]}
        assert (kit.index.used(ALICE), kit.index.used(BOB)) == (40, 40)


@pytest.mark.parametrize("first", [ALICE, BOB])
async def test_b16_a_forwarder_owns_its_charge(first) -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        await kit.talk()
        answer = await kit.forward(BOB, DATA, GENERAL, RANDOM, ref_id=b"forwarded")
        assert answer.reference == m.BlobReference(
            blob_of(DATA),
            40,
            BUCKET.principal,
            uid_of(BOB),
            (RANDOM.principal,),
            b"forwarded",
        )
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.used(BOB)) == (40, 40)
        keys = {
            ALICE: kit.key_of(DATA, ALICE, GENERAL),
            BOB: kit.key_of(DATA, BOB, RANDOM, ref_id=b"forwarded"),
        }
        second = BOB if first is ALICE else ALICE
        assert await kit.remove(first, keys[first]) == [""]
        await kit.talk()
        assert (kit.index.used(first), kit.index.used(second)) == (0, 40)
        assert await kit.remove(second, keys[second]) == [""]
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.used(BOB)) == (0, 0)
        assert kit.stored == set()


async def test_an_owner_forwards_its_own_without_a_token() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        await kit.talk()
        await kit.forward(ALICE, DATA, ALICE, RANDOM)
        assert await kit.readable(CAROL, RANDOM, DATA)
        await kit.talk()
        assert kit.index.used(ALICE) == 40
        with pytest.raises(NotFoundError):
            await kit.forward(BOB, DATA, BOB, RANDOM)


async def test_b18_b61_a_forward_without_access_says_the_same_as_for_an_absent_blob() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        told = []
        for data in (DATA, SMALL):
            grant = kit.grant(BOB, data)
            for chat, token in (
                (RANDOM, kit.token(RANDOM, BOB)),
                (GENERAL, b""),
                (GENERAL, b"nonsense"),
                (GENERAL, kit.token(RANDOM, BOB)),
                (BOB, b""),
            ):
                request = m.AddReference(grant, chat.principal, token, (RANDOM.principal,))
                with pytest.raises(NotFoundError) as refused:
                    await kit.ask(BOB, request)
                told.append((refused.value.message, tuple(refused.value.details)))
        assert len(set(told)) == 1


async def test_a_forward_states_the_stored_size() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        for size in (0, 39, 41):
            grant = kit.grant(BOB, DATA, size=size, reserved=size)
            with pytest.raises(GrantInvalidError):
                await kit.forward(BOB, DATA, GENERAL, RANDOM, grant=grant)
        await kit.talk()
        assert kit.index.used(BOB) == 0


async def test_b53_a_forward_uses_its_grant_up() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        grant = kit.grant(BOB, DATA)
        first = await kit.forward(BOB, DATA, GENERAL, RANDOM, grant=grant)
        assert await kit.forward(BOB, DATA, GENERAL, RANDOM, grant=grant) == first
        with pytest.raises(GrantClosedError):
            await kit.forward(BOB, DATA, GENERAL, RANDOM, grant=grant, ref_id=b"2")
        with pytest.raises(GrantClosedError):
            await kit.push(BOB, grant, 0, pieces(DATA)[0])
        await kit.remove(BOB, kit.key_of(DATA, BOB, RANDOM))
        with pytest.raises(GrantClosedError):
            await kit.forward(BOB, DATA, GENERAL, RANDOM, grant=grant)
        await kit.talk()
        assert kit.index.used(BOB) == 0


async def test_a_forward_under_a_grant_with_an_upload_ends_the_upload() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        grant = kit.grant(BOB, DATA)
        await kit.push(BOB, grant, 0, pieces(DATA)[0])
        await kit.forward(BOB, DATA, GENERAL, RANDOM, grant=grant)
        with pytest.raises(NotFoundError):
            await kit.ask(BOB, m.UploadStatus(blob_of(DATA)))
        await kit.talk()
        assert len(list(kit.bucket.store.durable.scan(b"C"))) == 3
        assert kit.index.used(BOB) == 40


async def test_b55_a_burned_accessor_is_forwarded_neither_from_nor_to() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL, RANDOM)
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        await kit.bucket.sync.poll_feed(kit.index, 0)
        with pytest.raises(AccessorDeletedError):
            await kit.forward(BOB, DATA, RANDOM, GENERAL)
        with pytest.raises(NotFoundError):
            await kit.forward(BOB, DATA, GENERAL, RANDOM)


async def test_b55_a_replayed_feed_brings_nothing_back() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        await kit.talk()
        kit.index.tell(
            e.UserChanged(uid_of(ALICE), ALICE.principal, 1, 0),
            e.AccessorDeleted(GENERAL.principal),
        )
        await kit.talk()
        with pytest.raises(AccessorDeletedError):
            await kit.upload(BOB, DATA, GENERAL)
    async with kit.running():
        assert kit.bucket.desk.durable.burned(GENERAL.principal)
        with pytest.raises(AccessorDeletedError):
            await kit.upload(BOB, DATA, GENERAL)


async def test_b56_one_file_posted_twice_and_by_two() -> None:
    async with Kit().running() as kit:
        for user, ref_id in ((ALICE, b"1"), (ALICE, b"2"), (BOB, b"1")):
            await kit.upload(user, DATA, GENERAL, ref_id=ref_id)
            await kit.talk()
        keys = [
            kit.key_of(DATA, user, GENERAL, ref_id=ref_id)
            for user, ref_id in ((ALICE, b"1"), (ALICE, b"2"), (BOB, b"1"))
        ]
        assert (kit.index.used(ALICE), kit.index.used(BOB)) == (40, 40)
        assert await kit.remove(ALICE, keys[0]) == [""]
        await kit.talk()
        assert await kit.readable(CAROL, GENERAL, DATA)
        assert kit.index.used(ALICE) == 40
        assert await kit.remove(ALICE, keys[1]) == [""]
        await kit.talk()
        assert await kit.readable(CAROL, GENERAL, DATA)
        assert (kit.index.used(ALICE), kit.index.used(BOB)) == (0, 40)
        assert await kit.remove(BOB, keys[2]) == [""]
        assert not await kit.readable(CAROL, GENERAL, DATA)


async def test_adding_a_reference_again_changes_nothing() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL, content_type="image/png", filename="a.png")
        await kit.talk()
        kit.clock.time += 5
        await kit.upload(ALICE, SMALL, GENERAL, content_type="text/html")
        reader = await kit.reader(BOB, GENERAL, SMALL)
        assert (reader.content_type, reader.filename) == ("image/png", "a.png")
        assert reader.created_at == NOW
        assert kit.bucket.desk.state.reference_count(uid_of(ALICE)) == 1


async def test_an_expired_reference_gives_way_to_a_new_one() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL, expires_at=NOW + 10)
        await kit.talk()
        kit.clock.time += 10
        grant = kit.grant(ALICE, SMALL, reserved=len(SMALL))
        await kit.push(ALICE, grant, 0, SMALL, accessors=(GENERAL.principal,), filename="new")
        reader = await kit.reader(BOB, GENERAL, SMALL)
        assert reader.filename == "new"
        await kit.talk()
        assert await kit.readable(BOB, GENERAL, SMALL)
        assert kit.index.used(ALICE) == len(SMALL)


@pytest.mark.slow
async def test_expired_references_are_swept_and_refunded() -> None:
    async with Kit().running() as kit:
        count = sweeps.REFERENCES_MAX * 2 + 1
        for number in range(count):
            await kit.upload(ALICE, bytes([number]), GENERAL, expires_at=NOW + 10)
        await kit.talk()
        assert kit.index.used(ALICE) == count
        kit.clock.time += 10
        assert not await kit.readable(BOB, GENERAL, b"\0")
        await kit.talk()
        assert kit.index.used(ALICE) == 0
        assert kit.stored == set()
        assert not list(kit.bucket.store.durable.scan(b"E"))


async def test_removing_an_expired_reference_is_not_found_and_removes_it() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL, expires_at=NOW + 10)
        kit.clock.time += 10
        assert await kit.remove(ALICE, kit.key_of(SMALL, ALICE, GENERAL)) == ["not_found"]
        assert kit.stored == set()


async def test_an_owner_removes_its_own_and_nobody_elses() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        reference = kit.key_of(SMALL, ALICE, GENERAL)
        assert await kit.remove(BOB, reference) == ["not_found"]
        assert await kit.remove(ALICE, kit.key_of(SMALL, ALICE, RANDOM)) == ["not_found"]
        assert await kit.remove(ALICE, kit.key_of(SMALL, ALICE, GENERAL, ref_id=b"x")) == [
            "not_found"
        ]
        assert await kit.remove(ALICE, reference, reference) == ["", "not_found"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, ""),
        ({"scope": Scope.READ, "blob": None, "owner": None, "ref_id": None}, "token_invalid"),
        ({"blob": blob_of(b"another")}, "token_invalid"),
        ({"owner": uid_of(BOB)}, "token_invalid"),
        ({"ref_id": b"another"}, "token_invalid"),
        ({"caller": CAROL.principal}, "token_invalid"),
        ({"cluster": ClusterId(bytes(16))}, "token_invalid"),
        ({"issued_at": NOW - 200, "expires_at": NOW - 150}, "token_expired"),
    ],
)
async def test_a_deletion_token_names_all_it_deletes(change: dict, code: str) -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        token = kit.deletion(GENERAL, BOB, SMALL, ALICE, **change)
        assert await kit.remove(BOB, kit.key_of(SMALL, ALICE, GENERAL, token=token)) == [code]
        assert await kit.readable(BOB, GENERAL, SMALL) is (code != "")


async def test_a_deletion_token_of_another_chat_is_refused() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        token = kit.deletion(RANDOM, BOB, SMALL, ALICE)
        key = kit.key_of(SMALL, ALICE, GENERAL, token=token)
        assert await kit.remove(BOB, key) == ["token_invalid"]
        assert await kit.remove(BOB, replace(key, accessor=RANDOM.principal)) == ["not_found"]
        assert await kit.remove(BOB, key) == ["token_invalid"]


async def test_b62_a_single_use_token_gives_its_first_result_again() -> None:
    kit = Kit()
    async with kit.running():
        await kit.upload(ALICE, SMALL, GENERAL)
        cti = b"c" * 16
        token = kit.deletion(GENERAL, BOB, SMALL, ALICE, cti=cti)
        key = kit.key_of(SMALL, ALICE, GENERAL, token=token)
        assert await kit.remove(BOB, key) == [""]
        assert await kit.remove(BOB, key) == [""]
        await kit.talk()
        # It is used up: a reference made afterwards stays.
        await kit.upload(ALICE, SMALL, GENERAL)
        assert await kit.remove(BOB, key) == [""]
        assert await kit.readable(BOB, GENERAL, SMALL)
    async with kit.running():
        assert await kit.remove(BOB, key) == [""]
        assert await kit.readable(BOB, GENERAL, SMALL)
        await kit.upload(ALICE, DATA, GENERAL)
        other = kit.deletion(GENERAL, BOB, DATA, ALICE, cti=cti)
        assert await kit.remove(BOB, kit.key_of(DATA, ALICE, GENERAL, token=other)) == [
            "token_invalid"
        ]
        # Another chat's token may have the same cti.
        await kit.upload(ALICE, DATA, RANDOM)
        same = kit.deletion(RANDOM, BOB, DATA, ALICE, cti=cti)
        assert await kit.remove(BOB, kit.key_of(DATA, ALICE, RANDOM, token=same)) == [""]


async def test_b62_a_result_that_changed_nothing_is_not_kept() -> None:
    async with Kit().running() as kit:
        token = kit.deletion(GENERAL, BOB, SMALL, ALICE)
        key = kit.key_of(SMALL, ALICE, GENERAL, token=token)
        assert await kit.remove(BOB, key) == ["not_found"]
        await kit.upload(ALICE, SMALL, GENERAL)
        assert await kit.remove(BOB, key) == [""]


async def test_used_tokens_are_forgotten_once_their_time_refuses_them() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        token = kit.deletion(GENERAL, BOB, SMALL, ALICE)
        key = kit.key_of(SMALL, ALICE, GENERAL, token=token)
        await kit.remove(BOB, key)
        kit.clock.time += 119
        await kit.sweep()
        assert await kit.remove(BOB, key) == [""]
        kit.clock.time += 2
        await kit.sweep()
        assert not list(kit.bucket.store.state.scan(b"T"))
        assert not list(kit.bucket.store.state.scan(b"Y"))
        assert await kit.remove(BOB, key) == ["token_expired"]
