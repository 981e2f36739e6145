"""fsck, resync and forgetting at the index, with buckets that say what a test has them say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from ostnode.errors import (
    BusyError,
    InvalidArgumentError,
    NotAuthorizedError,
    NotFoundError,
    OstError,
)
from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.roles.index.comparing import AWAY_AFTER_S
from ostnode.roles.index.core import resync
from ostnode.roles.index.core.checking import Kind
from ostnode.roles.index.core.rows import BucketState, Charge, OpenGrant, Placement
from ostnode.wire import checking as c
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller
from ostnode.wire.checking import Part
from tests.support.index_cluster import ROOMY, IndexCluster, OutboxEnd, an_index, blob

GHOST = Principal(b"ghost".ljust(32))


async def rows(index: IndexCluster, change):
    return await index.service._transact(change)


async def compare(index: IndexCluster, end: OutboxEnd, part: Part, **fields) -> c.Compared:
    life = (await index.status()).incarnation
    request = c.Compare(
        run=fields.pop("run", 0),
        part=part,
        incarnation=end.incarnation,
        index_incarnation=fields.pop("index_incarnation", life),
        position=fields.pop("position", end.next_seq - 1),
        **fields,
    )
    answer = await index.ask(end.caller, request)
    assert isinstance(answer, c.Compared)
    return answer


async def go_through(index: IndexCluster, end: OutboxEnd, *held: c.Holding) -> None:
    """What a bucket does when a comparison is wanted."""
    wanted = await compare(index, end, Part.ASK)
    assert wanted.run
    answer = await compare(index, end, Part.HOLDINGS, run=wanted.run, holdings=held)
    assert answer.done
    page = await compare(index, end, Part.GRANTS, run=wanted.run)
    while not page.done:
        page = await compare(index, end, Part.GRANTS, run=wanted.run, after=page.after)
    assert (await compare(index, end, Part.END, run=wanted.run)).done


async def start(index: IndexCluster, **fields) -> c.CheckProgress:
    progress = await index.ask(index.operator, c.StartCheck(**fields))
    assert isinstance(progress, c.CheckProgress)
    return progress


async def ended(index: IndexCluster, run: int) -> c.CheckProgress:
    with trio.fail_after(60):
        while True:
            progress = await index.ask(index.operator, c.GetCheck(run))
            assert isinstance(progress, c.CheckProgress)
            if progress.done:
                return progress
            await trio.sleep(0.1)


async def found(index: IndexCluster, bucket: Principal | None = None) -> list[c.CheckFinding]:
    told: list[c.CheckFinding] = []
    page = c.FindingPage((), b"")
    while True:
        page = await index.ask(index.operator, c.ListFindings(page.after, bucket))
        told += page.findings
        if not page.after:
            return told


async def charged(index: IndexCluster, number: int, size: int) -> c.Holding:
    """A blob of alice's, complete at the bucket it was placed in."""
    held = await index.allocate(index.alice, blob(number), size)
    end = next(e for e in index.buckets if e.key.principal == held.bucket.principal)
    await end.sync(end.completed(held))
    return c.Holding(await index.uid(index.alice), blob(number), size)


async def test_a_check_of_equal_sides_finds_nothing(autojump_clock) -> None:
    async with an_index() as index:
        held = [await charged(index, number, 10) for number in range(3)]
        progress = await start(index)
        assert [row.state for row in progress.buckets] == ["away"]
        await go_through(index, index.bucket, *held)
        progress = await ended(index, progress.run)
        assert (progress.findings, progress.buckets[0].compared) == (0, 3)
        assert progress.rows == 7
        assert await found(index) == []


async def test_a_bucket_that_is_away_ends_the_check_and_is_compared_when_it_comes(
    autojump_clock,
) -> None:
    async with an_index() as index:
        await charged(index, 1, 10)
        assert not (await compare(index, index.bucket, Part.ASK, wait_ms=10)).run
        progress = await start(index)
        assert [row.state for row in progress.buckets] == ["waiting"]
        with pytest.raises(InvalidArgumentError, match="not known"):
            await index.ask(index.operator, c.GetCheck(progress.run - 1))
        again = await start(index, repair=True)
        assert (again.run, again.repair) == (progress.run, False)
        await trio.sleep(AWAY_AFTER_S)
        assert (await ended(index, progress.run)).buckets[0].state == "away"
        await go_through(index, index.bucket)
        assert (await ended(index, progress.run)).buckets[0].state == "done"
        assert [row.kind for row in await found(index)] == [Kind.CHARGE_WITHOUT_REFERENCE]


async def test_an_ask_waits_until_a_check_is_wanted(autojump_clock) -> None:
    async with an_index(buckets=2) as index:
        told: list[int] = []

        async def wait(end: OutboxEnd) -> None:
            told.append((await compare(index, end, Part.ASK, wait_ms=60_000)).run)

        async with trio.open_nursery() as nursery:
            for end in index.buckets:
                nursery.start_soon(wait, end)
            await trio.testing.wait_all_tasks_blocked()
            progress = await start(index, bucket=index.bucket.key.principal)
        assert sorted(told) == [0, progress.run]
        with pytest.raises(InvalidArgumentError):
            await index.ask(index.operator, c.StartCheck(GHOST))


async def test_a_page_of_another_position_run_or_order_is_refused(autojump_clock) -> None:
    async with an_index() as index:
        one, two = [await charged(index, number, 10) for number in (1, 2)]
        end = index.bucket
        await start(index)
        run = (await compare(index, end, Part.ASK)).run
        for wrong in (
            {"position": 1},
            {"run": run + 1},
            {"holdings": (two, one)},
            {"holdings": (one, one)},
            {"holdings": (one,), "after": one.uid + one.blob_id},
            {"holdings": (two,), "through": one.uid + one.blob_id},
        ):
            with pytest.raises(InvalidArgumentError):
                await compare(index, end, Part.HOLDINGS, **{"run": run, **wrong})
        with pytest.raises(InvalidArgumentError, match="no such part"):
            await compare(index, end, "everything", run=run)
        with pytest.raises(NotAuthorizedError):
            await index.ask(index.operator, c.Compare(run, Part.ASK, 1, 1, 0))
        assert await found(index) == []


async def test_repair_mends_each_sort_and_a_later_run_forgets_it(autojump_clock) -> None:
    async with an_index() as index:
        right, wrong, gone = [await charged(index, number, 10) for number in (1, 2, 3)]
        new = c.Holding(right.uid, blob(4), 40)
        odd = c.Holding(right.uid, blob(5), None)
        held = (right, replace(wrong, size=11), new, odd)
        for repair, used in ((False, 30), (True, 61)):
            progress = await start(index, repair=repair)
            await go_through(index, index.bucket, *held)
            await ended(index, progress.run)
            told = {row.kind: row for row in await found(index) if row.blob_id != odd.blob_id}
            assert {kind: (row.expected, row.found) for kind, row in told.items()} == {
                Kind.WRONG_SIZE: (10, 11),
                Kind.CHARGE_WITHOUT_REFERENCE: (10, 0),
                Kind.REFERENCE_WITHOUT_CHARGE: (0, 40),
            }
            assert all(row.repaired == repair for row in told.values())
            assert await index.account(index.alice) == (used, 0)
        progress = await start(index)
        await go_through(index, index.bucket, *held)
        await ended(index, progress.run)
        (unknown,) = await found(index)
        assert (unknown.blob_id, unknown.repaired) == (odd.blob_id, False)
        assert gone


async def test_what_is_charged_in_another_bucket_is_left_to_people(autojump_clock) -> None:
    async with an_index(buckets=2) as index:
        held = await charged(index, 1, 10)
        home = (await rows(index, lambda tables: tables.placements.get(blob(1)))).bucket
        (other,) = (end for end in index.buckets if end.key.principal != home)
        for repair in (False, True):
            progress = await start(index, bucket=other.key.principal, repair=repair)
            await go_through(index, other, held)
            await ended(index, progress.run)
            (told,) = await found(index, other.key.principal)
            assert (told.kind, told.repaired) == (Kind.CHARGED_ELSEWHERE, False)
        assert await index.account(index.alice) == (10, 0)


async def test_rows_that_name_a_bucket_there_is_not_are_found_and_ended(autojump_clock) -> None:
    async with an_index() as index:
        uid = await index.uid(index.alice)
        grant_id = GrantId(b"g" * 16)

        def plant(tables) -> None:
            user = tables.users.get(uid)
            tables.charges.put(Charge(uid, blob(1), GHOST, 10, 1))
            tables.grants.put(OpenGrant(grant_id, uid, blob(2), GHOST, 5, 1, 5, 1))
            tables.placements.put(Placement(blob(1), GHOST, charges=1))
            tables.placements.put(Placement(blob(2), GHOST, grants=1))
            tables.users.put(replace(user, used=10, blobs=1, reserved=5, grants=1))

        await rows(index, plant)
        for repair in (False, True):
            progress = await start(index, repair=repair)
            await go_through(index, index.bucket)
            assert (await ended(index, progress.run)).findings == 2
            told = await found(index)
            assert {(row.kind, row.grant_id, row.repaired) for row in told} == {
                (Kind.UNKNOWN_BUCKET, b"", repair),
                (Kind.UNKNOWN_BUCKET, grant_id, repair),
            }
        assert await index.account(index.alice) == (0, 0)
        assert await rows(index, lambda tables: tables.placements.where()) == []


async def test_a_charge_whose_blob_is_placed_nowhere_is_placed(autojump_clock) -> None:
    async with an_index() as index:
        held = await charged(index, 1, 10)
        await rows(index, lambda tables: tables.placements.drop(blob(1)))
        for repair in (False, True):
            progress = await start(index, repair=repair)
            await go_through(index, index.bucket, held)
            await ended(index, progress.run)
            assert [row.kind for row in await found(index)] == [Kind.WRONG_PLACEMENT]
        placed = await rows(index, lambda tables: tables.placements.get(blob(1)))
        assert placed == Placement(blob(1), index.bucket.key.principal, charges=1)


async def test_a_sum_that_has_fallen_below_zero_is_told_and_mended(autojump_clock) -> None:
    async with an_index() as index:
        held = await charged(index, 1, 10)
        fallen = Placement(blob(1), index.bucket.key.principal, charges=-1)
        await rows(index, lambda tables: tables.placements.put(fallen))
        progress = await start(index, repair=True)
        await go_through(index, index.bucket, held)
        await ended(index, progress.run)
        (told,) = await found(index)
        assert (told.kind, told.expected, told.found) == (Kind.WRONG_PLACEMENT, 0, 1)
        placed = await rows(index, lambda tables: tables.placements.get(blob(1)))
        assert placed == replace(fallen, charges=1)


async def test_b27_a_charge_that_is_being_evicted_is_neither_wrong_nor_counted(
    autojump_clock,
) -> None:
    """The bucket has let go of it, and its word that it heard is under way; or it has not yet."""
    async with an_index() as index:
        gone, kept = [await charged(index, number, 10) for number in (1, 2)]

        def evict(tables) -> None:
            for held in (gone, kept):
                charge = tables.charges.get(held.uid, held.blob_id)
                tables.charges.put(replace(charge, evicting=True))
            tables.users.put(replace(tables.users.get(gone.uid), used=0, blobs=0))

        await rows(index, evict)
        progress = await start(index, repair=True)
        await go_through(index, index.bucket, kept)
        await ended(index, progress.run)
        assert await found(index) == []
        assert await index.account(index.alice) == (0, 0)


async def test_findings_are_told_in_pages(autojump_clock) -> None:
    async with an_index() as index:
        uid = await index.uid(index.alice)
        held = tuple(c.Holding(uid, blob(number), 1) for number in range(c.FINDINGS_TOLD_MAX + 7))
        progress = await start(index)
        await go_through(index, index.bucket, *held)
        await ended(index, progress.run)
        for bucket in (None, index.bucket.key.principal):
            assert len(await found(index, bucket)) == len(held)
        assert await found(index, GHOST) == []
        for strange in (b"x", b"x" * 32, b"x" * 33, b"\0" * 40):
            with pytest.raises(InvalidArgumentError):
                await index.ask(index.operator, c.ListFindings(strange))


# --- set back ---


async def test_b59_a_bucket_of_a_new_incarnation_resyncs_and_nothing_is_lost(
    autojump_clock,
) -> None:
    async with an_index() as index:
        end = index.bucket
        kept, unmentioned = [await charged(index, number, 10) for number in (1, 2)]
        end.incarnation += 5
        index.clock.time += resync.LIVE_S
        with pytest.raises(InvalidArgumentError) as refused:
            await end.sync()
        assert (refused.value.details["resync"], refused.value.details["behind"]) == (1, 0)
        with pytest.raises(InvalidArgumentError):
            await compare(index, end, Part.BEGIN, position=7, index_incarnation=1)
        begun = await compare(index, end, Part.BEGIN, position=7)
        assert begun.resync
        end.next_seq = 8
        await end.sync()
        burned, dead = index.general.principal, Uid(b"deadbeef")
        names = {"run": begun.run}
        await compare(index, end, Part.BURNED, names=(burned, bytes(32)), **names)
        alice = kept.uid
        await index.change(("register", index.bob, 5))
        bob = await index.uid(index.bob)
        await compare(index, end, Part.DELETED, names=(dead, bob), **names)
        new = c.Holding(alice, blob(3), 30)
        stranger = c.Holding(Uid(b"stranger"), blob(3), 30)
        held = sorted((kept, new, stranger), key=lambda row: row.uid + row.blob_id)
        await go_through(index, end, *held)
        assert await index.account(index.alice) == (50, 0)
        told = {row.kind: row for row in await found(index)}
        assert told[Kind.CHARGE_WITHOUT_REFERENCE].blob_id == unmentioned.blob_id
        assert told[Kind.UNKNOWN_USER].uid == stranger.uid
        assert await rows(index, lambda tables: tables.burned.get(burned))
        assert not await rows(index, lambda tables: tables.burned.get(Principal(bytes(32))))
        for uid in (dead, bob):
            assert (await rows(index, lambda tables, uid=uid: tables.users.get(uid))).deleted
        with pytest.raises(OstError, match="registered"):
            await index.user(index.bob.proven)
        assert not (await compare(index, end, Part.ASK)).run


async def test_b59_a_set_back_index_is_found_out_by_its_feed_and_grants_nothing(
    autojump_clock,
) -> None:
    async with an_index(buckets=2) as index:
        first, second = index.buckets
        old = await index.allocate(index.alice, blob(1), 10)
        life = (await index.status()).incarnation
        with pytest.raises(InvalidArgumentError) as refused:
            await index.ask(first.caller, m.Feed(life + 7, 3, 0))
        new = (await index.status()).incarnation
        assert new >= life + 7 + resync.STEP_US
        assert refused.value.details["index"] == new
        for end in index.buckets:
            with pytest.raises(BusyError, match="2 buckets have agreed"):
                await index.allocate(index.alice, blob(2), 10)
            with pytest.raises(InvalidArgumentError, match="restored"):
                await end.sync()
            with pytest.raises(InvalidArgumentError, match="restored"):
                await end.feed()
        for end in index.buckets:
            await compare(index, end, Part.BEGIN)
            # An ask after the index was started again finds it too.
            index.service._comparing._resyncs.clear()
            await end.sync()
            await go_through(index, end)
        # Grants of the life before are no more; the next are of the new one.
        assert await index.account(index.alice) == (0, 0)
        again = await index.allocate(index.alice, blob(1), 10)
        assert again.grant_id != old.grant_id
        assert again.grant_id.incarnation == new
        assert second.next_seq == 1


async def test_b59_a_revoked_bucket_is_not_waited_for(autojump_clock) -> None:
    async with an_index(buckets=2) as index:
        first, second = index.buckets
        await rows(index, lambda tables: resync.take_incarnation(tables, 1))
        index.service._comparing.restoring = True
        await index.ask(index.operator, mb.RevokeBucket(second.key.principal))
        progress = await index.ask(index.operator, c.GetCheck(0))
        assert progress.missing == (first.key.principal,)


# --- lost for ever ---


async def test_b63_forgetting_frees_grants_and_charges_and_keeps_the_list(autojump_clock) -> None:
    async with an_index() as index:
        held = [await charged(index, number, 10) for number in range(3)]
        await index.allocate(index.alice, blob(9), 7)
        lost = index.bucket.key.principal
        with pytest.raises(NotFoundError):
            await index.ask(index.operator, c.ForgetBucket(GHOST))
        with pytest.raises(InvalidArgumentError, match="revoke"):
            await index.ask(index.operator, c.ForgetBucket(lost))
        await index.ask(index.operator, mb.RevokeBucket(lost))
        assert (await index.ask(index.operator, c.ForgetBucket(lost))).grants == 1
        told = await index.ask(index.operator, c.ForgetBucket(lost))
        assert told == c.Forgotten(
            done=True, after=held[-1].uid + held[-1].blob_id, charges=3, blobs=3, bytes=30
        )
        assert await index.account(index.alice) == (0, 0)
        assert [row.kind for row in await found(index, lost)] == [Kind.LOST_BLOB] * 3
        # Approved again it may come, but only with a log that has never said anything.
        await index.ask(index.operator, mb.ApproveBucket(lost))
        index.clock.time += resync.LIVE_S
        end = index.bucket
        for incarnation, first in ((end.incarnation, 1), (end.incarnation + 1, 2)):
            request = m.SyncBucket(incarnation, first, (), ROOMY, "http://bucket.test")
            with pytest.raises(NotAuthorizedError, match="only empty"):
                await index.ask(end.caller, request)
        with pytest.raises(NotAuthorizedError, match="only empty"):
            await compare(index, end, Part.BEGIN)
        before = await rows(index, lambda tables: tables.buckets.get(lost))
        await rows(index, lambda tables: tables.buckets.put(replace(before, floor=1 << 40)))
        end.incarnation, end.next_seq = end.incarnation + 1, 1
        await end.sync()
        assert (await index.status()).buckets[0].state == BucketState.ACTIVE
        assert (await rows(index, lambda tables: tables.buckets.get(lost))).floor == 0
        await index.allocate(index.alice, blob(9), 7)


async def test_a_bucket_whose_forgetting_has_not_ended_stays_out(autojump_clock) -> None:
    async with an_index() as index:
        await index.allocate(index.alice, blob(9), 7)
        lost = index.bucket.key.principal
        await index.ask(index.operator, mb.RevokeBucket(lost))
        assert not (await index.ask(index.operator, c.ForgetBucket(lost))).done
        await index.ask(index.operator, mb.ApproveBucket(lost))
        index.bucket.incarnation += 1
        with pytest.raises(NotAuthorizedError, match="to its end"):
            await index.bucket.sync()


async def test_findings_know_their_fields(autojump_clock) -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 10)
        progress = await start(index)
        wanted = await compare(index, index.bucket, Part.ASK)
        page = await compare(index, index.bucket, Part.GRANTS, run=wanted.run)
        assert page.names == (held.grant_id,)
        await compare(index, index.bucket, Part.GRANTS, run=wanted.run, names=page.names,
                      after=page.after)  # fmt: skip
        assert await compare(index, index.bucket, Part.END, run=wanted.run)
        await ended(index, progress.run)
        (told,) = await found(index)
        assert (told.kind, told.grant_id, told.uid) == (
            Kind.ORPHAN_RESERVATION,
            held.grant_id,
            None,
        )
        assert BlobId(blob(1)) == held_blob(index, held)
        assert isinstance(index.alice, Caller)


def held_blob(index: IndexCluster, held: m.Allocation) -> BlobId:
    return index.bucket.open(held).blob_id


async def test_b31_odd_events_are_listed_in_pages_and_dismissed(autojump_clock) -> None:
    async with an_index(buckets=2) as index:
        count = c.REJECTED_TOLD_MAX + 3
        for end in index.buckets:
            await end.sync_bytes(*(b"\xffodd %d" % number for number in range(count)))
        told: list[c.SetAside] = []
        page = c.RejectedPage((), more=True)
        while page.more:
            place = (told[-1].bucket, told[-1].seq) if told else (None, 0)
            page = await index.ask(index.operator, c.ListRejected(*place))
            told += page.events
        assert len({(row.bucket, row.seq) for row in told}) == len(told) == 2 * count
        first, other = (end.key.principal for end in index.buckets)
        await index.ask(index.operator, c.DismissRejected(first, 2))
        await index.ask(index.operator, c.DismissRejected(other))
        left = await rows(index, lambda tables: tables.rejected.where())
        assert {(row.bucket, row.seq) for row in left} == {
            (first, seq) for seq in range(1, count + 1) if seq != 2
        }


async def test_a_begin_that_is_not_of_the_latest_lives_is_refused(autojump_clock) -> None:
    async with an_index() as index:
        end = index.bucket
        index.clock.time += resync.LIVE_S
        end.incarnation -= 1
        with pytest.raises(InvalidArgumentError) as refused:
            await compare(index, end, Part.BEGIN)
        assert refused.value.details["behind"] == 1
        with pytest.raises(InvalidArgumentError):
            await compare(index, end, Part.END, run=1)
        life = (await index.status()).incarnation
        with pytest.raises(InvalidArgumentError, match="began anew"):
            await index.ask(end.caller, m.Feed(life - 1, 0, 0))
        assert (await index.status()).incarnation == life
