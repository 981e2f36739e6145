"""Bucket states: who decides them, what follows for new blobs, and when a bucket is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from ostnode.errors import BusyError, InvalidArgumentError, NoBucketError, NotFoundError
from ostnode.ids import BlobId, Principal
from ostnode.roles.index import Rules
from ostnode.roles.index.core.buckets import heard_of, mark_lost
from ostnode.roles.index.fleet import INTERVAL_S
from ostnode.wire import fleet as f
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from tests.support.index_cluster import ROOMY, IndexCluster, OutboxEnd, an_index, blob

TIGHT = m.Space(total=1000, free=20, stored=0)
BETWEEN = m.Space(total=1000, free=80, stored=0)
ENOUGH = m.Space(total=1000, free=200, stored=0)
TARGET = Rules(target_active=1)


async def set_state(index: IndexCluster, bucket: OutboxEnd, state: str) -> str:
    """The state it has then."""
    answer = await index.ask(index.operator, f.SetBucketState(bucket.key.principal, state))
    assert isinstance(answer, f.BucketStanding)
    return answer.state


async def told(index: IndexCluster) -> f.FleetInfo:
    answer = await index.ask(index.operator, f.FleetStatus())
    assert isinstance(answer, f.FleetInfo)
    return answer


async def states(index: IndexCluster) -> list[str]:
    """In the order of `index.buckets`."""
    known = {bucket.principal: bucket.state for bucket in (await told(index)).buckets}
    return [known[bucket.key.principal] for bucket in index.buckets]


async def test_b34_full_and_active_with_a_gap_between() -> None:
    async with an_index() as index:
        for space, state in [
            (ROOMY, "active"), (BETWEEN, "active"), (TIGHT, "full"), (BETWEEN, "full"),
            (ENOUGH, "active"),
        ]:  # fmt: skip
            await index.bucket.sync(space=space)
            assert await states(index) == [state]


async def test_without_a_target_all_that_report_are_active() -> None:
    async with an_index(buckets=3) as index:
        assert await states(index) == ["active"] * 3


@pytest.mark.parametrize("state", ["standby", "full", "retired"])
async def test_b33_what_an_operator_decided_outlasts_reports_and_restarts(
    state: str, tmp_path
) -> None:
    async with an_index(directory=tmp_path, buckets=2) as index:
        first = index.buckets[0]
        assert await set_state(index, first, state) == state
    async with index.open():
        await first.sync()
        assert await states(index) == [state, "active"]
        for number in range(8):
            allocation = await index.allocate(index.alice, blob(number), 1)
            assert allocation.bucket.principal == index.buckets[1].key.principal
        assert await set_state(index, first, "active") == "active"


@pytest.mark.parametrize("state", ["standby", "full", "retired"])
async def test_b33_a_bucket_keeps_what_was_placed_there(state: str) -> None:
    async with an_index(buckets=2) as index:
        before = await index.allocate(index.alice, blob(1), 10)
        holder = next(
            each for each in index.buckets if each.key.principal == before.bucket.principal
        )
        await set_state(index, holder, state)
        again = await index.allocate(index.alice, blob(1), 10)
        assert (again.bucket, again.grant_id) == (before.bucket, before.grant_id)
        await holder.sync(holder.completed(again))
        await index.change(("register", index.bob, 100))
        assert (await index.allocate(index.bob, blob(1), 10)).bucket == before.bucket


async def test_an_activated_bucket_without_room_is_full() -> None:
    async with an_index() as index:
        await set_state(index, index.bucket, "standby")
        await index.bucket.sync(space=TIGHT)
        assert await states(index) == ["standby"]
        assert await set_state(index, index.bucket, "active") == "full"


@pytest.mark.parametrize("state", ["pending", "lost", "draining", "revoked", "", "Active"])
async def test_states_that_nobody_sets_are_refused(state: str) -> None:
    async with an_index() as index:
        with pytest.raises(InvalidArgumentError):
            await set_state(index, index.bucket, state)
        assert await states(index) == ["active"]


async def test_unknown_and_revoked_buckets_are_refused() -> None:
    async with an_index() as index:
        with pytest.raises(NotFoundError):
            await index.ask(index.operator, f.SetBucketState(Principal(bytes(32)), "standby"))
        await index.ask(index.operator, mb.RevokeBucket(index.bucket.key.principal))
        with pytest.raises(InvalidArgumentError, match="approve"):
            await set_state(index, index.bucket, "standby")


async def test_what_was_decided_for_a_bucket_that_is_not_there_waits_for_it() -> None:
    async with an_index() as index:
        principal = index.bucket.key.principal
        await set_state(index, index.bucket, "retired")
        await index.ask(index.operator, mb.RevokeBucket(principal))
        await index.ask(index.operator, mb.ApproveBucket(principal))
        assert await states(index) == ["pending"]
        assert await set_state(index, index.bucket, "standby") == "pending"
        await index.bucket.sync()
        assert await states(index) == ["standby"]


async def tick(index: IndexCluster, seconds: float) -> None:
    """Time goes by, for clocks and tasks."""
    index.clock.time += seconds
    await trio.sleep(seconds)


async def test_a_silent_bucket_is_lost_until_it_reports(autojump_clock) -> None:
    async with an_index(buckets=2) as index:
        loud, silent = index.buckets
        allocation = None
        for number in range(20):
            allocation = await index.allocate(index.alice, blob(number), 1)
            if allocation.bucket.principal == silent.key.principal:
                break
        for _ in range(6):
            assert await states(index) == ["active", "active"]
            await tick(index, 50)
            await loud.sync()
        await tick(index, 2 * INTERVAL_S)
        assert await states(index) == ["active", "lost"]
        with pytest.raises(NoBucketError, match="heard of"):
            await index.allocate(index.alice, blob(number), 1)
        assert (await index.allocate(index.alice, blob(100), 1)).bucket.principal == (
            loud.key.principal
        )
        await silent.sync()
        assert await states(index) == ["active", "active"]
        again = await index.allocate(index.alice, blob(number), 1)
        assert allocation is not None
        assert again.grant_id == allocation.grant_id


async def test_a_lost_bucket_comes_back_as_what_it_was(autojump_clock) -> None:
    async with an_index() as index:
        await set_state(index, index.bucket, "retired")
        await tick(index, 310)
        assert await states(index) == ["lost"]
        assert await set_state(index, index.bucket, "standby") == "lost"
        await index.bucket.sync()
        assert await states(index) == ["standby"]


async def test_an_index_that_was_away_or_whose_clock_jumps_loses_no_bucket(
    autojump_clock, tmp_path
) -> None:
    async with an_index(directory=tmp_path) as index:
        index.clock.time += 1_000_000
        await trio.sleep(100)
        assert await states(index) == ["active"]
    await trio.sleep(10_000)
    async with index.open():
        await trio.sleep(290)
        assert await states(index) == ["active"]
        await trio.sleep(20)
        assert await states(index) == ["lost"]


async def test_pages_tell_all_buckets(autojump_clock) -> None:
    async with an_index(buckets=f.BUCKETS_TOLD_MAX + 3) as index:
        first = await told(index)
        assert len(first.buckets) == f.BUCKETS_TOLD_MAX
        rest = await index.ask(index.operator, f.FleetStatus(first.buckets[-1].principal))
        assert isinstance(rest, f.FleetInfo)
        found = [bucket.principal for bucket in (*first.buckets, *rest.buckets)]
        assert found == sorted(bucket.key.principal for bucket in index.buckets)


async def test_zone_and_weight_are_what_the_bucket_told_last() -> None:
    async with an_index(buckets=2) as index:
        small, large = index.buckets
        for zone, weight in [("rack 1", 1), ("rack 2", 2), ("", 0)]:
            small.zone, small.weight = zone, weight
            await small.sync()
            found = {each.principal: each for each in (await told(index)).buckets}
            shown = found[small.key.principal]
            assert (shown.zone, shown.weight) == (zone, weight)
        # A link without the feature says nothing of them, and that changes nothing.
        small.zone, small.weight = "rack 1", 1
        await small.sync()
        small.zone = small.weight = None
        await small.sync()
        shown = {each.principal: each for each in (await told(index)).buckets}
        assert shown[small.key.principal].zone == "rack 1"
        # The other one has the weight of its disk, 1 TiB: it gets everything.
        for number in range(20):
            blob_id = BlobId(number.to_bytes(1, "big") * 32)
            allocation = await index.allocate(index.alice, blob_id, 1)
            assert allocation.bucket.principal == large.key.principal


@pytest.mark.parametrize("apart", range(4))
async def test_b35_a_standby_of_the_zone_with_the_fewest_is_activated(
    apart: int, autojump_clock
) -> None:
    async with an_index(Rules(target_active=2), buckets=4) as index:
        for number, bucket in enumerate(index.buckets):
            bucket.zone = "apart" if number == apart else "together"
            await bucket.sync()
        await tick(index, 5 * INTERVAL_S)
        assert (await states(index)).count("active") == 2
        assert (await states(index))[apart] == "active"


async def test_a_bucket_that_reports_while_it_is_judged_is_not_lost(autojump_clock) -> None:
    async with an_index() as index:
        assert index.service is not None
        bucket = index.bucket.key.principal
        heard = await index.service._transact(heard_of)
        index.clock.time += 1000
        await index.bucket.sync()
        assert await index.service._transact(lambda tables: mark_lost(tables, heard)) == []
        assert await states(index) == ["active"]
        heard = await index.service._transact(heard_of)
        assert await index.service._transact(lambda tables: mark_lost(tables, heard)) == [bucket]


async def test_a_later_poll_of_a_bucket_takes_the_place_of_the_one_before(autojump_clock) -> None:
    async with an_index() as index, trio.open_nursery() as nursery:
        await index.bucket.feed()
        outcome: list[object] = []

        async def poll() -> None:
            try:
                outcome.append(await index.bucket.feed(wait_ms=30_000))
            except BusyError:
                outcome.append("superseded")

        nursery.start_soon(poll)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(poll)
        await trio.sleep(1)
        assert outcome == ["superseded"]
        await index.change(("register", index.bob, 5))
        await trio.sleep(2)
        assert len(outcome) == 2
        assert outcome[1] != []


# --- top-up ---


async def test_b35_with_a_target_newcomers_stand_by_and_are_activated_when_needed(
    autojump_clock,
) -> None:
    async with an_index(TARGET, buckets=3) as index:
        await tick(index, 2 * INTERVAL_S)
        assert sorted(await states(index)) == ["active", "standby", "standby"]
        active = index.buckets[(await states(index)).index("active")]
        await active.sync(space=TIGHT)
        await tick(index, 2 * INTERVAL_S)
        assert sorted(await states(index)) == ["active", "full", "standby"]
        assert (await told(index)).alert == ""


async def test_b35_no_more_are_activated_than_are_missing(autojump_clock) -> None:
    async with an_index(Rules(target_active=2), buckets=4) as index:
        await tick(index, 10 * INTERVAL_S)
        assert sorted(await states(index)) == ["active", "active", "standby", "standby"]


async def test_b35_none_left_is_an_alert(autojump_clock, capsys) -> None:
    async with an_index(TARGET) as index:
        await tick(index, 2 * INTERVAL_S)
        await index.bucket.sync(space=TIGHT)
        for _ in range(3):
            await tick(index, 2 * INTERVAL_S)
            alert = "0 of 1 buckets are active, and no bucket stands by"
            assert (await told(index)).alert == alert
        assert capsys.readouterr().out.count("too_few_buckets") == 1
        await index.bucket.sync(space=ROOMY)
        await tick(index, 2 * INTERVAL_S)
        assert (await told(index)).alert == ""


async def test_b35_headroom_activates_too(autojump_clock) -> None:
    rules = Rules(target_active=1, headroom_bytes=500)
    async with an_index(rules, buckets=3) as index:
        for bucket in index.buckets:
            await bucket.sync(space=replace(ENOUGH, free=300))
        await tick(index, 4 * INTERVAL_S)
        assert sorted(await states(index)) == ["active", "active", "standby"]
        # What is promised counts as used: two buckets are too few then.
        await index.allocate(index.alice, blob(1), 250)
        await tick(index, 30)
        assert await states(index) == ["active"] * 3
        assert (await told(index)).alert == ""
        for bucket in index.buckets:
            await bucket.sync(space=replace(ENOUGH, free=100))
        await tick(index, 2 * INTERVAL_S)
        assert (await told(index)).alert.endswith(
            "bytes of headroom are free, and no bucket stands by"
        )
