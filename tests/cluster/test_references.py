"""References end to end: who may read, who pays, and what a removal leaves."""

from __future__ import annotations

from itertools import permutations

import pytest
import trio

from ostnode.errors import (
    AccessorDeletedError,
    GrantClosedError,
    InvalidArgumentError,
    NotFoundError,
    OstError,
    TokenInvalidError,
)
from ostnode.identity.tokens import Scope
from ostnode.ids import NULL_ACCESSOR, BlobId, ClusterId
from ostnode.wire import messages as m
from tests.support.cluster import Cluster, insist
from tests.support.people import CHUNK_BYTES, Chat, Person, blob_of, pieces

DATA = bytes(range(251)) * 60
OTHER = b"other bytes"


def stored(cluster: Cluster) -> set[BlobId]:
    return {blob_id for bucket in cluster.buckets for blob_id in bucket.stored}


async def test_b14_removing_one_of_two_references_leaves_the_other_readable(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, carol: Person, general: Chat
) -> None:
    random = cluster.random
    of_alice = await alice.upload(DATA, general)
    of_bob = await bob.upload(DATA, random)
    assert await alice.remove(of_alice, general) == ""
    assert not await carol.can_read(general, of_alice)
    assert await carol.can_read(random, of_bob)
    await cluster.check_accounts()
    assert (await alice.account(), await bob.account()) == ((0, 0), (len(DATA), 0))
    assert await bob.remove(of_bob, random) == ""
    assert await bob.remove(of_bob, random) == "not_found"
    await cluster.check_accounts()
    assert stored(cluster) == set()


async def test_b15_deleting_a_chat_leaves_what_others_see(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person, general: Chat
) -> None:
    random = cluster.random
    both = await alice.upload(DATA, general, random)
    alone = await alice.upload(OTHER)
    lost = await alice.upload(b"of general only", general)
    await app.delete_chat(general)
    await cluster.settle()
    assert not await bob.can_read(general, both)
    assert not await bob.can_read(general, lost)
    assert await bob.can_read(random, both)
    assert await alice.can_read(alice, alone)
    assert not await bob.can_read(bob, alone)
    await cluster.check_accounts()
    assert await alice.account() == (len(DATA) + len(OTHER), 0)
    assert stored(cluster) == {both.blob_id, alone.blob_id}


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_b16_whoever_forwards_owns_its_charge(
    order: tuple[int, ...],
    autojump_clock,
    cluster: Cluster,
    alice: Person,
    bob: Person,
    carol: Person,
    general: Chat,
) -> None:
    random = cluster.random
    made = [(alice, await alice.upload(DATA, general), general)]
    made.append((bob, await bob.forward(DATA, general, random), random))
    made.append((carol, await carol.forward(DATA, random, general), general))
    await cluster.check_accounts()
    for place in order:
        owner, reference, chat = made[place]
        assert await owner.account() == (len(DATA), 0)
        assert await owner.remove(reference, chat) == ""
        await cluster.check_accounts()
        assert await owner.account() == (0, 0)
    assert stored(cluster) == set()


async def test_b17_each_part_of_the_right_to_read_violated_alone(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person, general: Chat
) -> None:
    random = cluster.random
    made = await alice.upload(DATA, general)
    now = int(cluster.clock.now())
    bound = general.token(bob, blob=made.blob_id)
    assert await bob.can_read(general, made, bound)
    broken = {
        "signed by another chat": random.token(bob),
        "of another cluster": general.token(bob, cluster=ClusterId(bytes(16))),
        "expired": general.token(bob, issued_at=now - 300, expires_at=now - 61),
        "too long": general.token(bob, expires_at=now + 3700),
        "of another scope": general.token(bob, Scope.ACC_DEL),
        "of another caller": general.token(alice),
        "for another blob": general.token(bob, blob=blob_of(OTHER)),
        "garbled": bound[:-1] + bytes([bound[-1] ^ 1]),
        "missing": b"",
    }
    readable = {why: await bob.can_read(general, made, token) for why, token in broken.items()}
    assert not any(readable.values()), readable
    # A chat that has no reference, and a blob that is nowhere.
    assert not await bob.can_read(random, made)
    await app.ask(m.BlockPrincipal(bob.principal), m.Ok)
    await cluster.settle()
    assert not await bob.can_read(general, made)
    await app.ask(m.BlockPrincipal(bob.principal, blocked=False), m.Ok)
    await cluster.settle()
    assert await bob.can_read(general, made)


async def test_b18_knowing_a_hash_gives_nothing(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, carol: Person, general: Chat
) -> None:
    """Every answer about a stored blob is the one about a blob that is nowhere."""
    made = await alice.upload(DATA, general)
    stranger_chat = Chat("of bob alone", cluster.clock)
    absent = m.BlobReference(
        blob_of(OTHER), made.size, made.bucket, made.owner, made.accessors, b""
    )
    answers = []
    for reference, data in ((made, DATA), (absent, OTHER)):
        seen: list[object] = []

        async def ask(attempt, seen: list[object] = seen) -> None:
            try:
                answer = await attempt
            except OstError as error:
                seen.append((error.code, error.message, error.details))
            else:
                seen.append(answer)

        allocation = await bob.allocate(data, size=len(DATA))
        allocated = (allocation.already_yours, allocation.allowance.reserved)
        await ask(bob.read(stranger_chat, reference))
        info = m.BlobInfoRequest(
            stranger_chat.principal, reference.blob_id, stranger_chat.token(bob)
        )
        await ask(bob.ask_bucket(reference.bucket, info, m.BlobInfo))
        await ask(bob.forward(data, stranger_chat, stranger_chat, allocation=allocation))
        await ask(bob.push(allocation, 0, pieces(DATA)[0], stranger_chat))
        status = m.UploadStatus(reference.blob_id)
        upload = await bob.ask_bucket(allocation.bucket.principal, status, m.UploadInfo)
        seen += [allocated, upload.received]
        await ask(bob.remove(reference, general))
        locate = m.Locate(stranger_chat.principal, reference.blob_id, stranger_chat.token(carol))
        await ask(bob.ask(locate, m.BucketAddress))
        await bob.cancel(allocation, data)
        await cluster.settle()
        answers.append(seen)
    assert answers[0] == answers[1]
    assert len(answers[0]) == 8


async def test_b21_a_blob_deleted_or_expired_while_it_is_read(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person, general: Chat
) -> None:
    """Read slice by slice over the link: the next slice is refused, though nothing is swept."""

    async def next_slice(made: m.BlobReference, at: int) -> bytes:
        request = m.ReadBlob(general.principal, made.blob_id, at, 100, general.token(bob))
        return bytes((await bob.call(cluster.node(made.bucket), request)).body)

    expires_at = int(cluster.clock.now()) + 30
    brief = await alice.upload(OTHER * 50, general, expires_at=expires_at)
    assert await next_slice(brief, 0) == (OTHER * 50)[:100]
    await trio.sleep_until(trio.current_time() + expires_at - cluster.clock.now())
    with pytest.raises(NotFoundError):
        await next_slice(brief, 100)

    removed = await alice.upload(DATA, general)
    assert await next_slice(removed, 0) == DATA[:100]
    await alice.remove(removed, general)
    with pytest.raises(NotFoundError):
        await next_slice(removed, 100)

    burned = await alice.upload(DATA, general)
    assert await next_slice(burned, CHUNK_BYTES - 50) == DATA[CHUNK_BYTES - 50 :][:100]
    await app.delete_chat(general)
    bucket = cluster.node(burned.bucket)

    await cluster.until(lambda: bucket.rows.burned(general.principal))
    with pytest.raises(NotFoundError):
        await next_slice(burned, 0)
    await cluster.check_accounts()
    assert await alice.account() == (0, 0)


async def test_a_deleted_chat_is_closed_in_less_than_a_second(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person, general: Chat
) -> None:
    made = await alice.upload(DATA, general)
    await cluster.settle()
    await app.delete_chat(general)
    await trio.sleep(0.5)
    assert not await bob.can_read(general, made)


async def test_b55_a_burned_accessor_never_returns(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person, general: Chat
) -> None:
    """Begun before, forwarded to and from, with the feed replayed and the bucket restarted."""
    random = cluster.random
    made = await alice.upload(OTHER, general, random)
    begun = await alice.allocate(DATA)
    await alice.push(begun, 0, pieces(DATA)[0], general)
    await app.delete_chat(general)
    await cluster.settle()
    with pytest.raises(AccessorDeletedError):
        await alice.push(begun, 1, pieces(DATA)[1], general)
    with pytest.raises(AccessorDeletedError):
        await bob.forward(OTHER, random, general)
    with pytest.raises(NotFoundError):
        await bob.forward(OTHER, general, random)
    with pytest.raises(NotFoundError):
        await bob.ask(
            m.Locate(general.principal, made.blob_id, general.token(bob)), m.BucketAddress
        )
    for bucket in cluster.buckets:
        await bucket.crash(power=True)
    await cluster.index.kill()
    await cluster.index.start()
    await cluster.settle()
    with pytest.raises(AccessorDeletedError):
        await alice.upload(b"another one", general)
    # Of two chats the living one is served, and says so.
    half = await alice.upload(b"for both", general, random)
    assert half.accessors == (random.principal,)
    assert not await bob.can_read(general, half)
    assert await bob.can_read(random, half)
    await cluster.grants_over()
    await cluster.check_accounts()
    assert await alice.account() == (len(OTHER) + len(b"for both"), 0)


async def test_b56_one_file_posted_twice_and_by_two(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, carol: Person, general: Chat
) -> None:
    first = await alice.upload(DATA, general, ref_id=b"1")
    second = await alice.upload(DATA, general, ref_id=b"2")
    of_bob = await bob.upload(DATA, general, ref_id=b"1")
    await cluster.check_accounts()
    assert await alice.account() == await bob.account() == (len(DATA), 0)
    assert await carol.remove(first, general, general.deletion(carol, first)) == ""
    assert await carol.can_read(general, second)
    await cluster.check_accounts()
    assert await alice.account() == (len(DATA), 0)
    assert await alice.remove(second, general) == ""
    assert await carol.can_read(general, of_bob)
    await cluster.check_accounts()
    assert (await alice.account(), await bob.account()) == ((0, 0), (len(DATA), 0))


async def test_b53_a_dead_grant_stays_dead(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    """Used and deleted, cancelled, released: no order of them stores a byte unaccounted."""

    async def refused(allocation: m.Allocation, reason: str) -> None:
        for data in (DATA[:1], DATA):
            with pytest.raises(GrantClosedError) as refusal:
                await alice.push(allocation, 0, pieces(data)[0], general)
            assert refusal.value.details == {"reason": reason}
        with pytest.raises(GrantClosedError):
            await alice.forward(DATA, alice, general, allocation=allocation)

    used = await alice.allocate(DATA)
    made = await alice.push_all(used, DATA, general)
    assert await alice.remove(made, general) == ""
    await refused(used, "completed")
    await cluster.settle()
    await refused(used, "completed")

    cancelled = await alice.allocate(DATA)
    assert cancelled.grant_id != used.grant_id
    await alice.push(cancelled, 0, pieces(DATA)[0], general)
    await alice.cancel(cancelled, DATA)
    await refused(cancelled, "cancelled")
    await cluster.settle()

    released = await alice.allocate(DATA)
    assert released.grant_id not in {used.grant_id, cancelled.grant_id}
    await alice.push(released, 0, pieces(DATA)[0], general)
    await alice.ask(m.ReleaseGrant(released.grant_id), m.Ok)
    await cluster.settle()
    await refused(released, "revoked")
    for bucket in cluster.buckets:
        await bucket.crash(power=True)
    for allocation, reason in (
        (used, "completed"),
        (cancelled, "cancelled"),
        (released, "revoked"),
    ):
        await refused(allocation, reason)
    await cluster.check_accounts()
    assert await alice.account() == (0, 0)
    assert stored(cluster) == set()


async def test_b53_no_sequence_of_reuse_exceeds_the_limit(
    autojump_clock, cluster: Cluster, alice: Person, app: Person, general: Chat
) -> None:
    """Room for one blob: allocate, complete, delete and use the old grant once more."""
    await app.change(("update", alice, len(DATA)))
    first = await alice.allocate(DATA)
    made = await alice.push_all(first, DATA, general)
    await alice.remove(made, general)
    await cluster.settle()
    other = DATA[::-1]
    await alice.upload(other, general)
    with pytest.raises(GrantClosedError):
        await alice.push_all(first, DATA, general)
    await cluster.check_accounts()
    assert await alice.account() == (len(DATA), 0)


async def test_b54_a_grant_that_leans_on_a_charge_ends_with_its_references(
    autojump_clock, cluster: Cluster, alice: Person, general: Chat
) -> None:
    made = await alice.upload(DATA, general)
    await cluster.settle()
    leaning = await alice.allocate(DATA)
    assert leaning.already_yours
    assert (await alice.account()) == (len(DATA), 0)
    bucket = cluster.node(made.bucket)
    bucket.go_offline()
    assert await alice.remove(made, general) == ""
    with pytest.raises(GrantClosedError) as refusal:
        await alice.push_all(leaning, DATA, general)
    assert refusal.value.details == {"reason": "not_held"}
    bucket.go_online()
    await cluster.check_accounts()
    assert await alice.account() == (0, 0)
    paid = await alice.allocate(DATA)
    assert not paid.already_yours
    assert paid.allowance.reserved == len(DATA)
    await alice.push_all(paid, DATA, general)
    await cluster.check_accounts()


async def test_b62_a_single_use_token_whose_reply_was_lost(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    """The retry gets the first result, also after a restart; another target is refused."""
    one = await alice.upload(DATA, general, ref_id=b"1")
    two = await alice.upload(DATA, general, ref_id=b"2")
    token = general.deletion(bob, one)
    bucket = cluster.node(one.bucket)
    bucket.gate.lose_replies(m.RemoveReferences)
    assert await insist(lambda: bob.remove(one, general, token)) == ""
    assert await bob.remove(two, general, token) == TokenInvalidError.code
    assert await bob.remove(one, general, general.deletion(bob, one)) == "not_found"
    await bucket.crash(power=True)
    assert await bob.remove(one, general, token) == ""
    assert await bob.remove(two, general, token) == TokenInvalidError.code
    assert await bob.can_read(general, two)
    # Once it would have ended, nobody needs to know it any more.
    await trio.sleep(200)
    assert await bob.remove(one, general, token) == "token_expired"

    burning = general.token(bob, Scope.ACC_DEL)
    cluster.index.gate.lose_replies(m.DeleteAccessor)
    await insist(lambda: bob.delete_chat(general, burning))
    await cluster.index.kill()
    await cluster.index.start()
    await insist(lambda: bob.delete_chat(general, burning))
    with pytest.raises(TokenInvalidError):
        await bob.delete_chat(cluster.random, burning)
    await cluster.check_accounts()
    assert await alice.account() == (0, 0)


async def test_the_null_accessor_is_its_owners_alone(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person
) -> None:
    made = await alice.upload(DATA)
    assert made.accessors == (NULL_ACCESSOR,)
    assert await alice.read(alice, made) == DATA
    assert not await bob.can_read(alice, made, b"")
    assert await bob.remove(made, None) == "not_found"
    with pytest.raises(InvalidArgumentError):
        await app.ask(m.DeleteAccessor(NULL_ACCESSOR), m.Ok)
    assert await alice.remove(made, None) == ""
    await cluster.check_accounts()
    assert await alice.account() == (0, 0)
