"""Who may read what, through which word, and for how long."""

from __future__ import annotations

import pytest

from ostnode.errors import (
    BusyError,
    NotFoundError,
    OstError,
    UnauthenticatedError,
    UnknownCallError,
)
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import Scope
from ostnode.ids import ClusterId
from ostnode.roles.bucket.core import reading
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import NOBODY, Caller
from tests.support.bucketkit import (
    ALICE,
    BOB,
    CAROL,
    GENERAL,
    NOW,
    RANDOM,
    Kit,
    blob_of,
    uid_of,
)

DATA = bytes(range(40))
ABSENT = b"absent"


async def refusal(kit: Kit, caller: Caller, chat, data: bytes, token: bytes) -> tuple | None:
    """What a refused read tells; None when it is allowed."""
    try:
        await kit.service.open_blob(caller, chat.principal, blob_of(data), token)
    except OstError as error:
        return type(error), error.message, tuple(error.details)
    return None


@pytest.mark.parametrize(
    "wrong",
    [
        {"cluster": ClusterId(bytes(16))},
        {"issued_at": NOW - 1000, "expires_at": NOW - 100},
        {"issued_at": NOW + 100},
        {"issued_at": NOW, "expires_at": NOW + 3601},
        {"caller": CAROL.principal},
        {"blob": blob_of(b"another")},
        {
            "scope": Scope.REF_DEL,
            "blob": blob_of(DATA),
            "owner": uid_of(ALICE),
            "ref_id": b"",
            "expires_at": NOW + 60,
        },
        {"scope": Scope.ACC_DEL, "expires_at": NOW + 60},
    ],
)
async def test_b17_each_claim_violated_alone_is_the_same_404(wrong: dict) -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        bob = Caller(BOB.principal)
        good = kit.token(GENERAL, BOB)
        assert await refusal(kit, bob, GENERAL, DATA, good) is None
        told = await refusal(kit, bob, GENERAL, DATA, kit.token(GENERAL, BOB, **wrong))
        assert told == (NotFoundError, "not found", ())
        assert told == await refusal(kit, bob, GENERAL, ABSENT, good)


async def test_b17_everything_else_violated_alone_is_the_same_404() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        bob, carol = Caller(BOB.principal), Caller(CAROL.principal)
        good = kit.token(GENERAL, BOB)
        told = [
            await refusal(kit, NOBODY, GENERAL, DATA, good),
            await refusal(kit, carol, GENERAL, DATA, good),
            await refusal(kit, bob, RANDOM, DATA, good),
            await refusal(kit, bob, RANDOM, DATA, kit.token(RANDOM, BOB)),
            await refusal(kit, bob, GENERAL, DATA, b""),
            await refusal(kit, bob, GENERAL, DATA, b"nonsense"),
            await refusal(kit, bob, GENERAL, DATA, good[:-1] + bytes([good[-1] ^ 1])),
            await refusal(kit, bob, GENERAL, DATA, bytes(1025)),
            await refusal(kit, bob, BOB, DATA, b""),
            await refusal(kit, bob, ALICE, DATA, b""),
        ]
        assert told == [(NotFoundError, "not found", ())] * len(told)
        # Remembered tokens are compared with each request all the same.
        assert await refusal(kit, bob, GENERAL, DATA, good) is None
        assert await refusal(kit, bob, RANDOM, DATA, good) is not None
        assert await refusal(kit, carol, GENERAL, DATA, good) is not None


async def test_an_owner_without_a_token_reads_in_its_own_name_only() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        alice = Caller(ALICE.principal)
        assert await refusal(kit, alice, ALICE, DATA, b"") is None
        assert await refusal(kit, alice, GENERAL, DATA, b"") is not None


async def test_b17_a_bound_token_reads_its_blob() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        bound = kit.token(GENERAL, BOB, blob=blob_of(DATA))
        assert await refusal(kit, Caller(BOB.principal), GENERAL, DATA, bound) is None


async def test_b18_knowing_a_hash_tells_nothing() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        bob = Caller(BOB.principal)
        token = kit.token(RANDOM, BOB)
        assert await refusal(kit, bob, RANDOM, DATA, token) == await refusal(
            kit, bob, RANDOM, ABSENT, token
        )
        for request in (m.BlobInfoRequest, lambda *args: m.ReadBlob(*args[:2], 0, 9, args[2])):
            for data in (DATA, ABSENT):
                with pytest.raises(NotFoundError):
                    await kit.ask(BOB, request(RANDOM.principal, blob_of(data), token))


async def test_b18_info_tells_of_the_reference_and_not_of_the_blobs_past() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, RANDOM, filename="secret plan", content_type="a/b")
        kit.clock.time += 1000
        await kit.upload(BOB, DATA, GENERAL, ref_id=b"1")
        await kit.upload(BOB, DATA, GENERAL, ref_id=b"2")
        request = m.BlobInfoRequest(GENERAL.principal, blob_of(DATA), kit.token(GENERAL, BOB))
        assert await kit.ask(BOB, request) == m.BlobInfo(40, "", None, NOW + 1000, 2)
        owner = m.BlobInfoRequest(ALICE.principal, blob_of(DATA))
        assert await kit.ask(ALICE, owner) == m.BlobInfo(40, "a/b", "secret plan", NOW, 1)


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 40), (0, 1), (3, 13), (15, 2), (16, 16), (10, 30), (39, 9), (40, 1)]
)
async def test_read_blob_reads_across_chunks(offset: int, length: int) -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        token = kit.token(GENERAL, BOB)
        request = m.ReadBlob(GENERAL.principal, blob_of(DATA), offset, length, token)
        reply = await kit.service.handle(Caller(BOB.principal), request)
        assert bytes(reply.body) == DATA[offset : offset + length]
        assert reply.message.size == 40


async def test_b21_a_read_ends_as_soon_as_its_reference_does() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        reader = await kit.reader(BOB, GENERAL, DATA)
        assert bytes(await reader.read(0, 16)) == DATA[:16]
        await kit.remove(ALICE, kit.key_of(DATA, ALICE, GENERAL))
        with pytest.raises(NotFoundError):
            await reader.read(16, 16)


async def test_b21_a_read_ends_when_its_reference_expires_or_its_chat_is_deleted() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL, expires_at=NOW + 10)
        await kit.upload(BOB, DATA, RANDOM)
        expiring = await kit.reader(BOB, GENERAL, DATA)
        deleted = await kit.reader(CAROL, RANDOM, DATA)
        kit.clock.time += 10
        kit.index.tell(e.AccessorDeleted(RANDOM.principal))
        await kit.bucket.sync.poll_feed(kit.index, 0)
        for reader in (expiring, deleted):
            with pytest.raises(NotFoundError):
                await reader.read(0, 16)


async def test_a_read_goes_on_through_another_reference_of_the_same_chat() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        await kit.upload(BOB, DATA, GENERAL)
        reader = await kit.reader(CAROL, GENERAL, DATA)
        for user in (ALICE, BOB):
            assert bytes(await reader.read(0, 16)) == DATA[:16]
            await kit.remove(user, kit.key_of(DATA, user, GENERAL))
        with pytest.raises(NotFoundError):
            await reader.read(0, 16)


async def test_a_read_goes_on_when_the_blob_was_dropped_and_stored_again() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        reader = await kit.reader(CAROL, GENERAL, DATA)
        await kit.remove(ALICE, kit.key_of(DATA, ALICE, GENERAL))
        await kit.talk()
        await kit.upload(ALICE, DATA, GENERAL)
        assert bytes(await reader.read(0, 40)) == DATA


async def test_a_deleted_users_references_are_not_served_before_the_sweep() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        kit.index.tell(e.UserChanged(uid_of(ALICE), ALICE.principal, 2, 0, deleted=True))
        await kit.bucket.sync.poll_feed(kit.index, 0)
        assert not await kit.readable(BOB, GENERAL, DATA)
        assert not await kit.readable(ALICE, ALICE, DATA)


async def test_a_blocked_principal_reads_nothing_until_it_is_unblocked() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        # The last event is older than what is known by then.
        for version, blocked, expected in ((1, True, False), (2, False, True), (1, True, True)):
            kit.index.tell(e.PrincipalBlocked(BOB.principal, blocked, version))
            await kit.talk()
            assert await kit.readable(BOB, GENERAL, DATA) is expected


async def test_nobody_and_calls_of_the_index_are_refused() -> None:
    async with Kit().running() as kit:
        with pytest.raises(UnauthenticatedError):
            await kit.service.handle(NOBODY, m.UploadStatus(blob_of(DATA)))
        with pytest.raises(UnknownCallError):
            await kit.service.handle(Caller(BOB.principal), m.GetUser())


async def test_b50_a_read_counts_few_of_the_readers_references() -> None:
    chats = [KeyPair.from_seed(bytes([number]) * 32) for number in range(64)]
    async with Kit().running() as kit:
        for number in range(5):
            await kit.upload(ALICE, DATA, *chats, ref_id=bytes([number]))
            await kit.talk()
        request = m.BlobInfoRequest(ALICE.principal, blob_of(DATA))
        info = await kit.ask(ALICE, request)
        assert isinstance(info, m.BlobInfo)
        assert info.own_references == 256


async def test_a_read_looks_at_a_bounded_number_of_references(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """References that wait for the sweep could hold every reader of the blob for seconds."""
    monkeypatch.setattr(reading, "_LOOKED_AT_MAX", 2)
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL, expires_at=NOW + 10)
        for ref_id in (b"1", b"2"):
            await kit.upload(ALICE, DATA, GENERAL, ref_id=ref_id, expires_at=NOW + 10)
        await kit.upload(BOB, DATA, RANDOM)
        assert await kit.readable(CAROL, GENERAL, DATA)
        kit.clock.time = NOW + 11
        with pytest.raises(BusyError):
            await kit.reader(CAROL, GENERAL, DATA)
        with pytest.raises(BusyError):
            await kit.reader(ALICE, ALICE, DATA)
        await kit.sweep()
        assert not await kit.readable(CAROL, GENERAL, DATA)
        assert await kit.readable(CAROL, RANDOM, DATA)


@pytest.mark.parametrize("again", [False, True])
async def test_b21_a_blob_dropped_between_two_chunks_of_a_slice_is_gone_not_damaged(
    monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        reader = await kit.reader(BOB, GENERAL, DATA)
        read = kit.bucket.store.read

        async def read_and_drop(*args: object):
            monkeypatch.undo()
            data = await read(*args)
            assert await kit.remove(ALICE, kit.key_of(DATA, ALICE, GENERAL)) == [""]
            await kit.sweep()
            await kit.talk()
            if again:
                await kit.upload(ALICE, DATA, GENERAL)
            return data

        monkeypatch.setattr(kit.bucket.store, "read", read_and_drop)
        with pytest.raises(NotFoundError):
            await reader.read(0, len(DATA))
