"""Accounts end to end: what the index charges is what the buckets hold, whatever happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

import pytest
import trio

from ostnode.errors import (
    AllowanceExceededError,
    GrantClosedError,
    GrantInvalidError,
    HashMismatchError,
    OstError,
    UserExistsError,
    UserUnknownError,
)
from ostnode.net.transport import LinkClosedError
from ostnode.wire import messages as m
from tests.support.cluster import LIMIT, Cluster
from tests.support.people import CHUNK_BYTES, Chat, Person, blob_of, pieces

DATA = bytes(range(251)) * 60
T = TypeVar("T")


# --- rule 6 under anything ---


@dataclass(frozen=True)
class Post:
    """One reference: who showed what to which chat."""

    owner: Person
    data: bytes
    chat: Chat
    ref_id: bytes


@dataclass
class Story:
    """Random operations while links break, replies are lost and nodes die.

    The model is `posts`: the references that must exist. An operation whose outcome is unknown
    is made again until it is answered, as clients do.
    """

    cluster: Cluster
    rng: Random
    posts: dict[Post, m.BlobReference] = field(default_factory=dict)
    gone: list[tuple[Post, m.BlobReference]] = field(default_factory=list)
    chats: list[Chat] = field(default_factory=list)

    def __post_init__(self) -> None:
        sizes = (0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES - 5)
        self.blobs = [self.rng.randbytes(size) for size in sizes]
        self.people = [self.cluster.alice, self.cluster.bob, self.cluster.carol]
        self.chats = [self.a_chat() for _ in range(3)]

    def a_chat(self) -> Chat:
        return Chat(f"chat {self.rng.random()}", self.cluster.clock)

    def a_post(self, data: bytes | None = None) -> Post:
        choice = self.rng.choice
        data = choice(self.blobs) if data is None else data
        return Post(choice(self.people), data, choice(self.chats), choice([b"", b"1", b"2"]))

    def drop(self, which: Callable[[Post], bool]) -> None:
        for post in [post for post in self.posts if which(post)]:
            self.gone.append((post, self.posts.pop(post)))

    # --- operations ---

    async def upload(self) -> None:
        post = self.a_post()
        order = self.rng.sample(range(len(pieces(post.data))), len(pieces(post.data)))

        async def attempt() -> m.BlobReference:
            allocation = await post.owner.allocate(post.data)
            return await post.owner.push_all(
                allocation, post.data, post.chat, indexes=order, ref_id=post.ref_id
            )

        await self.take(post, attempt)

    async def forward(self) -> None:
        if self.posts:
            source = self.rng.choice(list(self.posts))
            post = self.a_post(source.data)
            await self.take(
                post,
                lambda: post.owner.forward(post.data, source.chat, post.chat, ref_id=post.ref_id),
            )

    async def take(self, post: Post, attempt: Callable[[], Awaitable[m.BlobReference]]) -> None:
        try:
            self.posts[post] = await self.answered(attempt)
        except AllowanceExceededError as error:
            details = error.details
            assert details["used"] + details["reserved"] + details["needed"] > details["limit"]

    async def remove(self) -> None:
        if self.posts:
            post = self.rng.choice(list(self.posts))
            made = self.posts[post]
            code = await self.answered(lambda: post.owner.remove(made, post.chat))
            assert code in {"", "not_found"}  # the latter when an answer was lost
            self.drop(lambda one: one == post)

    async def abandon(self) -> None:
        """Begin an upload of something else and leave it, give it up, or spoil it."""
        person, data = self.rng.choice(self.people), self.rng.randbytes(2 * CHUNK_BYTES)
        end = self.rng.choice(["leave", "cancel", "release", "spoil"])

        async def attempt() -> None:
            allocation = await person.allocate(data)
            await person.push(allocation, 0, data[:CHUNK_BYTES])
            if end == "cancel":
                await person.cancel(allocation, data)
            elif end == "release":
                await person.ask(m.ReleaseGrant(allocation.grant_id), m.Ok)
            elif end == "spoil":
                await person.push(allocation, 1, bytes(CHUNK_BYTES))

        try:
            await self.answered(attempt)
        except HashMismatchError:
            assert end == "spoil"
        except AllowanceExceededError:
            pass

    async def delete_chat(self) -> None:
        chat = self.chats.pop(self.rng.randrange(len(self.chats)))
        self.chats.append(self.a_chat())
        await self.answered(lambda: self.cluster.app.delete_chat(chat))
        self.drop(lambda post: post.chat is chat)

    async def register_anew(self) -> None:
        person = self.rng.choice(self.people)
        changes = (("delete", person, 0), ("register", person, LIMIT))
        await self.answered(lambda: self.cluster.app.change(*changes))
        self.drop(lambda post: post.owner is person)

    async def change_limit(self) -> None:
        person = self.rng.choice(self.people)
        limit = self.rng.choice([0, 2 * CHUNK_BYTES, 5 * CHUNK_BYTES, LIMIT])
        await self.answered(lambda: self.cluster.app.change(("update", person, limit)))

    async def answered(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until there is an answer that means something, like a client."""
        with trio.fail_after(600):
            while True:
                try:
                    return await attempt()
                except (LinkClosedError, GrantClosedError):
                    pass
                except OstError as error:
                    # A bucket may hear of a new registration after its first upload.
                    if not error.retryable and not isinstance(error, UserUnknownError):
                        raise
                await trio.sleep(self.rng.choice([0.1, 1, 3]))

    # --- faults ---

    async def fault(self) -> None:
        """Somewhere in the middle of what happens meanwhile."""
        for _ in range(self.rng.randrange(300)):
            await trio.lowlevel.checkpoint()
        bucket = self.rng.choice(self.cluster.buckets)
        index = self.cluster.index
        match self.rng.choice(["kill", "power", "index", "cut", "lose", "lose", "offline"]):
            case "kill":
                await bucket.crash()
            case "power":
                await bucket.crash(power=True)
            case "index":
                await index.kill()
                await index.start()
            case "cut":
                self.rng.choice(self.cluster.nodes).cut()
            case "lose":
                lost = self.rng.choice([m.SyncBucket, m.Feed, m.Allocate, m.ChangeUsers])
                index.gate.lose_replies(lost)
                bucket.gate.lose_replies(
                    self.rng.choice([m.PushChunk, m.AddReference, m.RemoveReferences])
                )
            case "offline":
                bucket.go_offline()
                await trio.sleep(20)
                bucket.go_online()

    async def step(self) -> None:
        operations = [self.upload] * 6 + [self.forward] * 4 + [self.remove] * 4
        operations += [self.abandon] * 2
        operations += [self.delete_chat, self.register_anew, self.change_limit]
        operation = self.rng.choice(operations)
        async with trio.open_nursery() as nursery:
            if self.rng.random() < 0.3:
                nursery.start_soon(self.fault)
            await operation()

    # --- the end ---

    async def check(self) -> None:
        await self.cluster.check_accounts()
        await self.cluster.grants_over()
        await self.cluster.check_accounts()
        for person in self.people:
            mine = {post.data for post in self.posts if post.owner is person}
            assert await person.account() == (sum(map(len, mine)), 0)
        # Whoever is asked has not read yet: no answer can come from anything but the references.
        visitor = Person("visitor", self.cluster)
        for post, made in self.posts.items():
            assert await visitor.read(post.chat, made) == post.data
        readable = {(post.chat, post.data) for post in self.posts}
        for post, made in self.gone:
            if (post.chat, post.data) not in readable:
                assert not await visitor.can_read(post.chat, made)
        stored = {blob_of(post.data): len(pieces(post.data)) for post in self.posts}
        for bucket in self.cluster.buckets:
            assert bucket.chunks == sum(stored[blob_id] for blob_id in bucket.stored)
        assert {blob for bucket in self.cluster.buckets for blob in bucket.stored} == set(stored)
        info = await self.cluster.status()
        assert (info.open_grants, info.bytes_reserved) == (0, 0)


async def _play(cluster: Cluster, seed: int, steps: int) -> None:
    story = Story(cluster, Random(seed))
    for _ in range(steps):
        await story.step()
    await story.check()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_b25_accounts_are_exact_at_rest(seed: int, autojump_clock, cluster: Cluster) -> None:
    await _play(cluster, seed, 40)


@pytest.mark.deep
@pytest.mark.parametrize("seed", range(6, 200))
async def test_b25_accounts_are_exact_after_many_stories(
    seed: int, autojump_clock, cluster: Cluster
) -> None:
    await _play(cluster, seed, 60)


# --- single rules ---


async def test_b26_a_declared_size_that_is_not_the_real_one_charges_nobody(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    honest = await alice.upload(DATA, general)
    for size in (0, 1, len(DATA) - 1, len(DATA) + 1, 3 * len(DATA)):
        lying = await bob.allocate(DATA, size=size)
        with pytest.raises(GrantInvalidError):
            await bob.forward(DATA, general, cluster.random, allocation=lying)
        with pytest.raises(HashMismatchError):
            await bob.push_all(lying, (DATA * 3)[:size], general)
        await cluster.check_accounts()
        assert await bob.account() == (0, 0)
        assert await alice.account() == (len(DATA), 0)
    assert await bob.read(general, honest) == DATA


async def test_b26_an_abandoned_lie_is_refunded_as_it_was_reserved(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    lying = await bob.allocate(DATA, size=2 * len(DATA))
    await alice.upload(DATA, general)
    assert await bob.account() == (0, 2 * len(DATA))
    await bob.ask(m.ReleaseGrant(lying.grant_id), m.Ok)
    await cluster.check_accounts()
    assert (await bob.account(), await alice.account()) == ((0, 0), (len(DATA), 0))


async def test_b28_removed_and_registered_again_in_one_batch_can_upload(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person, general: Chat
) -> None:
    old = await alice.upload(b"of the old registration", general)
    changes = (("delete", alice, 0), ("register", alice, LIMIT), ("delete", bob, 0))
    assert await app.change(*changes) == ["", "", ""]
    made = await alice.upload(DATA, general)
    assert made.owner == await alice.uid() != old.owner
    # Registered, then removed: in the order given.
    assert await app.change(("register", bob, LIMIT), ("delete", bob, 0)) == ["", ""]
    with pytest.raises(UserUnknownError):
        await bob.info()
    await cluster.check_accounts()
    assert await alice.account() == (len(DATA), 0)
    visitor = cluster.stranger
    assert await visitor.can_read(general, made)
    assert not await visitor.can_read(general, old)


async def test_b29_register_then_upload_before_the_bucket_has_heard(
    autojump_clock, cluster: Cluster, bob: Person, app: Person, general: Chat
) -> None:
    for bucket in cluster.buckets:
        bucket.go_offline()
    newcomer = Person("newcomer", cluster)
    await app.change(("register", newcomer, LIMIT))
    made = await newcomer.upload(DATA, general)
    assert not cluster.node(made.bucket).drained
    assert await bob.read(general, made) == DATA
    assert await newcomer.can_read(newcomer, made)
    for bucket in cluster.buckets:
        bucket.go_online()
    await cluster.check_accounts()
    assert await newcomer.account() == (len(DATA), 0)


@pytest.mark.slow
async def test_b29_a_deleted_user_with_many_blobs_and_uploads_leaves_nothing(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person, general: Chat
) -> None:
    """More blobs than one sweep, one batch or one feed answer takes."""
    shared = await alice.upload(DATA, general)
    await bob.upload(DATA, general)
    blobs = [number.to_bytes(2, "big") for number in range(1100)]

    async def upload(some: list[bytes]) -> None:
        for data in some:
            await alice.upload(data, general)

    async with trio.open_nursery() as nursery:
        for lane in range(8):
            nursery.start_soon(upload, blobs[lane::8])
    pending = [await alice.allocate(data) for data in (DATA + b"1", DATA + b"2")]
    for allocation in pending:
        await alice.push(allocation, 0, pieces(DATA)[0], general)
    await cluster.check_accounts()
    assert (await cluster.status()).charges == 1102
    assert await app.change(("delete", alice, 0)) == [""]
    await cluster.settle()
    info = await cluster.status()
    assert (info.charges, info.open_grants, info.bytes_reserved) == (1, 0, 0)
    assert info.bytes_used == len(DATA)
    assert sum(len(bucket.stored) for bucket in cluster.buckets) == 1
    assert cluster.node(shared.bucket).chunks == len(pieces(DATA))
    assert not cluster.node(shared.bucket).held_by(shared.owner)
    assert await bob.can_read(general, shared)
    await cluster.check_accounts()


@pytest.mark.parametrize("heard", ["at once", "late", "after the new upload"])
async def test_b68_deleted_and_registered_again_whatever_the_order_of_arrival(
    heard: str, autojump_clock, cluster: Cluster, alice: Person, app: Person, general: Chat
) -> None:
    old = await alice.upload(b"old", general)
    same = await alice.upload(DATA, general)
    begun = await alice.allocate(DATA + b"begun")
    await alice.push(begun, 0, pieces(DATA)[0], general)
    if heard != "at once":
        for bucket in cluster.buckets:
            bucket.go_offline()
    await app.change(("delete", alice, 0), ("register", alice, LIMIT))
    if heard == "at once":
        await cluster.settle()
    again = await alice.upload(DATA, general, ref_id=b"new")
    if heard == "late":
        for bucket in cluster.buckets:
            await bucket.crash(power=True)
    new = await alice.upload(b"new", general)
    for bucket in cluster.buckets:
        bucket.go_online()
    await cluster.check_accounts()
    with pytest.raises(GrantClosedError):
        await alice.push(begun, 1, pieces(DATA)[1], general)
    visitor = cluster.stranger
    assert not await visitor.can_read(general, old)
    assert await visitor.can_read(general, new)
    assert await visitor.can_read(general, again)
    assert again.owner == new.owner != same.owner
    assert await alice.account() == (len(DATA) + len(b"new"), 0)
    assert await alice.remove(same, general) == "not_found"
    assert await alice.remove(again, general) == ""
    assert not await visitor.can_read(general, same)


async def test_b30_a_changed_principal_keeps_references_uploads_and_charges(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person, general: Chat
) -> None:
    made = await alice.upload(b"made before", general)
    begun = await alice.allocate(DATA)
    await alice.push(begun, 0, pieces(DATA)[0], general)
    moved = Person("alice with a new key", cluster)
    await app.ask(m.ChangePrincipal(alice.principal, moved.principal), m.Ok)
    await cluster.settle()
    with pytest.raises(UserUnknownError):
        await alice.info()
    assert await moved.uid() == made.owner
    done = await moved.push_all(begun, DATA, general, indexes=[1, 2, 3])
    assert done.owner == made.owner
    assert await moved.can_read(moved, made)
    assert not await alice.can_read(alice, made)
    assert await alice.remove(made, general) == "not_found"
    assert await moved.remove(made, general) == ""
    await cluster.check_accounts()
    assert await moved.account() == (len(DATA), 0)
    with pytest.raises(UserExistsError):
        await app.ask(m.ChangePrincipal(moved.principal, bob.principal), m.Ok)


async def test_b24_parallel_allocations_never_jointly_exceed_the_limit(
    autojump_clock, cluster: Cluster, alice: Person, app: Person
) -> None:
    await app.change(("update", alice, 10 * 100))
    outcomes: list[str] = []

    async def allocate(lane: Person, number: int) -> None:
        try:
            await lane.allocate(number.to_bytes(100, "big"))
        except AllowanceExceededError as error:
            details = error.details
            assert (details["limit"], details["needed"]) == (1000, 100)
            assert details["used"] + details["reserved"] == 1000
            outcomes.append(error.code)
        else:
            outcomes.append("")

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(allocate, Person("alice", cluster), number)
    assert sorted(outcomes) == [""] * 10 + ["allowance_exceeded"] * 30
    assert await alice.account() == (0, 1000)
