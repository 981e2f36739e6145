"""The feed: dense, complete from any cursor, prompt for what is urgent."""

from __future__ import annotations

import pytest
import trio

from ostnode.errors import InvalidArgumentError
from ostnode.roles.index.core.feed import STAMPS_MAX
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.eventcodec import EVENTS_BYTES_MAX
from tests.support.index_cluster import OutboxEnd, an_index, blob


async def test_b29_a_registration_reaches_a_waiting_bucket_at_once(autojump_clock) -> None:
    async with an_index() as index:
        await index.bucket.feed()
        started = trio.current_time()
        heard: list[e.FeedEvent] = []

        async def wait() -> None:
            heard.extend(await index.bucket.feed(wait_ms=60_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await index.change(("register", index.bob, 700))
        assert trio.current_time() == started
        assert heard == [
            e.UserChanged(await index.uid(index.bob), index.bob.proven, 1, bytes_left=700)
        ]


async def test_bytes_left_alone_are_pushed_once_an_interval(autojump_clock) -> None:
    async with an_index() as index:
        await index.bucket.feed(wait_ms=5000)
        await trio.sleep(0.25)
        started = trio.current_time()
        for number in range(5):
            await index.allocate(index.alice, blob(number), 10)
        (event,) = await index.bucket.feed(wait_ms=60_000)
        assert event.bytes_left == 950
        assert event.version == 6
        assert 0.7 < trio.current_time() - started < 0.8


async def test_an_urgent_change_hurries_a_pending_one(autojump_clock) -> None:
    async with an_index() as index:
        await index.bucket.feed(wait_ms=5000)
        await trio.sleep(0.25)
        await index.allocate(index.alice, blob(1), 10)
        started = trio.current_time()
        await index.change(("delete", index.alice, 0))
        events = await index.bucket.feed(wait_ms=60_000)
        assert trio.current_time() == started
        assert [type(event) for event in events] == [e.UserChanged, e.GrantRevoked]
        assert events[0].deleted


async def test_a_feed_without_news_answers_after_the_wait(autojump_clock) -> None:
    async with an_index() as index:
        await index.bucket.feed(wait_ms=5000)
        started = trio.current_time()
        request = m.Feed(*index.bucket.cursor, 2500)
        index.clock.time += 7
        batch = await index.ask(index.bucket.caller, request)
        assert batch.events == ()
        assert batch.next_seq == index.bucket.cursor[1]
        assert batch.index_time == int(index.clock.time)
        assert trio.current_time() == started + 2.5


async def test_b32_a_bucket_that_starts_from_nothing_is_told_everything_that_stands(
    autojump_clock,
) -> None:
    async with an_index() as index:
        gone = await index.uid(index.alice)
        await index.change(("delete", index.alice, 0), ("register", index.bob, 5))
        await index.ask(index.app, m.DeleteAccessor(index.general.principal))
        await index.ask(index.app, m.BlockPrincipal(index.alice.proven))
        held = await index.allocate(index.bob, blob(1), 5)
        await index.ask(index.bob, m.ReleaseGrant(held.grant_id))
        first = await index.bucket.feed(wait_ms=2000)
        late = OutboxEnd(index, index.bucket.key)
        assert await late.feed() == first
        assert {type(event) for event in first} == {
            e.UserChanged,
            e.AccessorDeleted,
            e.PrincipalBlocked,
            e.GrantRevoked,
        }
        assert gone in {x.uid for x in first if isinstance(x, e.UserChanged) and x.deleted}
        await index.bucket.sync(index.bucket.closed(held, "revoked"))
        later = await OutboxEnd(index, index.bucket.key).feed()
        assert not any(isinstance(event, e.GrantRevoked) for event in later)


async def test_a_revocation_goes_to_the_grants_bucket_alone(autojump_clock) -> None:
    async with an_index(buckets=2) as index:
        held = await index.allocate(index.alice, blob(1), 5)
        await index.ask(index.alice, m.ReleaseGrant(held.grant_id))
        for bucket in index.buckets:
            mine = bucket.key.principal == held.bucket.principal
            events = await bucket.feed()
            assert any(isinstance(event, e.GrantRevoked) for event in events) is mine
            assert bucket.cursor[1] == (await index.status()).feed_seq


async def test_a_revocation_is_announced_once_however_often_it_is_asked_for(
    autojump_clock,
) -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 5)
        await index.ask(index.alice, m.ReleaseGrant(held.grant_id))
        await index.bucket.feed(wait_ms=2000)
        await trio.sleep(2)
        await index.bucket.feed()
        await index.ask(index.alice, m.ReleaseGrant(held.grant_id))
        assert await index.bucket.feed(wait_ms=2000) == []


async def test_a_revocation_answered_before_it_was_stamped_is_never_sent(autojump_clock) -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 5)
        await index.bucket.feed(wait_ms=1000)
        async with trio.open_nursery() as nursery:
            # Both are in one batch: the close overtakes the stamp.
            nursery.start_soon(index.ask, index.alice, m.ReleaseGrant(held.grant_id))
            nursery.start_soon(index.bucket.sync, index.bucket.closed(held, "cancelled"))
        events = await index.bucket.feed(wait_ms=2000)
        assert [type(event) for event in events] == [e.UserChanged]


async def test_a_long_feed_comes_in_batches_that_fit_a_frame(autojump_clock) -> None:
    users = 2 * STAMPS_MAX + 100
    async with an_index() as index:
        principals = [index.rng.token(32) for _ in range(users)]
        for start in range(0, users, 500):
            changes = tuple(
                m.UserChange("register", type(index.alice.proven)(each), 1)
                for each in principals[start : start + 500]
            )
            await index.ask(index.app, m.ChangeUsers(changes))
        await trio.sleep(1)
        assert (await index.status()).feed_seq == users + 1
        heard, batches = [], 0
        while index.bucket.cursor[1] < users + 1:
            batch = await index.ask(index.bucket.caller, m.Feed(*index.bucket.cursor, 0))
            assert sum(map(len, batch.events)) <= EVENTS_BYTES_MAX
            events = await index.bucket.feed()
            assert len(events) == len(batch.events)
            heard += events
            batches += 1
        assert batches > 2
        assert [event.principal for event in heard[1:]] == principals


@pytest.mark.parametrize(("incarnation", "seq"), [(17, 0), (0, 1), (None, 99)])
async def test_a_cursor_that_is_not_of_this_feed_must_resync(
    autojump_clock, incarnation: int | None, seq: int
) -> None:
    async with an_index() as index:
        mine = (await index.status()).incarnation
        with pytest.raises(InvalidArgumentError) as refused:
            await index.ask(
                index.bucket.caller, m.Feed(mine if incarnation is None else incarnation, seq, 0)
            )
        assert refused.value.details["resync"] == 1


async def test_the_status_says_where_each_bucket_reads(autojump_clock) -> None:
    async with an_index() as index:
        await index.bucket.feed(wait_ms=2000)
        await index.bucket.feed()
        status = await index.status()
        assert status.feed_seq == 1
        assert status.buckets[0].feed_acked == 1
        assert status.buckets[0].last_seen == int(index.clock.time)
