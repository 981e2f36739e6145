"""Feeds and outboxes end to end: whatever is lost, repeated, poisoned or away, they catch up."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

import pytest
import trio
from structlog.testing import capture_logs

from ostnode.errors import AllowanceExceededError, GrantClosedError, OstError
from ostnode.net.transport import LinkClosedError
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.records import Kind
from ostnode.roles.index.core.rows import FeedRow
from ostnode.store.record import NewRecord
from ostnode.store.simdisk import Faults
from ostnode.wire import messages as m
from tests.support.cluster import LIMIT, BucketNode, Cluster, Shape, insist
from tests.support.people import Chat, Person, pieces

DATA = bytes(range(251)) * 60
T = TypeVar("T")


def waiting(bucket: BucketNode) -> int:
    """Events that the index has not acknowledged."""
    return len(bucket.rows.outbox(1000))


@pytest.mark.parametrize("lost", [m.SyncBucket, m.Feed])
@pytest.mark.parametrize("end", ["nothing", "kill", "power", "index"])
async def test_b31_a_lost_answer_changes_nothing(
    lost: type, end: str, autojump_clock, cluster: Cluster, alice: Person, app: Person
) -> None:
    """The batch is applied, its answer is lost, somebody dies: it is applied once."""
    general = cluster.general
    made = await alice.upload(DATA, general)
    bucket = cluster.node(made.bucket)
    await cluster.settle()
    cluster.index.gate.lose_replies(lost, 2)
    asked_before = len(cluster.index.gate.asked)
    await alice.remove(made, general)
    await insist(lambda: alice.upload(DATA, general, ref_id=b"again"))
    await insist(lambda: app.change(("update", alice, LIMIT - 1)))
    await cluster.until(lambda: len(cluster.index.gate.asked) > asked_before + 2)
    if end == "index":
        await cluster.index.kill()
        await cluster.index.start()
    elif end != "nothing":
        await bucket.crash(power=end == "power")
    await cluster.check_accounts()
    assert await alice.account() == (len(DATA), 0)


async def test_b31_poison_in_the_outbox_is_set_aside_and_the_queue_moves_on(
    autojump_clock, cluster: Cluster, alice: Person, general: Chat
) -> None:
    made = await alice.upload(DATA, general)
    bucket = cluster.node(made.bucket)
    await cluster.settle()
    bucket.go_offline()
    await alice.remove(made, general)

    def poison(draft: Draft) -> None:
        number = draft.number(t.OUTBOX_NEXT)
        draft._append(NewRecord(Kind.OUTBOX, b"\xffnot an event", number=number))

    await bucket.service._desk.decide(poison)
    await alice.upload(DATA[:100], general)
    cluster.index.gate.lose_replies(m.SyncBucket, 3)
    with capture_logs() as logs:
        bucket.go_online()
        await cluster.settle()
    set_aside = [entry for entry in logs if entry["event"] == "event rejected by the index"]
    assert len(set_aside) == 1
    assert (await cluster.status()).rejected_events == 1
    assert waiting(bucket) == 0
    assert await alice.account() == (100, 0)


async def test_b31_poison_in_the_feed_is_set_aside_and_the_feed_moves_on(
    autojump_clock, cluster: Cluster, alice: Person, app: Person, general: Chat
) -> None:
    made = await alice.upload(DATA, general)
    await cluster.settle()
    seq = (await cluster.status()).feed_seq
    for bucket in cluster.buckets:
        bucket.go_offline()
    other = Chat("other", cluster.clock)
    await app.delete_chat(other)
    await trio.sleep(2)
    await cluster.index.role.service._transact(
        lambda tables: tables.feed.put(FeedRow(b"a" + other.principal, seq + 1, b"", b"\xff"))
    )
    await app.delete_chat(general)
    for bucket in cluster.buckets:
        bucket.go_online()
    await cluster.settle()
    assert all(bucket.rows.burned(general.principal) for bucket in cluster.buckets)
    assert not await cluster.bob.can_read(general, made)
    await cluster.check_accounts()
    assert await alice.account() == (0, 0)


async def test_b32_a_bucket_that_was_away_for_a_day_catches_up_in_order(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person, general: Chat
) -> None:
    random = cluster.random
    lost, kept = await alice.upload(DATA, general), await alice.upload(b"kept", random)
    await cluster.settle()
    for bucket in cluster.buckets:
        await bucket.kill()
    await app.delete_chat(general)
    await app.change(("delete", bob, 0), ("register", bob, 5), ("delete", bob, 0))
    cluster.clock.ahead_s += 86_400
    await trio.sleep(300)
    for bucket in cluster.buckets:
        await bucket.start()
    await cluster.check_accounts()
    assert not await cluster.carol.can_read(general, lost)
    assert await cluster.carol.can_read(random, kept)
    assert await alice.account() == (len(b"kept"), 0)


async def test_b38_an_index_that_was_away_has_lost_nothing_and_hears_everything(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, app: Person, general: Chat
) -> None:
    made = await alice.upload(DATA, general)
    allocation = await bob.allocate(DATA)
    await app.change(("update", bob, len(DATA)))
    await cluster.index.kill()
    assert await alice.remove(made, general) == ""
    await bob.push_all(allocation, DATA, general)
    with pytest.raises(LinkClosedError):
        await bob.info()
    await trio.sleep(100)
    await cluster.index.start()
    await cluster.check_accounts()
    assert (await alice.account(), await bob.account()) == ((0, 0), (len(DATA), 0))
    with pytest.raises(AllowanceExceededError):
        await bob.allocate(b"more")


async def test_b51_an_index_stops_in_order_under_its_buckets_long_polls(
    autojump_clock, cluster: Cluster, alice: Person, general: Chat
) -> None:
    with trio.fail_after(5):
        await cluster.index.stop()
    await cluster.index.start()
    await alice.upload(DATA, general)
    await cluster.check_accounts()


async def test_b51_a_stopping_bucket_answers_what_is_in_flight(
    autojump_clock, cluster: Cluster, alice: Person, general: Chat
) -> None:
    allocation = await alice.allocate(DATA)
    bucket = cluster.node(allocation.bucket.principal)
    results: list[m.PushResult] = []

    async def push(index: int) -> None:
        results.append(await alice.push(allocation, index, pieces(DATA)[index], general))

    await push(0)
    async with trio.open_nursery() as nursery:
        for index in (1, 2, 3):
            nursery.start_soon(push, index)
        await cluster.until(lambda: len(bucket.gate.asked) == 4)
        with trio.fail_after(5):
            await bucket.stop()
    assert sorted(result.missing for result in results) == [0, 1, 2, 3]
    await bucket.start()
    await cluster.check_accounts()
    assert await alice.account() == (len(DATA), 0)


async def test_b33_one_hash_has_one_home_while_anybody_holds_it(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    """Whatever bucket is away or full, a blob's next upload goes where its copy is."""
    made = await alice.upload(DATA, general)
    await cluster.settle()
    home = cluster.node(made.bucket)
    (other,) = (bucket for bucket in cluster.buckets if bucket is not home)
    await home.kill()
    assert (await bob.allocate(DATA)).bucket.principal == made.bucket
    await home.start()
    await other.kill()
    assert (await bob.upload(DATA, general)).bucket == made.bucket
    await other.start()
    await cluster.check_accounts()


# --- durability ---

CRASH_POINTS = [
    pytest.param(point, marks=[] if point % 4 == 1 else [pytest.mark.deep])
    for point in range(1, 70)
]
"""Numbers of the disk operation that the power fails in."""


@pytest.mark.parametrize("shape", [Shape(buckets=1)])
@pytest.mark.parametrize("crash_at", CRASH_POINTS)
async def test_b40_b67_what_was_answered_survives_a_power_cut_anywhere(
    crash_at: int, autojump_clock, cluster: Cluster, alice: Person, bob: Person, general: Chat
) -> None:
    """Answers, refusals included, are told when a crash cannot undo them; the index knows no
    more than the disk.
    """
    (bucket,) = cluster.buckets
    random = cluster.random
    begun: list[str] = []
    told: dict[str, object] = {}

    async def step(name: str, attempt: Awaitable[T]) -> T:
        begun.append(name)
        told[name] = answer = await attempt
        return answer

    async def act() -> None:
        small = await step("small", alice.upload(b"small", general))
        await step("large", alice.upload(DATA, general))
        await step("forward", bob.forward(DATA, general, random))
        await step("removal", alice.remove(small, general))
        given_up = await step("grant", bob.allocate(DATA[::-1]))
        for index in range(3):
            await bob.push(given_up, index, pieces(DATA[::-1])[index])
        await step("cancel", bob.cancel(given_up, DATA[::-1]))

    await cluster.settle()
    bucket.disk.faults = Faults(crash_at=bucket.disk.operations + crash_at)
    with trio.move_on_after(20), suppress(LinkClosedError, OstError):
        await act()
    await bucket.crash(power=True)
    await cluster.settle()
    visitor = cluster.stranger
    if "large" in told:
        assert await visitor.can_read(general, told["large"])
    if "forward" in told:
        assert await visitor.can_read(random, told["forward"])
    if "small" in told and ("removal" in told or "removal" not in begun):
        assert await visitor.can_read(general, told["small"]) == ("removal" not in told)
    if "cancel" in told:
        with pytest.raises(GrantClosedError):
            await bob.push(told["grant"], 0, pieces(DATA[::-1])[0])
    await cluster.check_accounts()
    await act()
    await cluster.check_accounts()
    assert (await alice.account(), await bob.account()) == ((len(DATA), 0),) * 2
