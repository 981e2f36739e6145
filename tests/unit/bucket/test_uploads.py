"""push_chunk, from the first byte to the completion."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
import trio

from ostnode.env import InlineWorker
from ostnode.errors import (
    AccessorDeletedError,
    AllowanceExceededError,
    BlobTooLargeError,
    BucketFullError,
    BusyError,
    ChunkOutOfRangeError,
    ChunkSizeMismatchError,
    GrantClosedError,
    GrantExpiredError,
    GrantInvalidError,
    HashMismatchError,
    InvalidArgumentError,
    NotAuthorizedError,
    NotFoundError,
    OstError,
    UploadConflictError,
    UserUnknownError,
    WrongBucketError,
)
from ostnode.ids import NULL_ACCESSOR, GrantId, Uid
from ostnode.roles.bucket.core import admission
from ostnode.roles.bucket.hashing import THREAD_FROM_BYTES, hash_of
from ostnode.roles.bucket.tables import chunk_key
from ostnode.wire import events as e
from ostnode.wire import messages as m
from tests.support.bucketkit import (
    ALICE,
    BOB,
    BUCKET,
    CAROL,
    GENERAL,
    NOW,
    OPTIONS,
    RANDOM,
    Kit,
    blob_of,
    pieces,
    uid_of,
)

DATA = bytes(range(40))
"""Three chunks: 16, 16 and 8 bytes."""
FIRST, SECOND, LAST = pieces(DATA)
SMALL = b"one chunk"


async def test_the_answers_count_down_and_the_last_names_the_reference() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        said = {"accessors": (GENERAL.principal,), "ref_id": b"message-1"}
        answers = [await kit.push(ALICE, grant, i, c, **said) for i, c in enumerate(pieces(DATA))]
        assert [answer.missing for answer in answers] == [2, 1, 0]
        reference = m.BlobReference(
            blob_of(DATA), 40, BUCKET.principal, uid_of(ALICE), (GENERAL.principal,), b"message-1"
        )
        assert [answer.reference for answer in answers] == [None, None, reference]
        assert await kit.readable(BOB, GENERAL, DATA)


@pytest.mark.parametrize("wrong", [b"", FIRST[:-1], FIRST + b"+"])
async def test_b02_wrong_size_does_not_take_the_slot(wrong: bytes) -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        await kit.push(ALICE, grant, 1, SECOND)
        with pytest.raises(ChunkSizeMismatchError) as refused:
            await kit.push(ALICE, grant, 0, wrong)
        assert refused.value.details == {"expected": 16, "got": len(wrong)}
        await kit.push(ALICE, grant, 2, LAST)
        assert (await kit.push(ALICE, grant, 0, FIRST)).missing == 0


@pytest.mark.parametrize(
    ("index", "body", "refusal"),
    [
        (0, FIRST[:-1], ChunkSizeMismatchError),
        (2, FIRST, ChunkSizeMismatchError),
        (3, FIRST, ChunkOutOfRangeError),
        (2**32 - 1, b"", ChunkOutOfRangeError),
    ],
)
async def test_b03_b04_first_chunk_is_checked_like_the_rest(
    index: int, body: bytes, refusal: type[OstError]
) -> None:
    async with Kit().running() as kit:
        for before in (False, True):
            grant = kit.grant(ALICE, DATA)
            if before:
                await kit.push(ALICE, grant, 0, FIRST)
            with pytest.raises(refusal):
                await kit.push(ALICE, grant, index, body)
            # Nothing was opened for a refused first chunk.
            opened = kit.bucket.desk.state.grant(list(kit.index.grants)[-1])
            assert (opened is not None) is before


async def test_b04_a_chunk_behind_the_only_one_is_out_of_range() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, SMALL)
        with pytest.raises(ChunkOutOfRangeError):
            await kit.push(ALICE, grant, 1, b"")
        assert (await kit.push(ALICE, grant, 0, SMALL)).missing == 0


async def test_b05_an_empty_blob_round_trips() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, b"", GENERAL)
        assert await kit.readable(BOB, GENERAL, b"")
        await kit.talk()
        assert kit.index.charges == {(uid_of(ALICE), blob_of(b"")): 0}
        # Its grant reserves nothing, which must not pass for one that needs a charge.
        await kit.upload(BOB, b"", GENERAL)
        await kit.remove(ALICE, kit.key_of(b"", ALICE, GENERAL))
        assert await kit.readable(BOB, GENERAL, b"")


async def test_b05_no_chunk_size_and_huge_sizes_allocate_nothing() -> None:
    async with Kit().running() as kit:
        with pytest.raises(GrantInvalidError):
            await kit.push(ALICE, kit.grant(ALICE, DATA, chunk_bytes=0), 0, FIRST)
        huge = 1 << 62
        with pytest.raises(BlobTooLargeError):
            await kit.push(ALICE, kit.grant(ALICE, DATA, size=huge, reserved=huge), 0, FIRST)
        assert kit.bucket.desk.state.uploads(0, 1) == []


@pytest.mark.parametrize(
    "change",
    [
        {"accessors": (RANDOM.principal,)},
        {"accessors": ()},
        {"ref_id": b"another"},
        {"content_type": "text/html"},
        {"filename": "b.png"},
        {"filename": None},
        {"expires_at": NOW + 9},
    ],
)
async def test_b06_an_altered_chunk_is_refused_and_harms_nothing(change: dict) -> None:
    said = {
        "accessors": (GENERAL.principal,),
        "ref_id": b"r",
        "content_type": "image/png",
        "filename": "a.png",
        "expires_at": NOW + 10,
    }
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        await kit.push(ALICE, grant, 0, FIRST, **said)
        with pytest.raises(UploadConflictError):
            await kit.push(ALICE, grant, 1, SECOND, **(said | change))
        await kit.push(ALICE, grant, 1, SECOND, **said)
        assert (await kit.push(ALICE, grant, 2, LAST, **said)).missing == 0


@pytest.mark.parametrize(
    "change", [{"size": 41, "reserved": 41}, {"chunk_bytes": 20}, {"uid": Uid(b"another.")}]
)
async def test_b06_a_grant_that_changed_its_words_is_refused(change: dict) -> None:
    async with Kit().running() as kit:
        claims = kit.claims(ALICE, DATA)
        await kit.push(ALICE, kit.sign(claims), 0, FIRST)
        changed = kit.sign(replace(claims, **change))
        with pytest.raises((UploadConflictError, ChunkSizeMismatchError)):
            await kit.push(ALICE, changed, 1, SECOND)


async def test_b06_a_foreign_chunk_is_refused() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        await kit.push(ALICE, grant, 0, FIRST)
        with pytest.raises(GrantInvalidError):
            await kit.push(BOB, grant, 1, b"\0" * 16)
        await kit.push(ALICE, grant, 1, SECOND)
        assert (await kit.push(ALICE, grant, 2, LAST)).missing == 0


async def test_b07_a_duplicate_chunk_is_idempotent() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        for _ in range(2):
            assert (await kit.push(ALICE, grant, 0, FIRST)).missing == 2
        # What is received is received: the bytes of a duplicate are not looked at.
        assert (await kit.push(ALICE, grant, 0, b"\0" * 16)).missing == 2
        await kit.push(ALICE, grant, 1, SECOND)
        answers = [await kit.push(ALICE, grant, 2, LAST) for _ in range(3)]
        assert answers[0].reference is not None
        assert answers == [answers[0]] * 3
        await kit.talk()
        assert [type(event) for event in kit.index.events] == [e.Completed, e.FloorRaised]


async def test_b07_a_lost_completion_is_answered_again_for_any_chunk_said_alike() -> None:
    async with Kit().running() as kit:
        grant = await kit.upload(ALICE, DATA, GENERAL)
        accessors = (GENERAL.principal,)
        again = await kit.push(ALICE, grant, 0, FIRST, accessors=accessors)
        assert again.reference is not None
        with pytest.raises(GrantClosedError) as refused:
            await kit.push(ALICE, grant, 0, FIRST, accessors=accessors, content_type="text/plain")
        assert refused.value.details == {"reason": "completed"}
        await kit.remove(ALICE, kit.key_of(DATA, ALICE, GENERAL))
        with pytest.raises(GrantClosedError):
            await kit.push(ALICE, grant, 0, FIRST, accessors=accessors)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
async def test_b08_any_order(order: tuple[int, ...]) -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        missing = [(await kit.push(ALICE, grant, i, pieces(DATA)[i])).missing for i in order]
        assert missing == [2, 1, 0]


async def test_b08_several_last_chunks_at_once_complete_once() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        answers = []

        async def push(index: int, body: bytes) -> None:
            answers.append(await kit.push(ALICE, grant, index, body))

        async with trio.open_nursery() as nursery:
            for index, body in [*enumerate(pieces(DATA))] * 4:
                nursery.start_soon(push, index, body)
        complete = [answer for answer in answers if answer.missing == 0]
        assert len(complete) >= 4
        assert len({answer.reference for answer in complete}) == 1
        await kit.talk()
        assert [type(event) for event in kit.index.events] == [e.Completed, e.FloorRaised]


async def test_b09_a_wrong_hash_ends_grant_and_chunks_and_nothing_else() -> None:
    async with Kit().running() as kit:
        good, bad = kit.grant(ALICE, DATA), kit.grant(BOB, DATA)
        await kit.push(ALICE, good, 0, FIRST)
        for index, body in enumerate([b"\0" * 16, SECOND]):
            await kit.push(BOB, bad, index, body)
        assert kit.index.reserved(BOB) == 40
        with pytest.raises(HashMismatchError):
            await kit.push(BOB, bad, 2, LAST)
        with pytest.raises(GrantClosedError) as refused:
            await kit.push(BOB, bad, 0, FIRST)
        assert refused.value.details == {"reason": "hash_mismatch"}
        await kit.push(ALICE, good, 1, SECOND)
        assert (await kit.push(ALICE, good, 2, LAST)).missing == 0
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.reserved(BOB), kit.index.used(BOB)) == (40, 0, 0)
        assert len(list(kit.bucket.store.durable.scan(b"C"))) == 3


async def test_b09_a_wrong_hash_in_one_chunk() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, SMALL)
        with pytest.raises(HashMismatchError):
            await kit.push(ALICE, grant, 0, SMALL[::-1])
        with pytest.raises(GrantClosedError):
            await kit.push(ALICE, grant, 0, SMALL)
        await kit.talk()
        assert (kit.index.reserved(ALICE), kit.index.used(ALICE)) == (0, 0)
        assert not list(kit.bucket.store.durable.scan(b"C"))


@pytest.mark.parametrize("data", [DATA, SMALL])
async def test_b11_two_users_one_copy_two_references_two_charges(data: bytes) -> None:
    async with Kit().running() as kit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kit.upload, ALICE, data, GENERAL)
            nursery.start_soon(kit.upload, BOB, data, RANDOM)
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.used(BOB)) == (len(data), len(data))
        assert kit.stored == {blob_of(data)}
        assert len(list(kit.bucket.store.durable.scan(b"C"))) == len(pieces(data))
        assert await kit.readable(BOB, GENERAL, data)
        assert await kit.readable(ALICE, RANDOM, data)


async def test_chunks_of_a_stored_blob_are_matched_and_not_stored_again() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        grant = kit.grant(BOB, DATA)
        await kit.push(BOB, grant, 0, FIRST)
        row = kit.bucket.store.state.get(chunk_key(number_of(kit, BOB), 0))
        assert row is not None
        assert row[:1] == b"\x01"
        # The last reference goes while the upload leans on the copy: the copy stays.
        await kit.remove(ALICE, kit.key_of(DATA, ALICE, GENERAL))
        await kit.sweep()
        assert kit.stored == {blob_of(DATA)}
        assert not await kit.readable(BOB, GENERAL, DATA)
        for index in (1, 2):
            await kit.push(BOB, grant, index, pieces(DATA)[index])
        await kit.sweep()
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.used(BOB)) == (0, 40)


def number_of(kit: Kit, user) -> int:
    (number,) = kit.bucket.desk.state.uploads_of(uid_of(user))
    return number


async def test_a_matched_upload_that_is_given_up_lets_the_copy_go() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        await kit.push(BOB, kit.grant(BOB, DATA), 0, FIRST)
        await kit.remove(ALICE, kit.key_of(DATA, ALICE, GENERAL))
        await kit.ask(BOB, m.CancelUpload(blob_of(DATA)))
        await kit.talk()
        assert kit.stored == set()
        assert not list(kit.bucket.store.durable.scan(b"C"))
        assert not list(kit.bucket.store.durable.scan(b"J"))


async def test_a_differing_chunk_of_a_stored_blob_looks_the_same_and_fails_at_the_end() -> None:
    async with Kit().running() as kit:
        answers = []
        for stored in (False, True):
            if stored:
                await kit.upload(ALICE, DATA, GENERAL)
            grant = kit.grant(BOB, DATA)
            answers.append([await kit.push(BOB, grant, 0, b"\0" * 16)])
            answers[-1].append(await kit.push(BOB, grant, 1, SECOND))
            with pytest.raises(HashMismatchError) as refused:
                await kit.push(BOB, grant, 2, LAST)
            answers[-1].append((refused.value.message, refused.value.details))
        assert answers[0] == answers[1]
        assert await kit.readable(BOB, GENERAL, DATA)


@pytest.mark.parametrize("end", ["complete", "cancel", "mismatch", "revoke"])
@pytest.mark.parametrize("data", [DATA, SMALL])
async def test_b53_a_dead_grant_stays_dead(end: str, data: bytes) -> None:
    async with Kit().running() as kit:
        claims = kit.claims(ALICE, data)
        grant = kit.sign(claims)
        if end == "complete":
            for index, body in enumerate(pieces(data)):
                await kit.push(ALICE, grant, index, body)
            assert await kit.remove(ALICE, kit.key_of(data, ALICE, None)) == [""]
        elif end == "mismatch":
            *others, (index, body) = enumerate(pieces(data))
            for other, chunk in others:
                await kit.push(ALICE, grant, other, chunk)
            with pytest.raises(HashMismatchError):
                await kit.push(ALICE, grant, index, b"\0" * len(body))
        else:
            if data == DATA:
                await kit.push(ALICE, grant, 0, FIRST)
            event = e.GrantRevoked(claims.grant_id, claims.uid, claims.blob_id, claims.expires_at)
            if end == "revoke" or data == SMALL:
                kit.index.tell(event)
                await kit.talk()
            else:
                await kit.ask(ALICE, m.CancelUpload(claims.blob_id))
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.reserved(ALICE)) == (0, 0)
        renewed = kit.sign(replace(claims, expires_at=claims.expires_at + 600))
        for shown in (grant, renewed):
            for index, body in enumerate(pieces(data)):
                with pytest.raises(GrantClosedError):
                    await kit.push(ALICE, shown, index, body)
        await kit.talk()
        assert kit.index.used(ALICE) == 0
        assert kit.stored == set()


@pytest.mark.parametrize("data", [DATA, SMALL])
async def test_b54_a_grant_that_leans_on_a_charge_needs_its_reference(data: bytes) -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, data, GENERAL)
        await kit.talk()
        leaning = kit.grant(ALICE, data)
        second = kit.grant(ALICE, data)
        assert kit.index.reserved(ALICE) == 0
        accessors = (RANDOM.principal,)
        for index, body in enumerate(pieces(data)):
            await kit.push(ALICE, leaning, index, body, accessors=accessors)
        keys = [kit.key_of(data, ALICE, chat) for chat in (GENERAL, RANDOM)]
        assert await kit.remove(ALICE, *keys) == ["", ""]
        with pytest.raises(GrantClosedError) as refused:
            await kit.push(ALICE, second, 0, pieces(data)[0], accessors=accessors)
        assert refused.value.details == {"reason": "not_held"}
        await kit.talk()
        assert kit.index.used(ALICE) == 0
        assert [reason for _, reason in kit.index.closings()] == ["not_held"]


async def test_b54_the_reference_goes_while_the_hash_is_checked() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL)
        await kit.talk()
        leaning = kit.grant(ALICE, DATA)
        for index in (0, 1):
            await kit.push(ALICE, leaning, index, pieces(DATA)[index])
        read = kit.bucket.store.read

        async def slow_read(extent):
            await kit.remove(ALICE, kit.key_of(DATA, ALICE, GENERAL))
            return await read(extent)

        kit.bucket.store.read = slow_read
        with pytest.raises(GrantClosedError) as refused:
            await kit.push(ALICE, leaning, 2, LAST)
        assert refused.value.details == {"reason": "not_held"}
        await kit.talk()
        assert kit.index.used(ALICE) == 0
        assert not kit.stored


async def test_many_expired_references_are_left_to_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "_REMOVED_MAX", 2)
    async with Kit().running() as kit:
        for ref_id in (b"1", b"2", b"3"):
            await kit.upload(ALICE, SMALL, GENERAL, ref_id=ref_id, expires_at=NOW + 10)
        await kit.talk()
        leaning = kit.grant(ALICE, SMALL)
        kit.clock.time += 10
        with pytest.raises(BusyError):
            await kit.push(ALICE, leaning, 0, SMALL)
        await kit.sweep()
        with pytest.raises(GrantClosedError):
            await kit.push(ALICE, leaning, 0, SMALL)


async def test_a_request_removes_no_more_references_than_a_slice_of_the_sweep() -> None:
    """Each removal looks over those before it: a thousand took four seconds of everybody's."""
    async with Kit().running() as kit:
        for ref_id in range(65):
            params = {"ref_id": bytes([ref_id]), "expires_at": NOW + 10}
            await kit.upload(ALICE, SMALL, GENERAL, **params)
        await kit.talk()
        leaning = kit.grant(ALICE, SMALL)
        kit.clock.time += 10
        with pytest.raises(BusyError):
            await kit.push(ALICE, leaning, 0, SMALL)
        assert kit.bucket.desk.state.reference_count(uid_of(ALICE)) == 65
        assert not list(kit.bucket.desk.state.outbox(1))


async def test_b54_an_expired_reference_holds_nothing() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL, expires_at=NOW + 10)
        await kit.talk()
        leaning = kit.grant(ALICE, SMALL)
        kit.clock.time += 10
        with pytest.raises(GrantClosedError):
            await kit.push(ALICE, leaning, 0, SMALL)
        kinds = [type(event) for event in kit.index.events]
        # Before any sweep: whoever touches it first removes it, with its event.
        while await kit.bucket.sync.send_batch(kit.index, ""):
            pass
        told = kit.index.events[len(kinds) :]
        assert [type(event) for event in told] == [e.Released, e.GrantClosed]
        assert kit.index.used(ALICE) == 0


async def test_b54_a_reference_in_a_deleted_chat_holds_nothing() -> None:
    """It goes before its charge does, though the chat has not been swept yet."""
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        await kit.talk()
        leaning = kit.grant(ALICE, SMALL)
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        await kit.bucket.sync.poll_feed(kit.index, 0)
        (name,) = kit.bucket.desk.state.references_of(uid_of(ALICE))
        assert kit.index.used(ALICE) == len(SMALL)
        with pytest.raises(GrantClosedError) as refused:
            await kit.push(ALICE, leaning, 0, SMALL, accessors=(RANDOM.principal,))
        assert refused.value.details == {"reason": "not_held"}
        assert kit.bucket.desk.state.reference(name) is None
        before = len(kit.index.events)
        while await kit.bucket.sync.send_batch(kit.index, ""):
            pass
        told = kit.index.events[before:]
        assert [type(event) for event in told] == [e.Released, e.GrantClosed]
        assert (kit.index.used(ALICE), kit.stored) == (0, set())
        await kit.sweep()
        await kit.talk()
        assert len(kit.index.events) == before + len(told)


async def test_b26_a_declared_size_that_is_not_the_real_one_charges_nobody() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        for size in (5, 15):
            grant = kit.grant(BOB, SMALL, size=size, reserved=size)
            with pytest.raises(ChunkSizeMismatchError):
                await kit.push(BOB, grant, 0, SMALL)
            with pytest.raises(HashMismatchError):
                await kit.push(BOB, grant, 0, SMALL.ljust(size)[:size])
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.used(BOB), kit.index.reserved(BOB)) == (9, 0, 0)
        assert await kit.readable(BOB, GENERAL, SMALL)


@pytest.mark.parametrize(
    "change",
    [
        {"bucket": ALICE.principal},
        {"bucket_incarnation": 5},
        {"user": BOB.principal},
        {"grant_id": GrantId(bytes(16))},
        {"expires_at": NOW - 61, "issued_at": NOW - 100},
    ],
)
async def test_a_grant_for_something_else_is_refused(change: dict) -> None:
    async with Kit().running() as kit:
        kit.index.tell(e.UserChanged(uid_of(BOB), BOB.principal, 1, 0))
        await kit.talk()
        with pytest.raises((GrantInvalidError, GrantExpiredError, WrongBucketError)):
            await kit.push(ALICE, kit.grant(ALICE, SMALL, **change), 0, SMALL)
        await kit.talk()
        assert (kit.stored, kit.index.closings()) == (set(), [])


async def test_a_grant_below_the_floor_is_refused_whatever_this_clock_says() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, SMALL)
        kit.clock.time += 3600
        await kit.talk()
        kit.clock.time -= 3600
        with pytest.raises(GrantExpiredError):
            await kit.push(ALICE, grant, 0, SMALL)
        assert kit.index.reserved(ALICE) == 0


async def test_a_completion_below_the_floor_is_refused(autojump_clock: trio.abc.Clock) -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        for index in (0, 1):
            await kit.push(ALICE, grant, index, pieces(DATA)[index])
        read = kit.bucket.store.read

        async def slow_read(extent):
            kit.clock.time += 3600
            await kit.bucket.sync.poll_feed(kit.index, 0)
            kit.clock.time -= 3600
            return await read(extent)

        kit.bucket.store.read = slow_read
        with pytest.raises(GrantExpiredError):
            await kit.push(ALICE, grant, 2, LAST)
        assert not kit.stored


async def test_a_renewed_grant_carries_its_upload_over_the_floor() -> None:
    async with Kit().running() as kit:
        claims = kit.claims(ALICE, DATA)
        await kit.push(ALICE, kit.sign(claims), 0, FIRST)
        renewed = kit.sign(replace(claims, expires_at=claims.expires_at + 3600))
        await kit.push(ALICE, renewed, 1, SECOND)
        kit.clock.time += 3700
        await kit.talk()
        status = await kit.ask(ALICE, m.UploadStatus(blob_of(DATA)))
        assert status.expires_at == NOW + 7200
        assert (await kit.push(ALICE, renewed, 2, LAST)).missing == 0
        await kit.talk()
        assert kit.index.used(ALICE) == 40


async def test_b55_a_burned_accessor_gets_nothing_from_an_upload_begun_before() -> None:
    async with Kit().running() as kit:
        both = (GENERAL.principal, RANDOM.principal)
        half, whole = kit.grant(ALICE, DATA), kit.grant(BOB, DATA)
        for grant, user, accessors in ((half, ALICE, both), (whole, BOB, both[:1])):
            for index in (0, 1):
                await kit.push(user, grant, index, pieces(DATA)[index], accessors=accessors)
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        await kit.talk()
        with pytest.raises(AccessorDeletedError):
            await kit.push(BOB, whole, 2, LAST, accessors=both[:1])
        answer = await kit.push(ALICE, half, 2, LAST, accessors=both)
        assert answer.reference is not None
        assert answer.reference.accessors == (RANDOM.principal,)
        assert not await kit.readable(CAROL, GENERAL, DATA)
        assert await kit.readable(CAROL, RANDOM, DATA)
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.used(BOB), kit.index.reserved(BOB)) == (40, 0, 0)
        assert (answer := await kit.push(ALICE, half, 0, FIRST, accessors=both)).missing == 0
        assert answer.reference.accessors == (RANDOM.principal,)


async def test_b55_burned_while_the_hash_was_checked() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        said = {"accessors": (GENERAL.principal,)}
        for index in (0, 1):
            await kit.push(ALICE, grant, index, pieces(DATA)[index], **said)
        read = kit.bucket.store.read

        async def slow_read(extent):
            kit.index.tell(e.AccessorDeleted(GENERAL.principal))
            await kit.bucket.sync.poll_feed(kit.index, 0)
            return await read(extent)

        kit.bucket.store.read = slow_read
        with pytest.raises(AccessorDeletedError):
            await kit.push(ALICE, grant, 2, LAST, **said)
        await kit.talk()
        assert kit.index.closings()[-1][1] == "accessor_deleted"
        assert not list(kit.bucket.store.durable.scan(b"C"))


@pytest.mark.parametrize("data", [DATA, SMALL])
async def test_b55_a_first_chunk_for_a_burned_accessor(data: bytes) -> None:
    async with Kit().running() as kit:
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        await kit.talk()
        grant = kit.grant(ALICE, data)
        with pytest.raises(AccessorDeletedError):
            await kit.push(ALICE, grant, 0, pieces(data)[0], accessors=(GENERAL.principal,))
        # The grant was not touched: another chat may still have it.
        await kit.push(ALICE, grant, 0, pieces(data)[0], accessors=(RANDOM.principal,))


async def test_an_altered_chunk_that_names_a_burned_accessor_harms_nothing() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        await kit.push(ALICE, grant, 0, FIRST, accessors=(RANDOM.principal,))
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        await kit.talk()
        with pytest.raises(UploadConflictError):
            await kit.push(ALICE, grant, 1, SECOND, accessors=(GENERAL.principal,))
        await kit.push(ALICE, grant, 1, SECOND, accessors=(RANDOM.principal,))


async def test_a_deleted_user_uploads_nothing_more() -> None:
    async with Kit().running() as kit:
        begun, fresh = kit.grant(ALICE, DATA), kit.grant(ALICE, SMALL)
        await kit.push(ALICE, begun, 0, FIRST)
        kit.index.tell(e.UserChanged(uid_of(ALICE), ALICE.principal, 2, 0, deleted=True))
        await kit.bucket.sync.poll_feed(kit.index, 0)
        for grant, body in ((begun, SECOND), (fresh, SMALL)):
            with pytest.raises(UserUnknownError):
                await kit.push(ALICE, grant, 1 if grant is begun else 0, body)
        await kit.talk()
        with pytest.raises(GrantClosedError):
            await kit.push(ALICE, begun, 1, SECOND)
        assert kit.index.closings()[-1][1] == "user_deleted"


async def test_a_user_deleted_while_the_hash_was_checked() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        for index in (0, 1):
            await kit.push(ALICE, grant, index, pieces(DATA)[index])
        read = kit.bucket.store.read

        async def slow_read(extent):
            kit.index.tell(e.UserChanged(uid_of(ALICE), ALICE.principal, 2, 0, deleted=True))
            await kit.bucket.sync.poll_feed(kit.index, 0)
            return await read(extent)

        kit.bucket.store.read = slow_read
        with pytest.raises(UserUnknownError):
            await kit.push(ALICE, grant, 2, LAST)
        await kit.talk()
        assert kit.index.reserved(ALICE) == 0
        assert not kit.stored


async def test_cancelled_while_the_hash_was_checked() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        for index in (0, 1):
            await kit.push(ALICE, grant, index, pieces(DATA)[index])
        read = kit.bucket.store.read

        async def slow_read(extent):
            await kit.ask(ALICE, m.CancelUpload(blob_of(DATA)))
            await kit.sweep()
            return await read(extent)

        kit.bucket.store.read = slow_read
        with pytest.raises(GrantClosedError) as refused:
            await kit.push(ALICE, grant, 2, LAST)
        assert refused.value.details == {"reason": "cancelled"}
        assert not kit.stored


async def test_closed_and_forgotten_while_the_hash_was_checked() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        for index in (0, 1):
            await kit.push(ALICE, grant, index, pieces(DATA)[index])
        read = kit.bucket.store.read

        async def slow_read(extent):
            await kit.ask(ALICE, m.CancelUpload(blob_of(DATA)))
            await kit.talk()
            await kit.raise_floor(NOW + 3600)
            return await read(extent)

        kit.bucket.store.read = slow_read
        with pytest.raises(GrantExpiredError):
            await kit.push(ALICE, grant, 2, LAST)
        assert not kit.stored


async def test_hashing_large_bytes_leaves_the_event_loop() -> None:
    class Counting(InlineWorker):
        runs = 0

        async def run(self, function, *args):
            self.runs += 1
            return await super().run(function, *args)

    worker = Counting()
    for size, runs in ((THREAD_FROM_BYTES - 1, 0), (THREAD_FROM_BYTES, 1)):
        assert await hash_of(bytes(size), worker) == blob_of(bytes(size))
        assert worker.runs == runs


async def test_a_reference_that_would_have_expired_already_is_refused() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, SMALL)
        with pytest.raises(InvalidArgumentError):
            await kit.push(ALICE, grant, 0, SMALL, expires_at=NOW)
        await kit.push(ALICE, grant, 0, SMALL, expires_at=NOW + 1)


async def test_a_blocked_principal_pushes_nothing() -> None:
    async with Kit().running() as kit:
        kit.index.tell(e.PrincipalBlocked(ALICE.principal, blocked=True, version=1))
        await kit.talk()
        with pytest.raises(NotAuthorizedError):
            await kit.push(ALICE, kit.grant(ALICE, SMALL), 0, SMALL)
        assert kit.service.is_blocked(ALICE.principal)
        assert not kit.service.is_blocked(BOB.principal)


async def test_a_block_ends_what_was_begun_on_a_link() -> None:
    """A peer link has no session that a block could end: each call asks."""
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        await kit.push(ALICE, kit.grant(ALICE, DATA), 0, FIRST)
        kit.index.tell(e.PrincipalBlocked(ALICE.principal, blocked=True, version=1))
        await kit.talk()
        for request in (
            m.UploadStatus(blob_of(DATA)),
            m.CancelUpload(blob_of(DATA)),
            m.RemoveReferences((kit.key_of(SMALL, ALICE, GENERAL),)),
        ):
            with pytest.raises(NotAuthorizedError):
                await kit.ask(ALICE, request)


@pytest.mark.parametrize("data", [DATA, SMALL])
@pytest.mark.parametrize("stored", [False, True])
async def test_b66_the_first_chunk_asks_for_the_room_of_all(data: bytes, *, stored: bool) -> None:
    kit = Kit()
    async with kit.running():
        if stored:
            await kit.upload(BOB, data, GENERAL)
    free = kit.disk.space()[1] + kit.options.store.segment_bytes
    kit.options = replace(OPTIONS, free_bytes_min=free)
    async with kit.running():
        grant = kit.grant(ALICE, data)
        with pytest.raises(BucketFullError):
            await kit.push(ALICE, grant, 0, pieces(data)[0])
        with pytest.raises(GrantClosedError) as refused:
            await kit.push(ALICE, grant, 0, pieces(data)[0])
        assert refused.value.details == {"reason": "bucket_full"}
        await kit.talk()
        assert kit.index.reserved(ALICE) == 0


async def test_b66_room_that_is_promised_is_not_promised_twice() -> None:
    kit = Kit()
    async with kit.running():
        space = kit.bucket.store.space()
    size = space.free // 2
    async with kit.running():
        big = {"size": size, "reserved": size, "chunk_bytes": 1 << 20}
        body = bytes(1 << 15)
        small = {"size": len(body) * 2, "reserved": len(body) * 2, "chunk_bytes": len(body)}
        big["chunk_bytes"] = len(body)
        await kit.push(ALICE, kit.grant(ALICE, b"1", **big), 0, body)
        with pytest.raises(BucketFullError):
            await kit.push(ALICE, kit.grant(ALICE, b"2", **big), 0, body)
        await kit.push(ALICE, kit.grant(ALICE, b"3", **small), 0, body)
        await kit.ask(ALICE, m.CancelUpload(blob_of(b"1")))
        await kit.push(ALICE, kit.grant(ALICE, b"4", **big), 0, body)


async def test_b66_room_is_promised_only_where_whole_segments_fit() -> None:
    """The log takes its room a segment at a time, and a segment that does not fit ends the node."""
    kit = Kit()
    segment_bytes = kit.options.store.segment_bytes
    async with kit.running():
        kit.disk.space = lambda: (1 << 30, segment_bytes // 2)
        kit.disk.faults.allocate_errno = errno.ENOSPC
        size, body = segment_bytes + (1 << 15), bytes(1 << 15)
        grant = kit.grant(ALICE, b"big", size=size, reserved=size, chunk_bytes=len(body))
        with pytest.raises(BucketFullError):
            await kit.push(ALICE, grant, 0, body)


async def test_uploads_per_user_are_capped() -> None:
    async with Kit(replace(OPTIONS, user_uploads_max=2)).running() as kit:
        grants = [kit.grant(ALICE, DATA + bytes([n])) for n in range(3)]
        for grant in grants[:2]:
            await kit.push(ALICE, grant, 0, FIRST)
        with pytest.raises(BusyError):
            await kit.push(ALICE, grants[2], 0, FIRST)
        await kit.push(BOB, kit.grant(BOB, DATA), 0, FIRST)
        await kit.ask(ALICE, m.CancelUpload(blob_of(DATA + b"\0")))
        await kit.push(ALICE, grants[2], 0, FIRST)


async def test_references_per_user_are_capped() -> None:
    async with Kit(replace(OPTIONS, user_references_max=2)).running() as kit:
        await kit.upload(ALICE, b"a")
        await kit.upload(ALICE, b"b")
        await kit.talk()
        refused = kit.grant(ALICE, b"c")
        with pytest.raises(AllowanceExceededError):
            await kit.push(ALICE, refused, 0, b"c")
        # A reference that is there already is not a new one.
        await kit.upload(ALICE, b"a")
        await kit.upload(BOB, b"c")
        await kit.remove(ALICE, kit.key_of(b"b", ALICE, None))
        await kit.push(ALICE, refused, 0, b"c")


async def test_upload_status_tells_what_is_there_to_its_user_alone() -> None:
    async with Kit().running() as kit:
        grant = kit.claims(ALICE, DATA)
        await kit.push(ALICE, kit.sign(grant), 0, FIRST)
        await kit.push(ALICE, kit.sign(grant), 2, LAST)
        status = await kit.ask(ALICE, m.UploadStatus(blob_of(DATA)))
        assert status == m.UploadInfo(grant.grant_id, 40, 16, b"\x05", NOW + 3600)
        with pytest.raises(NotFoundError):
            await kit.ask(BOB, m.UploadStatus(blob_of(DATA)))
        with pytest.raises(NotFoundError):
            await kit.ask(ALICE, m.UploadStatus(blob_of(SMALL)))
        await kit.push(ALICE, kit.sign(grant), 1, SECOND)
        with pytest.raises(NotFoundError):
            await kit.ask(ALICE, m.UploadStatus(blob_of(DATA)))


async def test_cancelling_nothing_and_cancelling_twice_succeed() -> None:
    async with Kit().running() as kit:
        await kit.push(ALICE, kit.grant(ALICE, DATA), 0, FIRST)
        for user in (BOB, ALICE, ALICE):
            assert await kit.ask(user, m.CancelUpload(blob_of(DATA))) == m.Ok()
        await kit.talk()
        assert kit.index.reserved(ALICE) == 0
        assert len(kit.index.closings()) == 1
        assert not list(kit.bucket.store.durable.scan(b"C"))


async def test_no_accessors_make_one_reference_that_is_the_owners() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, SMALL)
        answer = await kit.push(ALICE, grant, 0, SMALL)
        assert answer.reference.accessors == (NULL_ACCESSOR,)
        assert await kit.readable(ALICE, ALICE, SMALL)
        assert not await kit.readable(BOB, BOB, SMALL)


async def test_naming_an_accessor_twice_makes_one_reference() -> None:
    async with Kit().running() as kit:
        twice = (GENERAL.principal, GENERAL.principal)
        answer = await kit.push(ALICE, kit.grant(ALICE, SMALL), 0, SMALL, accessors=twice)
        assert answer.reference.accessors == (GENERAL.principal,)


async def test_b29_a_registration_the_bucket_has_not_heard_of() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        assert await kit.remove(ALICE, kit.key_of(SMALL, ALICE, GENERAL)) == [""]
        # What the feed says later is newer than what the grant said.
        kit.index.tell(e.UserChanged(uid_of(ALICE), BOB.principal, 1, 7))
        await kit.talk()
        user = kit.bucket.desk.state.user(uid_of(ALICE))
        assert (user.principal, user.bytes_left) == (BOB.principal, 7)


async def test_a_changed_principal_goes_on_with_the_upload() -> None:
    async with Kit().running() as kit:
        grant = kit.grant(ALICE, DATA)
        await kit.push(ALICE, grant, 0, FIRST)
        kit.index.tell(e.UserChanged(uid_of(ALICE), BOB.principal, 2, 0))
        await kit.talk()
        await kit.push(BOB, grant, 1, SECOND)
        assert (await kit.push(BOB, grant, 2, LAST)).missing == 0
        assert await kit.readable(BOB, BOB, DATA)
        assert not await kit.readable(ALICE, ALICE, DATA)
