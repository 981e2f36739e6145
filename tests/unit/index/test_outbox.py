"""sync_bucket: exactly once in effect, whatever is lost, repeated or malformed."""

from __future__ import annotations

import pytest

from ostnode.codec import encode
from ostnode.errors import BusyError, InvalidArgumentError, NotAuthorizedError
from ostnode.ids import GrantId, Uid
from ostnode.roles.index.core import resync
from ostnode.wire import checking as ck
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Kind
from ostnode.wire.eventcodec import encode_event
from tests.support.index_cluster import ROOMY, IndexCluster, an_index, blob


async def _rows(index: IndexCluster, table: str) -> list[object]:
    return await index.service._transact(lambda tables: getattr(tables, table).where())


async def test_completion_moves_reserved_to_used_and_names_the_latest_end() -> None:
    async with an_index() as index:
        first = await index.allocate(index.alice, blob(1), 100)
        index.clock.time += 50
        renewed = await index.allocate(index.alice, blob(1), 100)
        result = await index.bucket.sync(index.bucket.completed(first))
        assert result.acked_seq == 1
        assert result.closed == (m.ClosedEnd(first.grant_id, renewed.expires_at),)
        assert result.rejected == ()
        assert await index.account(index.alice) == (100, 0)


async def test_b25_a_blob_uploaded_again_is_charged_once() -> None:
    async with an_index() as index:
        for _ in range(3):
            held = await index.allocate(index.alice, blob(1), 600)
            result = await index.bucket.sync(index.bucket.completed(held))
            assert result.closed == (m.ClosedEnd(held.grant_id, held.expires_at),)
            assert await index.account(index.alice) == (600, 0)
        await index.bucket.sync(index.bucket.released(held))
        assert await index.account(index.alice) == (0, 0)


async def test_b31_a_repeated_batch_is_answered_alike_and_changes_nothing() -> None:
    async with an_index() as index:
        held = [await index.allocate(index.alice, blob(n), 100) for n in range(3)]
        events = [index.bucket.completed(each) for each in held]
        first = await index.bucket.sync(*events)
        again = await index.bucket.sync(*events, first_seq=1)
        assert again == first
        assert await index.account(index.alice) == (300, 0)


async def test_b31_a_restarted_bucket_may_send_a_longer_or_shorter_batch() -> None:
    """It cannot know where the batch whose answer it lost ended."""
    async with an_index() as index:
        held = [await index.allocate(index.alice, blob(n), 100) for n in range(4)]
        events = [index.bucket.completed(each) for each in held]
        ends = [m.ClosedEnd(each.grant_id, each.expires_at) for each in held]
        await index.bucket.sync(*events[:3])
        shorter = await index.bucket.sync(*events[:2], first_seq=1)
        assert (shorter.acked_seq, list(shorter.closed)) == (3, ends[:2])
        longer = await index.bucket.sync(*events, first_seq=1)
        assert (longer.acked_seq, list(longer.closed)) == (4, ends)
        middle = await index.bucket.sync(*events[2:], first_seq=3)
        assert (middle.acked_seq, list(middle.closed)) == (4, ends[2:])
        assert await index.account(index.alice) == (400, 0)


async def test_an_empty_batch_reports_space() -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 100)
        await index.bucket.sync(index.bucket.completed(held))
        await index.bucket.sync(space=m.Space(10, 5, 4))
        status = (await index.status()).buckets[0]
        assert (status.space, status.outbox_acked) == (m.Space(10, 5, 4), 1)
        assert await _rows(index, "answers") == []


async def test_a_gap_is_refused() -> None:
    async with an_index() as index:
        with pytest.raises(InvalidArgumentError) as refused:
            await index.bucket.sync(e.FloorRaised(1), first_seq=2)
        assert refused.value.details["acked_seq"] == 0
        assert not refused.value.details["behind"]
        with pytest.raises(InvalidArgumentError):
            await index.bucket.sync(e.FloorRaised(1), first_seq=0)


async def test_other_events_under_used_numbers_mean_a_bucket_set_back() -> None:
    async with an_index() as index:
        held = [await index.allocate(index.alice, blob(n), 100) for n in range(3)]
        events = [index.bucket.completed(each) for each in held]
        await index.bucket.sync(*events[:2])
        index.clock.time += resync.LIVE_S
        for batch, first in ((events[2:], 1), (events[:1] + events[2:], 1)):
            with pytest.raises(InvalidArgumentError) as refused:
                await index.bucket.sync(*batch, first_seq=first)
            assert refused.value.details["resync"] == refused.value.details["behind"] == 1
        await index.bucket.sync(events[2])
        # It moved on to 3, so it had the answers before that.
        index.clock.time += resync.LIVE_S
        with pytest.raises(InvalidArgumentError) as refused:
            await index.bucket.sync(events[0], first_seq=1)
        assert refused.value.details["resync"] == 1
        assert await index.account(index.alice) == (300, 0)


async def test_an_empty_batch_behind_what_was_acknowledged_means_a_bucket_set_back() -> None:
    """It would have sent again whatever it does not know the answer to."""
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 100)
        await index.bucket.sync(index.bucket.completed(held))
        index.clock.time += resync.LIVE_S
        with pytest.raises(InvalidArgumentError) as refused:
            await index.bucket.sync(first_seq=1)
        assert refused.value.details["resync"] == refused.value.details["behind"] == 1


async def test_another_incarnation_is_not_synced() -> None:
    async with an_index() as index:
        own = index.bucket.incarnation
        index.clock.time += resync.LIVE_S
        for incarnation, behind in ((own + 1, 0), (own - 1, 1), (0, 1)):
            request = m.SyncBucket(incarnation, 1, (), ROOMY, "")
            with pytest.raises(InvalidArgumentError) as refused:
                await index.ask(index.bucket.caller, request)
            assert refused.value.details["resync"] == 1
            assert (refused.value.details["bucket"], refused.value.details["behind"]) == (
                own,
                behind,
            )


async def test_of_two_that_speak_for_one_bucket_the_first_goes_on() -> None:
    """A copied key or directory: the other is refused for as long as the first is there."""
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 100)
        await index.bucket.sync(index.bucket.completed(held))
        own = index.bucket.incarnation
        for _ in range(3):
            index.clock.time += resync.LIVE_S - 1
            await index.bucket.sync()
            for incarnation in (own + 1, own - 1):
                request = m.SyncBucket(incarnation, 1, (), ROOMY, "")
                with pytest.raises(BusyError, match="in use twice"):
                    await index.ask(index.bucket.caller, request)
                begin = ck.Compare(0, ck.Part.BEGIN, own + 1, index_life(index), 0)
                with pytest.raises(BusyError, match="in use twice"):
                    await index.ask(index.bucket.caller, begin)
            with pytest.raises(BusyError, match="in use twice"):
                await index.bucket.sync(first_seq=1)
        assert (await index.status()).buckets[0].incarnation == own


def index_life(index: IndexCluster) -> int:
    return index.service._comparing.incarnation


async def test_a_bucket_that_is_not_in_the_config_is_turned_away() -> None:
    async with an_index() as index:
        caller = Caller(index.bob.principal, frozenset({Kind.BUCKET}))
        with pytest.raises(NotAuthorizedError):
            await index.ask(caller, m.SyncBucket(1, 1, (), ROOMY, ""))


async def test_b31_one_poison_event_is_set_aside_and_the_queue_moves_on() -> None:
    async with an_index() as index:
        held = [await index.allocate(index.alice, blob(n), 100) for n in range(2)]
        good = [encode_event(index.bucket.completed(each)) for each in held]
        batch = [
            good[0],
            b"\xff\xff",
            encode_event(e.AccessorDeleted(index.general.principal)),
            good[1],
        ]
        result = await index.bucket.sync_bytes(*batch)
        assert result.acked_seq == 4
        assert [item.seq for item in result.rejected] == [2, 3]
        assert all(0 < len(item.reason) <= 60 for item in result.rejected)
        assert len(result.closed) == 2
        assert await index.account(index.alice) == (200, 0)
        assert (await index.status()).rejected_events == 2
        assert await index.bucket.sync_bytes(*batch, first_seq=1) == result
        assert (await index.status()).rejected_events == 2


async def test_b47_the_reasons_for_a_batch_of_poison_fit_a_frame() -> None:
    poison = [encode({"kind": f"{number}" + "\N{GRINNING FACE}" * 60}) for number in range(200)]
    async with an_index() as index:
        result = await index.bucket.sync_bytes(*poison)
        assert [item.seq for item in result.rejected] == [*range(1, 201)]
        assert all(0 < len(item.reason.encode()) <= 60 for item in result.rejected)


async def test_a_bucket_cannot_end_grants_that_are_not_its_own() -> None:
    async with an_index(buckets=2) as index:
        held = await index.allocate(index.alice, blob(1), 100)
        mine, other = sorted(
            index.buckets, key=lambda bucket: bucket.key.principal != held.bucket.principal
        )
        grant = mine.open(held)
        result = await other.sync(e.GrantClosed(grant.grant_id, grant.uid, blob(1), "cancelled"))
        assert [item.seq for item in result.rejected] == [1]
        result = await mine.sync(
            e.Completed(grant.grant_id, Uid(bytes(8)), blob(1), 100),
            e.Completed(grant.grant_id, grant.uid, blob(2), 100),
        )
        assert [item.seq for item in result.rejected] == [1, 2]
        assert await index.account(index.alice) == (0, 100)
        await other.sync(e.Released(grant.uid, blob(1), 100))
        await mine.sync(mine.completed(held))
        await other.sync(e.Released(grant.uid, blob(1), 100))
        assert await index.account(index.alice) == (100, 0)


async def test_b26_a_completion_of_another_size_than_its_grant_s_charges_nobody() -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 100)
        grant = index.bucket.open(held)
        for seq, size in enumerate((99, 101, 5000), 1):
            said = e.Completed(grant.grant_id, grant.uid, blob(1), size)
            result = await index.bucket.sync(said)
            assert [item.seq for item in result.rejected] == [seq]
            assert await index.account(index.alice) == (0, 100)
        await index.bucket.sync(index.bucket.completed(held))
        assert await index.account(index.alice) == (100, 0)


async def test_an_event_that_would_break_an_account_is_taken_back_whole() -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 100)
        grant = index.bucket.open(held)
        top = (1 << 63) - 1
        huge = e.Completed(GrantId(b"x" * 16), grant.uid, blob(7), top)
        result = await index.bucket.sync(
            huge, e.Completed(GrantId(b"y" * 16), grant.uid, blob(8), top)
        )
        assert [item.seq for item in result.rejected] == [2]
        assert await index.account(index.alice) == (top, 100)
        assert {row.blob_id for row in await _rows(index, "placements")} == {blob(1), blob(7)}
        assert {row.blob_id for row in await _rows(index, "charges")} == {blob(7)}


async def test_b53_a_used_cancelled_or_mismatched_grant_is_followed_by_a_new_one() -> None:
    async with an_index() as index:
        seen = set()
        for reason in ("cancelled", "hash_mismatch", "revoked", "expired"):
            held = await index.allocate(index.alice, blob(1), 1000)
            assert held.grant_id not in seen
            seen.add(held.grant_id)
            await index.bucket.sync(index.bucket.closed(held, reason))
            assert await index.account(index.alice) == (0, 0)
        used = await index.allocate(index.alice, blob(1), 1000)
        await index.bucket.sync(index.bucket.completed(used), index.bucket.released(used))
        assert await index.account(index.alice) == (0, 0)
        assert (await index.allocate(index.alice, blob(1), 1000)).grant_id not in {
            used.grant_id,
            *seen,
        }


async def test_b54_a_reserve_0_grant_whose_charge_has_gone_is_closed_first() -> None:
    async with an_index() as index:
        used = await index.allocate(index.alice, blob(1), 600)
        await index.bucket.sync(index.bucket.completed(used))
        free = await index.allocate(index.alice, blob(1), 600)
        assert index.bucket.open(free).reserved == 0
        await index.bucket.sync(index.bucket.released(used))
        assert await index.account(index.alice) == (0, 0)
        await index.bucket.feed()
        for _ in range(2):
            with pytest.raises(BusyError):
                await index.allocate(index.alice, blob(1), 600)
        grant = index.bucket.open(free)
        revoked = e.GrantRevoked(free.grant_id, grant.uid, blob(1), free.expires_at)
        assert revoked in await index.bucket.feed()
        await index.bucket.sync(index.bucket.closed(free, "revoked"))
        again = await index.allocate(index.alice, blob(1), 600)
        assert index.bucket.open(again).reserved == 600


async def test_b54_not_held_drops_the_charge_too() -> None:
    async with an_index() as index:
        used = await index.allocate(index.alice, blob(1), 600)
        await index.bucket.sync(index.bucket.completed(used))
        free = await index.allocate(index.alice, blob(1), 600)
        await index.bucket.sync(index.bucket.closed(free, "not_held"))
        assert await index.account(index.alice) == (0, 0)
        assert await _rows(index, "placements") == []


async def test_the_floor_frees_what_can_never_complete_and_nothing_else() -> None:
    async with an_index() as index:
        early = await index.allocate(index.alice, blob(1), 100)
        index.clock.time += 10
        late = await index.allocate(index.alice, blob(2), 200)
        await index.bucket.sync(e.FloorRaised(early.expires_at - 1))
        assert await index.account(index.alice) == (0, 300)
        await index.bucket.sync(e.FloorRaised(early.expires_at))
        assert await index.account(index.alice) == (0, 200)
        renewed = await index.allocate(index.alice, blob(2), 200)
        assert renewed.grant_id == late.grant_id
        # The floor never goes back; a close that was overtaken by it is told an end below it.
        result = await index.bucket.sync(
            e.FloorRaised(early.expires_at + 5),
            e.FloorRaised(5),
            index.bucket.closed(early, "cancelled"),
        )
        assert result.closed == (m.ClosedEnd(early.grant_id, early.expires_at + 5),)
        assert await index.account(index.alice) == (0, 200)


async def test_a_renewal_outlives_the_floor_of_its_first_end() -> None:
    async with an_index() as index:
        first = await index.allocate(index.alice, blob(1), 100)
        index.clock.time += 10
        await index.allocate(index.alice, blob(1), 100)
        await index.bucket.sync(e.FloorRaised(first.expires_at))
        assert await index.account(index.alice) == (0, 100)


async def test_one_buckets_floor_frees_no_other_buckets_grants() -> None:
    async with an_index(buckets=2) as index:
        held = await index.allocate(index.alice, blob(1), 100)
        other = next(b for b in index.buckets if b.key.principal != held.bucket.principal)
        await other.sync(e.FloorRaised(held.expires_at))
        assert await index.account(index.alice) == (0, 100)


async def test_a_blob_its_bucket_has_no_room_for_moves_when_its_grants_are_closed() -> None:
    async with an_index(buckets=2) as index:
        await index.change(("register", index.bob, 1000))
        alices = await index.allocate(index.alice, blob(1), 100)
        bobs = await index.allocate(index.bob, blob(1), 100)
        bucket, other = sorted(
            index.buckets, key=lambda each: each.key.principal != alices.bucket.principal
        )
        await bucket.feed()
        full = m.Space(total=1000, free=10, stored=900)
        await bucket.sync(bucket.closed(alices, "bucket_full"), space=full)
        with pytest.raises(BusyError):
            await index.allocate(index.alice, blob(1), 100)
        # Bob's upload may have begun, and then it has its room: his grant is renewed.
        assert (await index.allocate(index.bob, blob(1), 100)).grant_id == bobs.grant_id
        recalled = [x for x in await bucket.feed() if isinstance(x, e.GrantRecalled)]
        assert [event.grant_id for event in recalled] == [bobs.grant_id]
        await bucket.sync(bucket.closed(bobs, "revoked"), space=full)
        for caller in (index.alice, index.bob):
            moved = await index.allocate(caller, blob(1), 100)
            assert moved.bucket.principal == other.key.principal


async def test_a_blob_whose_other_upload_had_room_stays() -> None:
    async with an_index() as index:
        carol = Caller(index.general.principal)
        await index.change(("register", index.bob, 1000), ("register", carol, 1000))
        alices = await index.allocate(index.alice, blob(1), 100)
        bobs = await index.allocate(index.bob, blob(1), 100)
        await index.allocate(carol, blob(1), 100)
        await index.bucket.sync(index.bucket.closed(alices, "bucket_full"))
        await index.bucket.sync(index.bucket.completed(bobs))
        again = await index.allocate(index.alice, blob(1), 100)
        assert again.bucket == alices.bucket
        # A copy exists, so another one's bucket_full moves nothing.
        await index.bucket.sync(index.bucket.closed(again, "bucket_full"))
        await index.allocate(index.alice, blob(1), 100)


async def test_a_lone_grant_closed_as_full_leaves_the_blob_unplaced() -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 100)
        await index.bucket.sync(index.bucket.closed(held, "bucket_full"))
        assert await _rows(index, "placements") == []
        await index.allocate(index.alice, blob(1), 100)
