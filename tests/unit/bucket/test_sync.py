"""The bucket's talk with its index, and what follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from structlog.testing import capture_logs

from ostnode.errors import (
    BucketFullError,
    BusyError,
    GrantClosedError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OstError,
)
from ostnode.ids import NULL_ACCESSOR, Uid
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.sweeps import GRACE_S, REFERENCES_MAX, expire_upload
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply
from ostnode.wire.eventcodec import encode_event
from ostnode.wire.session import LEDGER
from tests.support.bucketkit import (
    ALICE,
    BOB,
    CAROL,
    GENERAL,
    HTTP,
    NOW,
    OPTIONS,
    RANDOM,
    FakeIndex,
    Kit,
    blob_of,
    pieces,
    uid_of,
)

DATA = bytes(range(40))
SMALL = b"one chunk"
DELETED = e.UserChanged(uid_of(ALICE), ALICE.principal, 9, 0, deleted=True)


async def test_b01_an_abandoned_upload_refunds() -> None:
    async with Kit().running() as kit:
        await kit.push(ALICE, kit.grant(ALICE, DATA), 0, pieces(DATA)[0])
        assert kit.index.reserved(ALICE) == 40
        # Just over, it waits for a chunk under the renewed grant.
        for floor, open_uploads in ((NOW + 3600 + GRACE_S - 1, 1), (NOW + 3600 + GRACE_S, 0)):
            await kit.raise_floor(floor)
            await kit.bucket.sweeper.expire_uploads()
            assert len(kit.bucket.desk.state.uploads(0, 9)) == open_uploads
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.reserved(ALICE)) == (0, 0)
        assert kit.index.closings()[0][1] == "expired"
        assert not list(kit.bucket.store.durable.scan(b"C"))
        assert not list(kit.bucket.store.durable.scan(b"U"))
        assert kit.bucket.desk.state.number(t.PROMISED) == 0


async def test_b01_a_stalled_upload_is_closed_and_a_moving_one_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Kit(replace(OPTIONS, upload_ttl_s=100)).running() as kit:
        stalled, moving = kit.grant(ALICE, DATA), kit.grant(BOB, DATA)
        await kit.push(ALICE, stalled, 0, pieces(DATA)[0])
        await kit.push(BOB, moving, 0, pieces(DATA)[0])
        await trio.sleep(60)
        await kit.push(BOB, moving, 1, pieces(DATA)[1])
        await kit.bucket.sweeper.expire_uploads()
        await trio.sleep(60)
        await kit.bucket.sweeper.expire_uploads()
        with pytest.raises(GrantClosedError):
            await kit.push(ALICE, stalled, 1, pieces(DATA)[1])
        assert (await kit.push(BOB, moving, 2, pieces(DATA)[2])).missing == 0
        await kit.bucket.sweeper.expire_uploads()
        assert kit.service.last_progress == {}


async def test_an_upload_that_has_ended_does_not_expire() -> None:
    async with Kit().running() as kit:
        written = kit.bucket.store.next_seq
        await kit.bucket.desk.decide(lambda draft: expire_upload(draft, 99, stalled=True))
        assert kit.bucket.store.next_seq == written


async def test_b31_an_answer_that_was_lost_is_asked_for_with_the_same_bytes() -> None:
    async with Kit().running() as kit:
        await kit.bucket.sync.send_batch(kit.index, HTTP)
        await kit.upload(ALICE, SMALL, GENERAL)
        kit.index.lose_answers = 1
        with pytest.raises(ConnectionError):
            await kit.bucket.sync.send_batch(kit.index, HTTP)
        await kit.upload(BOB, DATA, GENERAL)
        await kit.bucket.sync.send_batch(kit.index, HTTP)
        first, lost, again = kit.index.batches
        assert first.events == ()
        assert lost == again
        assert len(lost.events) == 1
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.used(BOB)) == (9, 40)
        assert kit.bucket.desk.durable.outbox(1) == []


async def test_b31_a_batch_is_sent_again_after_a_restart() -> None:
    kit = Kit()
    async with kit.running():
        await kit.upload(ALICE, SMALL, GENERAL)
        await kit.remove(ALICE, kit.key_of(SMALL, ALICE, GENERAL))
        kit.index.lose_answers = 1
        with pytest.raises(ConnectionError):
            await kit.bucket.sync.send_batch(kit.index, HTTP)
    async with kit.running():
        await kit.upload(BOB, SMALL, GENERAL)
        await kit.talk()
    first, second, *_ = [batch for batch in kit.index.batches if batch.events]
    assert second.events[: len(first.events)] == first.events
    assert (first.incarnation, first.first_seq) == (second.incarnation, second.first_seq)
    assert [type(event) for event in kit.index.events[:3]] == [e.Completed, e.Released, e.Completed]
    assert (kit.index.used(ALICE), kit.index.used(BOB)) == (0, 9)


async def test_b31_a_malformed_event_is_set_aside_and_the_feed_moves_on() -> None:
    async with Kit().running() as kit:
        kit.index.feed.append(b"\xff")
        kit.index.feed.append(encode_event(e.Released(uid_of(ALICE), blob_of(b""), 0)))
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        await kit.talk()
        assert kit.bucket.desk.durable.burned(GENERAL.principal)
        assert kit.bucket.desk.durable.feed_cursor() == (kit.index.incarnation, 3)


async def test_b31_what_is_set_aside_is_logged_once_though_the_disk_is_full(monkeypatch) -> None:
    """The answer, or the batch, comes again until what it changes can be written."""
    async with Kit().running() as kit:
        await kit.bucket.sync.poll_feed(kit.index, 0)
        await kit.upload(ALICE, SMALL, GENERAL)
        kit.index.feed.append(b"\xff")
        take = kit.index.take
        odd = (m.RejectedEvent(1, "odd"),)
        kit.index.take = lambda request: replace(take(request), rejected=odd)
        with capture_logs() as logs:
            with monkeypatch.context() as full:
                full.setattr(kit.bucket.desk, "decide", refuse)
                for _ in range(3):
                    for talk in (
                        kit.bucket.sync.poll_feed(kit.index, 0),
                        kit.bucket.sync.send_batch(kit.index, HTTP),
                    ):
                        with pytest.raises(BusyError):
                            await talk
                assert logs == []
            await kit.bucket.sync.poll_feed(kit.index, 0)
            await kit.bucket.sync.send_batch(kit.index, HTTP)
        told = [entry["event"] for entry in logs]
        assert told == ["malformed feed event", "event rejected by the index"]


async def test_a_comparison_that_is_refused_again_and_again_is_logged_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Kit().running() as kit:
        comparer = kit.bucket.sync.comparer(HTTP)
        reasons = iter([*["busy"] * 20, "done", *["busy"] * 20, *["gap"] * 20])

        async def compare(*_arguments: object) -> bool:
            await trio.lowlevel.checkpoint()
            if (reason := next(reasons, "")) == "done":
                return True
            raise BusyError(reason) if reason else InternalError("enough")

        monkeypatch.setattr(comparer, "compare", compare)
        with capture_logs() as logs, pytest.raises(InternalError):
            await comparer.run(kit.index)
        assert [entry["reason"] for entry in logs] == ["busy", "busy", "gap"]


async def refuse(*_arguments: object) -> None:
    await trio.lowlevel.checkpoint()
    raise BusyError("the disk is full")


async def test_an_empty_batch_tells_of_the_space() -> None:
    async with Kit().running() as kit:
        assert not await kit.bucket.sync.send_batch(kit.index, HTTP)
        (batch,) = kit.index.batches
        assert (batch.first_seq, batch.http) == (1, HTTP)
        assert batch.incarnation == NOW * 1_000_000
        assert batch.space.free > 0


async def test_b34_what_is_told_as_free_is_what_may_still_be_promised() -> None:
    """Otherwise the index sends a blob back to the bucket that has just refused it."""
    async with Kit().running() as kit:
        size, chunk = 50 << 20, bytes(1 << 15)
        big = {"size": size, "reserved": size, "chunk_bytes": len(chunk)}
        await kit.push(ALICE, kit.grant(ALICE, b"big", **big), 0, chunk)
        await kit.bucket.sync.send_batch(kit.index, HTTP)
        told = kit.index.batches[-1].space.free
        kept = kit.options.rules.free_bytes_min
        free = kit.bucket.store.space().free
        assert free - size - kept <= told <= free - size + 2 * len(chunk) - kept
        small = {"chunk_bytes": len(chunk)}
        over = {"size": told + 1, "reserved": told + 1}
        with pytest.raises(BucketFullError):
            await kit.push(ALICE, kit.grant(ALICE, b"over", **small, **over), 0, chunk)
        fits = told - 4096  # that refusal was written down
        await kit.push(
            ALICE, kit.grant(ALICE, b"fits", **small, size=fits, reserved=fits), 0, chunk
        )


@pytest.mark.slow
async def test_a_batch_is_cut_at_its_limit() -> None:
    async with Kit().running() as kit:
        for _ in range(260):
            await kit.upload(ALICE, b"", GENERAL)
            await kit.remove(ALICE, kit.key_of(b"", ALICE, GENERAL))
        assert await kit.bucket.sync.send_batch(kit.index, HTTP)
        assert not await kit.bucket.sync.send_batch(kit.index, HTTP)
        assert [len(batch.events) for batch in kit.index.batches] == [500, 20]


class OddIndex(FakeIndex):
    """Answers with whatever it was given."""

    answer: m.Message

    async def call(self, request) -> Reply:
        return Reply(self.answer)


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [(m.SyncResult(0), InvalidArgumentError), (m.Ok(), InternalError)],
)
async def test_an_answer_that_makes_no_sense_drops_nothing(
    answer: m.Message, refusal: type[OstError]
) -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        odd = OddIndex()
        odd.answer = answer
        with pytest.raises(refusal):
            await kit.bucket.sync.send_batch(odd, HTTP)
        assert len(kit.bucket.desk.durable.outbox(9)) == 1


async def test_a_rejected_event_does_not_stop_the_queue() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        odd = OddIndex()
        odd.answer = m.SyncResult(1, (), (m.RejectedEvent(1, "poison"),))
        assert not await kit.bucket.sync.send_batch(odd, HTTP)
        assert kit.bucket.desk.durable.outbox(9) == []


async def test_another_index_incarnation_is_not_followed() -> None:
    async with Kit().running() as kit:
        kit.index.tell(e.PrincipalBlocked(BOB.principal, blocked=True, version=1))
        await kit.talk()
        grant = kit.grant(ALICE, SMALL)
        kit.index.incarnation += 1
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        with pytest.raises(InvalidArgumentError):
            await kit.bucket.sync.poll_feed(kit.index, 0)
        assert not kit.bucket.desk.state.burned(GENERAL.principal)
        await kit.push(ALICE, grant, 0, SMALL)


async def test_b53_closed_grants_are_kept_until_the_floor_has_passed_their_end() -> None:
    async with Kit().running() as kit:
        claims = kit.claims(ALICE, SMALL)
        grant = kit.sign(claims)
        kit.sign(replace(claims, expires_at=NOW + 7200))
        await kit.push(ALICE, grant, 0, SMALL)
        await kit.remove(ALICE, kit.key_of(SMALL, ALICE, None))
        await kit.talk()
        await kit.raise_floor(NOW + 7199)
        assert kit.bucket.desk.state.grant(claims.grant_id) is not None
        await kit.raise_floor(NOW + 7200)
        assert kit.bucket.desk.state.grant(claims.grant_id) is None
        assert not list(kit.bucket.store.state.scan(b"L"))


async def test_b53_a_closed_grant_is_kept_while_its_end_is_not_known() -> None:
    async with Kit().running() as kit:
        claims = kit.claims(ALICE, SMALL)
        await kit.push(ALICE, kit.sign(claims), 0, SMALL)
        await kit.raise_floor(NOW + 100_000)
        assert kit.bucket.desk.state.grant(claims.grant_id) is not None


async def test_b53_an_index_that_forgot_a_grant_does_not_bring_it_back() -> None:
    async with Kit().running() as kit:
        grant = await kit.upload(ALICE, SMALL)
        await kit.remove(ALICE, kit.key_of(SMALL, ALICE, None))
        await kit.raise_floor(NOW)
        odd = OddIndex()
        odd.answer = m.SyncResult(3, (m.ClosedEnd(next(iter(kit.index.grants)), NOW),))
        await kit.bucket.sync.send_batch(odd, HTTP)
        await kit.sweep()
        with pytest.raises(GrantClosedError):
            await kit.push(ALICE, grant, 0, SMALL)
        await kit.raise_floor(NOW + 3600)
        assert not list(kit.bucket.store.state.scan(t.GRANTS))


async def test_a_feed_that_comes_again_writes_nothing() -> None:
    async with Kit().running() as kit:
        kit.index.tell(
            e.UserChanged(uid_of(ALICE), ALICE.principal, 1, 0),
            e.PrincipalBlocked(BOB.principal, blocked=True, version=1),
            e.AccessorDeleted(GENERAL.principal),
            DELETED,
        )
        await kit.talk()
        written = kit.bucket.store.next_seq
        kit.index.feed *= 2
        await kit.talk()
        # The cursor alone has moved.
        assert kit.bucket.store.next_seq == written + 1


async def test_the_floor_follows_the_index_at_most_every_interval(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Kit().running() as kit:
        floors = []
        for _ in range(4):
            await kit.bucket.sync.poll_feed(kit.index, 0)
            floors.append(kit.bucket.desk.state.number(t.FLOOR) - NOW)
            await trio.sleep(30)
            kit.clock.time += 30
        assert floors == [0, 0, 60, 60]
        kit.clock.time -= 1000
        await trio.sleep(100)
        await kit.bucket.sync.poll_feed(kit.index, 0)
        assert kit.bucket.desk.state.number(t.FLOOR) == NOW + 60
        while await kit.bucket.sync.send_batch(kit.index, HTTP):
            pass
        assert kit.index.events == [e.FloorRaised(NOW), e.FloorRaised(NOW + 60)]


async def test_a_revoked_grant_is_closed_whether_it_was_seen_or_not() -> None:
    async with Kit().running() as kit:
        begun, unseen, used = (kit.claims(ALICE, DATA) for _ in range(3))
        grants = [kit.sign(claims) for claims in (begun, unseen, used)]
        await kit.push(ALICE, grants[0], 0, pieces(DATA)[0])
        for index, body in enumerate(pieces(DATA)):
            await kit.push(ALICE, grants[2], index, body)
        kit.index.tell(
            *(
                e.GrantRevoked(claims.grant_id, claims.uid, claims.blob_id, claims.expires_at)
                for claims in (begun, unseen, used)
            )
        )
        await kit.talk()
        assert [reason for _, reason in kit.index.closings()] == ["revoked", "revoked"]
        assert (kit.index.used(ALICE), kit.index.reserved(ALICE)) == (40, 0)
        for grant in grants[:2]:
            with pytest.raises(GrantClosedError):
                await kit.push(ALICE, grant, 1, pieces(DATA)[1])
        await kit.raise_floor(NOW + 3600)
        assert not list(kit.bucket.store.state.scan(t.GRANTS))


async def test_b68_delete_and_register_again_in_either_order_of_arrival() -> None:
    async with Kit().running() as kit:
        again = Uid(b"again...")
        await kit.upload(ALICE, DATA, GENERAL)
        # The new registration's upload comes before the bucket has heard of either event.
        fresh = kit.grant(ALICE, SMALL, uid=again)
        await kit.push(ALICE, fresh, 0, SMALL, accessors=(GENERAL.principal,))
        kit.index.tell(e.UserChanged(again, ALICE.principal, 1, 0), DELETED)
        await kit.bucket.sync.poll_feed(kit.index, 0)
        assert not await kit.readable(BOB, GENERAL, DATA)
        assert await kit.readable(BOB, GENERAL, SMALL)
        await kit.talk()
        assert kit.stored == {blob_of(SMALL)}
        assert await kit.readable(ALICE, ALICE, SMALL)
        assert (kit.index.used(uid_of(ALICE)), kit.index.used(again)) == (0, len(SMALL))
        # A late word about the old registration does not bring it back.
        kit.index.tell(e.UserChanged(uid_of(ALICE), ALICE.principal, 10, 0))
        await kit.talk()
        assert kit.bucket.desk.state.uids(ALICE.principal) == [again]


async def test_b68_a_deletion_heard_before_anything_else() -> None:
    async with Kit().running() as kit:
        kit.index.tell(DELETED)
        await kit.talk()
        with pytest.raises(OstError) as refused:
            await kit.upload(ALICE, DATA, GENERAL)
        assert refused.value.code == "user_unknown"


@pytest.mark.slow
async def test_b29_a_deleted_user_with_many_blobs_and_uploads_counts_to_zero() -> None:
    async with Kit().running() as kit:
        for number in range(300):
            await kit.upload(ALICE, number.to_bytes(2, "big"), GENERAL)
        await kit.upload(BOB, (7).to_bytes(2, "big"), GENERAL)
        for number in range(10):
            data = DATA + bytes([number])
            await kit.push(ALICE, kit.grant(ALICE, data), 0, pieces(data)[0])
        kit.index.tell(DELETED)
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.reserved(ALICE)) == (0, 0)
        assert kit.index.used(BOB) == 2
        assert kit.stored == {blob_of((7).to_bytes(2, "big"))}
        state = kit.bucket.store.state
        left = {table: len(list(state.scan(table))) for table in (b"U", b"P", b"V", b"S", b"J")}
        assert left == {b"U": 0, b"P": 0, b"V": 1, b"S": 0, b"J": 0}
        assert len(list(state.scan(b"C"))) == 1


async def test_older_words_about_a_user_are_ignored() -> None:
    async with Kit().running() as kit:
        for version, principal in ((5, ALICE), (4, BOB), (5, CAROL)):
            kit.index.tell(e.UserChanged(uid_of(ALICE), principal.principal, version, 0))
        await kit.talk()
        assert kit.bucket.desk.state.owns(ALICE.principal, uid_of(ALICE))
        assert kit.bucket.desk.state.uids(BOB.principal) == []


async def test_nobody_deletes_the_null_accessor() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL)
        kit.index.tell(e.AccessorDeleted(NULL_ACCESSOR))
        await kit.talk()
        assert await kit.readable(ALICE, ALICE, SMALL)


@pytest.mark.slow
async def test_b23_a_chat_is_swept_in_slices() -> None:
    async with Kit().running() as kit:
        for number in range(200):
            await kit.upload(ALICE, bytes([number]), GENERAL, ref_id=b"1")
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        await kit.bucket.sync.poll_feed(kit.index, 0)
        left = [kit.bucket.desk.state.reference_count(uid_of(ALICE))]
        while await kit.bucket.sweeper.sweep_once():
            left.append(kit.bucket.desk.state.reference_count(uid_of(ALICE)))
        assert left[:3] == [200, 200 - REFERENCES_MAX, 200 - 2 * REFERENCES_MAX]
        assert left[-1] == 0
        await kit.talk()
        assert kit.index.used(ALICE) == 0


async def test_everything_runs_by_itself(autojump_clock: trio.testing.MockClock) -> None:
    async with Kit().running(sweeping=True) as kit, trio.open_nursery() as nursery:
        nursery.start_soon(kit.bucket.sync.run, Patient(kit.index), HTTP)
        await kit.upload(ALICE, DATA, GENERAL, RANDOM, expires_at=NOW + 100)
        await kit.push(ALICE, kit.grant(ALICE, SMALL, size=20, reserved=20), 0, DATA[:16])
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))
        await trio.sleep(5)
        assert kit.index.used(ALICE) == 40
        assert kit.bucket.desk.durable.reference_count(uid_of(ALICE)) == 1
        kit.clock.time += 3600 + GRACE_S
        await trio.sleep(200)
        assert (kit.index.used(ALICE), kit.index.reserved(ALICE)) == (0, 0)
        assert kit.stored == set()
        nursery.cancel_scope.cancel()


class Patient:
    """An index that holds polls back for a second when it has no news."""

    def __init__(self, index: FakeIndex) -> None:
        self._index = index
        self.features = index.features

    async def call(self, request) -> Reply:
        if isinstance(request, m.Feed) and request.seq == len(self._index.feed):
            await trio.sleep(1)
        return await self._index.call(request)


async def test_a_broken_link_ends_the_talk_and_nothing_else() -> None:
    async with Kit().running() as kit:
        kit.index.lose_answers = 1
        with pytest.RaisesGroup(ConnectionError):
            await kit.bucket.sync.run(Patient(kit.index), HTTP)
        await kit.upload(ALICE, SMALL, GENERAL)
        with pytest.raises(NotFoundError):
            await kit.reader(BOB, RANDOM, SMALL)


async def test_b37_blobs_that_expire_together_are_all_removed_and_refunded() -> None:
    kit = Kit()
    blobs = [bytes([n]) * 40 for n in range(25)]
    async with kit.running():
        for data in blobs:
            await kit.upload(ALICE, data, GENERAL, expires_at=NOW + 100)
        await kit.upload(BOB, b"to stay", GENERAL)
        await kit.talk()
        assert kit.index.used(ALICE) == 25 * 40
    kit.clock.time += 100
    async with kit.running():
        assert not any([await kit.readable(BOB, GENERAL, data) for data in blobs])
        await kit.bucket.sweeper.sweep_once()
    async with kit.running():
        await kit.sweep()
        await kit.talk()
        assert kit.index.used(ALICE) == 0
        assert kit.stored == {blob_of(b"to stay")}
        assert len(list(kit.bucket.store.durable.scan(b"C"))) == 1
        assert kit.bucket.desk.durable.reference_count(uid_of(ALICE)) == 0


async def test_a_link_that_brings_more_has_the_feed_read_again() -> None:
    """Once, from the start; one that brings less goes on where the last one was."""
    async with Kit().running() as kit:
        kit.index.features = frozenset()
        kit.index.tell(e.AccessorDeleted(RANDOM.principal), e.AccessorDeleted(GENERAL.principal))
        await kit.talk()
        assert kit.index.asked_from == [0, 2]
        kit.index.features = frozenset({LEDGER})
        await kit.talk()
        await kit.talk()
        assert kit.index.asked_from[2:] == [0, 2]
        kit.index.features = frozenset()
        await kit.talk()
        kit.index.features = frozenset({LEDGER})
        await kit.talk()
        assert kit.index.asked_from[4:] == [2, 0]


async def test_a_restart_knows_as_what_the_feed_was_read() -> None:
    kit = Kit()
    async with kit.running():
        kit.index.tell(e.AccessorDeleted(RANDOM.principal))
        await kit.talk()
    async with kit.running():
        await kit.talk()
        assert kit.index.asked_from == [0, 1, 1]
