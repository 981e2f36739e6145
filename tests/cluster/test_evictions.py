"""evict_oldest and the denylist end to end: a real index, real buckets, peer links between them."""

from __future__ import annotations

import pytest
import trio

from ostnode.errors import AllowanceExceededError, BlobBlockedError, BusyError
from ostnode.wire import accounts as ac
from ostnode.wire import messages as m
from tests.support.cluster import Cluster
from tests.support.people import Chat, Person, blob_of

SIZE = 1000


def post(number: int) -> bytes:
    return number.to_bytes(2, "big") * (SIZE // 2)


async def let_evict(cluster: Cluster, who: Person, limit: int) -> None:
    change = m.UserChange("update", who.principal, limit, "evict_oldest")
    await cluster.app.ask(m.ChangeUsers((change,)), m.BatchResult)


async def posted(cluster: Cluster, who: Person, chat: Chat, count: int) -> list[m.BlobReference]:
    """So many blobs, each a second older than the next."""
    made = []
    for number in range(count):
        made.append(await who.upload(post(number), chat))
        await cluster.settle()
        await trio.sleep(1)
    return made


async def test_b27_the_oldest_make_room_and_are_gone_everywhere(
    autojump_clock, cluster: Cluster, general: Chat
) -> None:
    alice, bob = cluster.alice, cluster.bob
    await let_evict(cluster, alice, 3 * SIZE)
    made = await posted(cluster, alice, general, 3)
    await bob.upload(post(0), general)
    await alice.upload(post(3), general)
    await cluster.settle()
    await cluster.check_accounts()
    assert await alice.account() == (3 * SIZE, 0)
    # Alice's oldest is bob's as well, and stays his.
    assert await bob.can_read(general, made[0])
    await alice.upload(post(4), general)
    await cluster.settle()
    await cluster.check_accounts()
    assert not await bob.can_read(general, made[1])
    assert await bob.can_read(general, made[2])
    assert await alice.account() == (3 * SIZE, 0)


async def test_b27_nothing_goes_for_a_blob_that_cannot_fit(
    autojump_clock, cluster: Cluster, general: Chat
) -> None:
    alice = cluster.alice
    await let_evict(cluster, alice, 3 * SIZE)
    made = await posted(cluster, alice, general, 2)
    await alice.allocate(post(7))
    with pytest.raises(AllowanceExceededError):
        await alice.allocate(b"x" * (2 * SIZE + 1))
    await cluster.settle()
    for each in made:
        assert await cluster.bob.can_read(general, each)


async def test_b60_what_is_evicted_is_posted_again_once_its_bucket_has_heard(
    autojump_clock, cluster: Cluster, general: Chat
) -> None:
    """While the bucket is away the blob is busy; the client tries until it is not."""
    alice = cluster.alice
    await let_evict(cluster, alice, SIZE)
    (made,) = await posted(cluster, alice, general, 1)
    away = cluster.node(made.bucket)
    again = await alice.allocate(post(0))
    assert again.already_yours
    away.go_offline()
    held = await alice.allocate(post(1))
    with pytest.raises(BusyError):
        await alice.allocate(post(0))
    await alice.ask(m.ReleaseGrant(held.grant_id), m.Ok)
    away.go_online()
    await cluster.settle()
    with pytest.raises(BusyError):  # the old grant rests on what is gone: it is closed first
        await alice.allocate(post(0))
    await cluster.settle()
    await alice.upload(post(0), general)
    await cluster.settle()
    await cluster.check_accounts()
    assert await alice.account() == (SIZE, 0)
    assert await cluster.bob.can_read(general, made)


async def test_a_blocked_blob_is_refused_everywhere_until_it_is_unblocked(
    autojump_clock, cluster: Cluster, general: Chat
) -> None:
    alice, bob = cluster.alice, cluster.bob
    made = await alice.upload(post(0), general)
    held = await bob.allocate(post(0))
    blob_id = blob_of(post(0))
    await cluster.operator.ask(ac.BlockBlob(blob_id), m.Ok)
    await cluster.settle()
    assert not await bob.can_read(general, made)
    with pytest.raises(BlobBlockedError):
        await bob.allocate(post(0))
    with pytest.raises(BlobBlockedError):
        await bob.push_all(held, post(0), general)
    assert await alice.account() == (SIZE, 0)
    await cluster.operator.ask(ac.BlockBlob(blob_id, blocked=False), m.Ok)
    await cluster.settle()
    assert await bob.can_read(general, made)
    await bob.push_all(held, post(0), general)
    await cluster.settle()
    await cluster.check_accounts()
