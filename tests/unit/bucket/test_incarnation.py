"""A bucket that begins anew: what of its old life ends, what stays, and what a restart finds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from ostnode.errors import GrantClosedError, GrantInvalidError, InvalidArgumentError
from ostnode.ids import NULL_ACCESSOR, Principal, Uid
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.comparing import burned_accessors, deleted_uids, holdings
from ostnode.roles.bucket.core import admission
from ostnode.roles.bucket.incarnation import STEP_US, SetBack, begin_anew
from ostnode.roles.bucket.records import AccessorBurned, User
from ostnode.wire import checking as c
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply
from ostnode.wire.fields import Request
from ostnode.wire.session import LEDGER
from tests.support.bucketkit import (
    ALICE,
    BOB,
    GENERAL,
    HTTP,
    NOW,
    Kit,
    blob_of,
    pieces,
    uid_of,
)

DATA = bytes(range(40))
SMALL = b"one chunk"


def set_back(kit: Kit, *, index: int | None = None, bucket: int | None = None) -> SetBack:
    view = kit.bucket.desk.state
    known = view.number(t.INCARNATION) if bucket is None else bucket
    return SetBack(index or view.feed_cursor()[0], known, behind=True)


async def test_b53_in_a_new_incarnation_no_grant_of_the_old_one_counts() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        begun, unused = kit.grant(ALICE, DATA), kit.grant(BOB, DATA)
        kit.index.tell(e.UserChanged(uid_of(ALICE), ALICE.principal, 1, 5))
        await kit.push(ALICE, begun, 0, pieces(DATA)[0])
        await kit.talk()
        kept = kit.grant(ALICE, b"cancelled")
        await kit.push(ALICE, kept, 0, b"cancelled"[:9], accessors=(GENERAL.principal,))
        claims = kit.claims(BOB, b"late")
        assert kit.bucket.desk.state.feed_cursor()[1] == 1
        before = kit.bucket.desk.state.number(t.INCARNATION)
        waiting = len(kit.bucket.desk.state.outbox(99))
        assert waiting
        await begin_anew(kit.bucket.desk, kit.clock, set_back(kit))
        view = kit.bucket.desk.state
        assert view.number(t.INCARNATION) == before + STEP_US
        # What waited is of the old incarnation; the upload that was open says that it is closed.
        assert len(view.outbox(99)) == 1
        assert view.uploads(0, 9) == []
        assert view.feed_cursor()[1] == 0
        assert await kit.readable(BOB, GENERAL, SMALL)
        for grant in (begun, unused):
            with pytest.raises(GrantInvalidError, match="before it was restored"):
                await kit.push(ALICE, grant, 0, pieces(DATA)[0])
        # Also what was verified before that, and is decided after it.
        ask = admission.Ask(BOB.principal, claims, admission.ask_for(
            BOB.principal, claims, m.PushChunk(b"x", 0), NOW
        ).upload, NOW)  # fmt: skip
        with pytest.raises(GrantInvalidError, match="another life of this bucket"):
            admission._check_grant(view, ask)
        kit.incarnation = view.number(t.INCARNATION)
        await kit.upload(BOB, DATA, GENERAL)


async def test_what_was_closed_and_never_heard_of_is_forgotten_in_time() -> None:
    async with Kit().running() as kit:
        used = kit.claims(ALICE, SMALL)
        await kit.push(ALICE, kit.sign(used), 0, SMALL)
        assert kit.bucket.desk.state.grants_unended(b"", 9) == ([used.grant_id], b"")
        await begin_anew(kit.bucket.desk, kit.clock, set_back(kit))
        assert kit.bucket.desk.state.grants_unended(b"", 9) == ([], b"")
        await kit.raise_floor(used.expires_at)
        assert kit.bucket.desk.state.grant(used.grant_id) is None


async def test_beginning_anew_again_does_nothing_more_and_a_restart_finds_it() -> None:
    kit = Kit()
    async with kit.running():
        await kit.talk()
        told = set_back(kit)
        await begin_anew(kit.bucket.desk, kit.clock, told)
        taken = kit.bucket.desk.state.number(t.INCARNATION)
        seq = kit.bucket.store.next_seq
        await begin_anew(kit.bucket.desk, kit.clock, replace(told, behind=False))
        assert kit.bucket.store.next_seq == seq
    async with kit.running():
        assert kit.bucket.desk.state.number(t.INCARNATION) == taken
        # The index knows a later one: this directory is older still.
        later = set_back(kit, bucket=taken + 5)
        await begin_anew(kit.bucket.desk, kit.clock, later)
        assert kit.bucket.desk.state.number(t.INCARNATION) == taken + 5 + STEP_US


async def test_a_later_life_of_the_index_has_the_later_word() -> None:
    """Versions count from anew in it; grants of the life before are refused, uploads closed."""
    async with Kit().running() as kit:
        kit.index.tell(e.UserChanged(uid_of(ALICE), ALICE.principal, 90, 5))
        kit.index.tell(e.PrincipalBlocked(BOB.principal, blocked=True, version=7))
        await kit.talk()
        old = kit.grant(ALICE, DATA)
        await kit.push(ALICE, old, 0, pieces(DATA)[0])
        new = kit.index.incarnation + STEP_US
        told = set_back(kit, index=new)
        await begin_anew(kit.bucket.desk, kit.clock, replace(told, behind=False))
        view = kit.bucket.desk.state
        assert (view.feed_cursor(), view.feed_life()) == ((new, 0), 1)
        assert view.uploads(0, 9) == []
        with pytest.raises((GrantInvalidError, GrantClosedError)):
            await kit.push(ALICE, old, 1, pieces(DATA)[1])
        kit.index.incarnation, kit.index.feed = new, []
        kit.index.tell(e.UserChanged(uid_of(ALICE), ALICE.principal, 2, 17))
        kit.index.tell(e.PrincipalBlocked(BOB.principal, blocked=False, version=1))
        await kit.bucket.sync.poll_feed(kit.index, 0)
        user = kit.bucket.desk.state.user(uid_of(ALICE))
        assert user is not None
        assert user.bytes_left == 17
        assert not kit.bucket.desk.state.blocked(BOB.principal)


async def test_an_answer_of_the_life_before_is_not_applied() -> None:
    async with Kit().running() as kit:
        await kit.talk()
        told = set_back(kit, index=kit.index.incarnation + STEP_US)
        kit.index.tell(e.AccessorDeleted(GENERAL.principal))

        class Late:
            """Answers, and is late."""

            features = frozenset({LEDGER})

            async def call(self, request: Request) -> Reply:
                reply = await kit.index.call(request)
                await begin_anew(kit.bucket.desk, kit.clock, replace(told, behind=False))
                return reply

        await kit.bucket.sync.poll_feed(Late(), 0)
        assert kit.bucket.desk.state.feed_cursor() == (told.index, 0)
        assert not kit.bucket.desk.state.burned(GENERAL.principal)


class Refusing:
    """An index that refuses the outbox once, as it does when somebody was set back."""

    def __init__(self, kit: Kit, *, ledger: bool = True, **details: int) -> None:
        self._kit, self.details = kit, details
        self.features = frozenset({LEDGER}) if ledger else frozenset()
        self.begun: list[c.Compare] = []

    async def call(self, request: Request) -> Reply:
        if isinstance(request, c.Compare) and request.part == c.Part.BEGIN:
            self.begun.append(request)
            self.details = {}
            self._kit.index.acked = request.position
            return Reply(c.Compared(1, resync=True))
        if isinstance(request, m.SyncBucket) and self.details:
            raise InvalidArgumentError("set back", **self.details)
        if isinstance(request, m.Feed):
            await trio.sleep(1)
        return await self._kit.index.call(request)


@pytest.mark.parametrize("behind", [0, 1])
async def test_a_refusal_to_sync_begins_a_resync(behind: int, autojump_clock) -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, SMALL, GENERAL)
        own = kit.bucket.desk.state.number(t.INCARNATION)
        index = Refusing(kit, resync=1, index=kit.index.incarnation, bucket=own, behind=behind)
        with trio.move_on_after(5):
            await kit.bucket.sync.run(index, HTTP)
        (begun,) = index.begun
        assert begun.incarnation == (own + STEP_US if behind else own)
        assert begun.index_incarnation == kit.index.incarnation
        assert kit.bucket.desk.durable.outbox(9) == []
        assert {batch.incarnation for batch in kit.index.batches} == {begun.incarnation}


@pytest.mark.parametrize(
    ("ledger", "details"),
    [
        (False, {"resync": 1, "index": 5, "bucket": 5, "behind": 1}),
        (True, {"acked_seq": 4}),
        (True, {"resync": 1}),
    ],
)
async def test_any_other_refusal_ends_the_talk(
    ledger: bool, details: dict[str, int], autojump_clock
) -> None:
    async with Kit().running() as kit:
        own = kit.bucket.desk.state.number(t.INCARNATION)
        with pytest.RaisesGroup(pytest.RaisesExc(InvalidArgumentError, match="set back")):
            await kit.bucket.sync.run(Refusing(kit, ledger=ledger, **details), HTTP)
        assert kit.bucket.desk.state.number(t.INCARNATION) == own


async def test_pages_of_what_is_held_burned_and_deleted() -> None:
    async with Kit().running() as kit:
        chats = [Principal(bytes([n]) * 32) for n in range(1, 8)]

        def fill(draft) -> None:
            for chat in chats:
                draft.add(AccessorBurned(chat))
            for n in range(1, 8):
                draft.add(User(Uid(bytes([n]) * 8), NULL_ACCESSOR, 1, 0, deleted=n % 2 == 0))

        await kit.bucket.desk.decide(fill)
        for number in range(3):
            await kit.upload(ALICE, b"blob %d" % number, GENERAL)
        view = kit.bucket.desk.durable
        assert burned_accessors(view, b"") == (tuple(chats), b"")
        assert burned_accessors(view, chats[4]) == (tuple(chats[5:]), b"")
        names = tuple(bytes([n]) * 8 for n in (2, 4, 6))
        assert deleted_uids(view, b"") == (names, b"")
        page, through = holdings(view, b"")
        assert {row.blob_id for row in page} == {blob_of(b"blob %d" % n) for n in range(3)}
        assert {(row.uid, row.size) for row in page} == {(uid_of(ALICE), 6)}
        assert through == b""


async def test_a_comparison_that_is_refused_is_asked_for_again(autojump_clock) -> None:
    """The index was started anew in the middle of it, or is at another event by now."""
    async with Kit().running() as kit:
        asked: list[str] = []

        class Forgetful:
            features = frozenset({LEDGER})

            async def call(self, request: Request) -> Reply:
                assert isinstance(request, c.Compare)
                asked.append(request.part)
                if request.part == c.Part.ASK:
                    return Reply(c.Compared(7))
                raise InvalidArgumentError("this comparison is over")

        with trio.move_on_after(2.5):
            await kit.bucket.sync.comparer(HTTP).run(Forgetful())
        assert asked == [c.Part.ASK, c.Part.HOLDINGS] * 3
