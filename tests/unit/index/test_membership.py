"""Who belongs to the cluster: the index's decisions, one by one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import trio
import trio.testing

from ostnode.errors import (
    BusyError,
    InvalidArgumentError,
    NotAuthorizedError,
    NotFoundError,
    TokenInvalidError,
)
from ostnode.identity.keys import KeyPair
from ostnode.ids import SIZE_MAX, ClusterId, Principal
from ostnode.roles.index import DatabaseUnusableError, Rules
from ostnode.roles.index.core import membership as core
from ostnode.roles.index.core.memberrows import Invite, MemberState, PastKey, RosterEpoch
from ostnode.roles.index.core.roster import roster
from ostnode.roles.index.core.rows import THE_INDEX
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.repository import run_alone
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.roles.index.membership import ADDRESS_NEWS_S
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Kind
from ostnode.wire.roster import Roster, open_roster
from ostnode.wire.rotation import KeyChange, sign_key_change
from tests.support.index_cluster import IndexCluster, an_index

NOW = 1_700_000_000
SECRET = b"s" * 32
NEWCOMER, OTHER = Principal(b"n" * 32), Principal(b"o" * 32)


@pytest.fixture
def database():
    opened = SqliteDatabase(None)
    yield opened
    opened.close()


@pytest.fixture
def run(database):
    """Run a decision in a transaction of its own."""
    return lambda operation: run_alone(database, operation)


def some_invite(number: int = 0, **changes: object) -> Invite:
    invite_id = number.to_bytes(8, "big")
    made = Invite(invite_id, core.secret_hash(SECRET), NOW + 900, auto_approve=False, label="")
    return replace(made, **changes)


def ask(number: int = 0, secret: bytes = SECRET) -> mb.Join:
    return mb.Join(number.to_bytes(8, "big"), secret)


def epoch(tables: Tables) -> int:
    row = tables.roster.get(THE_INDEX)
    return row.epoch if row else 0


def invited(run, **changes: object) -> None:
    run(lambda tables: core.take_up(tables, (), NOW))
    run(lambda tables: core.invite(tables, some_invite(**changes), NOW))


def join(run, who: Principal = NEWCOMER, now: int = NOW, **asked: object):
    return run(lambda tables: core.join(tables, who, ask(**asked), now))


def test_only_a_hash_of_the_secret_is_kept(run) -> None:
    invited(run)
    (row,) = run(lambda tables: tables.invites.where())
    assert SECRET not in (row.secret_hash, row.invite_id)
    assert core.secret_hash(SECRET) != core.secret_hash(b"t" * 32)


def test_a_good_token_makes_a_pending_member_once(run) -> None:
    invited(run, label="disk 7")
    before = run(epoch)
    change = join(run)
    assert change.member.state is MemberState.PENDING
    assert change.member.label == "disk 7"
    assert run(epoch) > before
    assert isinstance(join(run, OTHER), TokenInvalidError)
    assert join(run) == change  # a lost answer
    assert run(epoch) == before + 1


def test_a_token_with_approval_makes_a_member(run) -> None:
    invited(run, auto_approve=True)
    assert join(run).member.state is MemberState.APPROVED


def test_a_token_ends_with_its_time(run) -> None:
    invited(run)
    assert isinstance(join(run, now=NOW + 900), TokenInvalidError)
    assert run(lambda tables: tables.invites.where()) == []


def test_a_token_lives_to_its_last_second(run) -> None:
    invited(run)
    assert join(run, now=NOW + 899).member is not None


def test_wrong_secrets_are_counted_and_kill_the_token(run) -> None:
    invited(run)
    for failures in range(1, core.FAILURES_MAX):
        assert isinstance(join(run, secret=b"w" * 32), TokenInvalidError)
        (row,) = run(lambda tables: tables.invites.where())
        assert row.failures == failures
    assert isinstance(join(run, secret=b"w" * 32), TokenInvalidError)
    assert isinstance(join(run), TokenInvalidError)


def test_refusals_do_not_tell_what_is_wrong(run) -> None:
    invited(run)
    told = {
        str(join(run, secret=b"w" * 32)),
        str(join(run, number=7)),
        str(join(run, now=NOW + 901)),
    }
    assert len(told) == 1


def test_open_tokens_are_bounded_and_those_over_make_room(run) -> None:
    for number in range(mb.INVITES_MAX):
        run(lambda tables, number=number: core.invite(tables, some_invite(number), NOW))
    with pytest.raises(BusyError, match="withdraw some"):
        run(lambda tables: core.invite(tables, some_invite(99), NOW))
    run(lambda tables: core.withdraw(tables, some_invite(3).invite_id))
    run(lambda tables: core.invite(tables, some_invite(99), NOW))
    run(lambda tables: core.invite(tables, some_invite(100), NOW + 901))
    assert len(run(lambda tables: tables.invites.where())) == 1


def test_a_cluster_is_full_with_256_buckets_revoked_ones_aside(run) -> None:
    named = [Principal(number.to_bytes(32, "big")) for number in range(mb.MEMBERS_MAX)]
    run(lambda tables: core.take_up(tables, named, NOW))
    run(lambda tables: core.invite(tables, some_invite(), NOW))
    with pytest.raises(BusyError, match="256 buckets"):
        join(run)
    run(lambda tables: core.revoke(tables, named[0], NOW))
    assert join(run).member is not None
    with pytest.raises(BusyError, match="256 buckets"):
        run(lambda tables: core.approve(tables, named[0], NOW))


def test_the_rows_of_members_are_bounded_and_those_that_are_there_may_return(
    run, monkeypatch
) -> None:
    monkeypatch.setattr(core, "ROWS_MAX", 2)
    run(lambda tables: core.take_up(tables, [FIRST, OTHER], NOW))
    run(lambda tables: core.invite(tables, some_invite(), NOW))
    run(lambda tables: core.revoke(tables, FIRST, NOW))
    with pytest.raises(BusyError, match="have been in this cluster"):
        join(run)
    assert len(run(lambda tables: tables.invites.where())) == 1
    assert run(lambda tables: core.approve(tables, FIRST, NOW)).member.state == "approved"


async def test_a_config_with_too_many_beside_those_that_joined_does_not_start(tmp_path) -> None:
    cluster = IndexCluster(Rules(), tmp_path, 1)
    async with cluster.open():
        made = await cluster.ask(cluster.operator, mb.InviteBucket(60))
        await cluster.ask(cluster.bob, mb.Join(made.invite_id, made.secret))
    named = tuple(Principal(number.to_bytes(32, "big")) for number in range(mb.MEMBERS_MAX))
    few = cluster.options
    cluster.options = replace(few, buckets=named)
    with pytest.raises(DatabaseUnusableError, match="over 256 buckets"):
        async with cluster.open():
            pass
    cluster.options = few
    async with cluster.open():
        page = await cluster.ask(cluster.operator, mb.ListMembers())
        assert len(page.members) == 2


def test_a_revoked_bucket_comes_back_by_approval_alone(run) -> None:
    invited(run, auto_approve=True)
    join(run)
    run(lambda tables: core.revoke(tables, NEWCOMER, NOW))
    run(lambda tables: core.invite(tables, some_invite(), NOW))
    with pytest.raises(NotAuthorizedError, match="was revoked"):
        join(run)
    # Not by the config either.
    run(lambda tables: core.take_up(tables, [NEWCOMER], NOW))
    assert run(lambda tables: tables.members.get(NEWCOMER)).state is MemberState.REVOKED
    assert run(lambda tables: core.approve(tables, NEWCOMER, NOW)).member.state == "approved"


def test_repeated_changes_change_nothing(run) -> None:
    invited(run)
    join(run)
    for decide in (core.approve, core.revoke):
        first = run(lambda tables, decide=decide: decide(tables, NEWCOMER, NOW))
        before = run(epoch)
        assert run(lambda tables, decide=decide: decide(tables, NEWCOMER, NOW + 5)) == first
        assert run(epoch) == before


@pytest.mark.parametrize("decide", [core.approve, core.revoke])
def test_an_unknown_bucket_is_refused(run, decide) -> None:
    with pytest.raises(NotFoundError):
        run(lambda tables: decide(tables, NEWCOMER, NOW))


def test_a_pending_bucket_that_is_revoked_is_forgotten(run) -> None:
    invited(run)
    join(run)
    change = run(lambda tables: core.revoke(tables, NEWCOMER, NOW))
    assert change == core.Change(NEWCOMER, None)
    assert run(lambda tables: tables.members.where()) == []


def test_a_bucket_that_worked_and_changed_its_key_is_not_forgotten(run) -> None:
    run(lambda tables: core.take_up(tables, [NEWCOMER], NOW))
    change = KeyChange(ClusterId(bytes(16)), NEWCOMER, OTHER, 600)
    run(lambda tables: core.change_key(tables, NEWCOMER, change, NOW))
    run(lambda tables: core.take_up(tables, [], NOW))
    assert run(lambda tables: core.revoke(tables, NEWCOMER, NOW)).member.state == "revoked"
    run(lambda tables: core.take_up(tables, [NEWCOMER], NOW))
    assert run(lambda tables: tables.members.get(NEWCOMER)).state == "revoked"


def test_the_config_names_members_and_takes_its_word_back(run) -> None:
    states = lambda tables: {  # noqa: E731
        each.principal: (each.state, each.configured) for each in tables.members.where()
    }
    run(lambda tables: core.take_up(tables, [NEWCOMER, OTHER], NOW))
    assert run(states) == dict.fromkeys([NEWCOMER, OTHER], (MemberState.APPROVED, True))
    before = run(epoch)
    run(lambda tables: core.take_up(tables, [NEWCOMER, OTHER], NOW + 1))
    assert run(epoch) == before
    run(lambda tables: core.take_up(tables, [OTHER], NOW + 1))
    assert run(states)[NEWCOMER] == (MemberState.PENDING, False)
    assert run(epoch) > before


def test_b59_epochs_overtake_what_a_lost_database_said(run) -> None:
    run(lambda tables: core.raise_epoch(tables, NOW))
    assert run(lambda tables: core.raise_epoch(tables, NOW)) == NOW + 1
    assert run(lambda tables: core.raise_epoch(tables, NOW - 100)) == NOW + 2
    assert run(lambda tables: core.raise_epoch(tables, NOW + 1000)) == NOW + 1000
    assert run(lambda tables: tables.roster.get(THE_INDEX)) == RosterEpoch(
        THE_INDEX, NOW + 1000, NOW + 1000
    )


def test_b59_epochs_overtake_what_buckets_have_seen(run) -> None:
    """A clock that was years ahead once is no reason to be refused for as long after a restore."""
    run(lambda tables: core.take_up(tables, (), NOW))
    hear = lambda seen: run(lambda tables: core.note_heard(tables, seen, NOW))  # noqa: E731
    assert [hear(seen) for seen in (NOW - 1, NOW, NOW + 5000, NOW + 5000, NOW + 4000)] == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert run(epoch) == NOW  # until the next change: it is for people to look before that
    assert run(lambda tables: core.raise_epoch(tables, NOW)) == NOW + 5001
    assert not hear(SIZE_MAX)
    assert hear(core.EPOCH_HEARD_MAX)
    assert run(lambda tables: core.raise_epoch(tables, NOW)) == core.EPOCH_HEARD_MAX + 1
    assert not hear(core.EPOCH_HEARD_MAX)


async def test_the_index_hears_of_newer_rosters_from_approved_buckets() -> None:
    async with an_index() as cluster:
        before = (await roster_of(cluster)).epoch
        made = await cluster.ask(cluster.operator, mb.InviteBucket(60))
        newcomer = KeyPair.generate(cluster.rng).principal
        await cluster.ask(Caller(newcomer), mb.Join(made.invite_id, made.secret))
        for key, kind, seen in (
            (newcomer, Kind.CANDIDATE, before + 1_000_000),
            (cluster.bucket.key.principal, Kind.BUCKET, before + 2000),
        ):
            caller = Caller(key, frozenset({kind}), roster_epoch=seen)
            assert (await roster_of(cluster, caller=caller)).epoch == before + 1
        await cluster.ask(cluster.operator, mb.ApproveBucket(newcomer))
        assert (await roster_of(cluster)).epoch == before + 2001


# --- keys ---------------------------------------------------------------------------------------

FIRST, SECOND, THIRD, FOURTH = (Principal(bytes([number]) * 32) for number in (1, 2, 3, 4))


def change(run, new: Principal, *, old: Principal = FIRST, caller: Principal = FIRST, now=NOW):
    asked = KeyChange(ClusterId(bytes(16)), old, new, 100)
    return run(lambda tables: core.change_key(tables, caller, asked, now)).member


@pytest.fixture
def two(run):
    """FIRST and OTHER are approved."""
    run(lambda tables: core.take_up(tables, [FIRST, OTHER], NOW))
    return run


def test_a_key_follows_another_and_the_name_stays(two) -> None:
    before = two(epoch)
    member = change(two, SECOND)
    assert (member.principal, member.key, member.old_key) == (FIRST, SECOND, FIRST)
    assert member.old_until == NOW + 100
    assert two(epoch) > before
    assert change(two, SECOND, now=NOW + 5) == member  # a lost answer
    assert change(two, SECOND, caller=SECOND, now=NOW + 500) == member
    assert change(two, THIRD, old=SECOND, caller=SECOND, now=NOW + 101).key == THIRD


def test_the_roster_names_the_old_key_until_its_end(two) -> None:
    change(two, SECOND)
    for now, old_key in ((NOW + 100, FIRST), (NOW + 101, None)):
        two(lambda tables, now=now: core.revoke(tables, OTHER, now))
        two(lambda tables, now=now: core.approve(tables, OTHER, now))
        told = two(lambda tables: roster(tables, ClusterId(bytes(16)), THIRD))
        assert {each.principal: each.old_key for each in told.buckets}[FIRST] == old_key


def test_only_the_present_key_names_its_successor(two) -> None:
    with pytest.raises(NotAuthorizedError, match="present key"):
        change(two, SECOND, old=THIRD)
    change(two, SECOND)
    for caller in (FIRST, SECOND):
        with pytest.raises(NotAuthorizedError, match="present key"):
            change(two, THIRD, caller=caller, now=NOW + 101)


def test_a_change_that_a_restored_index_does_not_know_is_shown_again(two) -> None:
    """With the key it led to, or a later one; whoever had the old one has nothing any more."""
    for caller in (SECOND, THIRD, THIRD):
        member = change(two, SECOND, caller=caller)
        assert (member.key, member.old_key, member.old_until) == (SECOND, b"", 0)
    member = change(two, THIRD, old=SECOND, caller=THIRD)
    assert (member.principal, member.key, member.old_key) == (FIRST, THIRD, b"")
    for old, new in ((FIRST, SECOND), (SECOND, FIRST)):  # what is past stays so
        with pytest.raises(NotAuthorizedError):
            change(two, new, old=old, caller=old)


def test_a_change_goes_on_though_a_revocation_came_between(two) -> None:
    change(two, SECOND)
    two(lambda tables: core.revoke(tables, FIRST, NOW))
    with pytest.raises(NotAuthorizedError):
        change(two, SECOND, caller=SECOND)
    two(lambda tables: core.approve(tables, FIRST, NOW))
    member = change(two, SECOND, caller=SECOND)
    assert (member.key, member.old_key) == (SECOND, b"")
    with pytest.raises(NotAuthorizedError):  # that of another bucket is not what it followed
        change(two, SECOND, old=OTHER, caller=SECOND)


def test_keys_change_one_after_the_other(two) -> None:
    change(two, SECOND)
    with pytest.raises(InvalidArgumentError, match="not over yet") as refused:
        change(two, THIRD, old=SECOND, caller=SECOND, now=NOW + 100)
    assert refused.value.details == {"old_until": NOW + 100}


def test_a_key_that_was_a_buckets_follows_none(two) -> None:
    for taken in (OTHER, FIRST):
        with pytest.raises(NotAuthorizedError, match="already"):
            change(two, taken)
    change(two, SECOND)
    with pytest.raises(NotAuthorizedError, match="already"):
        change(two, FIRST, old=SECOND, caller=SECOND, now=NOW + 101)
    # Not the first one either, which is the bucket's name, once nobody signs with it any more.
    change(two, THIRD, old=SECOND, caller=SECOND, now=NOW + 101)
    with pytest.raises(NotAuthorizedError, match="already"):
        change(two, FIRST, old=THIRD, caller=THIRD, now=NOW + 202)
    change(two, FOURTH, old=THIRD, caller=THIRD, now=NOW + 202)
    # Nor that of two changes ago, nor does any join as somebody else, or as the bucket it was.
    with pytest.raises(NotAuthorizedError, match="already"):
        change(two, SECOND, old=FOURTH, caller=FOURTH, now=NOW + 303)
    two(lambda tables: core.invite(tables, some_invite(), NOW))
    for key in (SECOND, THIRD, FOURTH):
        with pytest.raises(NotAuthorizedError, match="another bucket's key"):
            join(two, key)
    with pytest.raises(NotAuthorizedError, match="followed this one"):
        join(two, FIRST, NOW + 303)


def test_a_bucket_does_not_change_its_key_without_end(two) -> None:
    """Each change leaves a row, and wakes everybody."""
    for number in range(core.PAST_KEYS_MAX - 1):
        past = PastKey(Principal(number.to_bytes(32, "big")), FIRST)
        two(lambda tables, past=past: tables.past_keys.put(past))
    change(two, SECOND)
    with pytest.raises(NotAuthorizedError, match="no more"):
        change(two, THIRD, old=SECOND, caller=SECOND, now=NOW + 101)
    assert change(two, THIRD, old=OTHER, caller=OTHER).key == THIRD


async def test_a_change_of_strangers_keys_costs_no_transaction() -> None:
    async with an_index() as cluster:
        first, second = (KeyPair.generate(cluster.rng) for _ in range(2))
        statements = sign_key_change(first, second, cluster.options.cluster_id, 100)
        cluster.service.membership._transact = None
        with pytest.raises(NotAuthorizedError, match="neither"):
            await cluster.ask(Caller(first.principal), mb.ChangeBucketKey(*statements))


def test_the_first_key_joins_again_while_it_counts(two) -> None:
    change(two, SECOND)
    assert join(two, FIRST, NOW + 100).member.state == "approved"
    with pytest.raises(NotAuthorizedError, match="followed this one"):
        join(two, FIRST, NOW + 101)


@pytest.mark.parametrize("rotations", [1, 2, 3])
def test_the_config_names_no_key_of_another_bucket(two, rotations: int) -> None:
    """Two members with one key would pass for each other."""
    keys = [FIRST, SECOND, THIRD, FOURTH][: rotations + 1]
    for number, (old, new) in enumerate(itertools.pairwise(keys)):
        change(two, new, old=old, caller=old, now=NOW + 101 * number)
    for key in keys[1:]:
        with pytest.raises(InvalidArgumentError, match="a key of the bucket bkt1"):
            two(lambda tables, key=key: core.take_up(tables, [FIRST, OTHER, key], NOW))
    two(lambda tables: core.take_up(tables, [FIRST, OTHER], NOW))
    assert len(two(lambda tables: tables.members.where())) == 2


async def test_an_index_whose_config_names_the_new_key_of_a_bucket_does_not_start(tmp_path) -> None:
    async with an_index(directory=tmp_path) as cluster:
        old, new = cluster.bucket.key, KeyPair.generate(cluster.rng)
        statements = sign_key_change(old, new, cluster.options.cluster_id, 100)
        await cluster.ask(cluster.bucket.caller, mb.ChangeBucketKey(*statements))
    cluster.options = replace(cluster.options, buckets=(new.principal,))
    with pytest.raises(DatabaseUnusableError, match="put that name there"):
        async with cluster.open():
            pass


def test_only_an_approved_bucket_changes_its_key(two) -> None:
    two(lambda tables: core.revoke(tables, FIRST, NOW))
    with pytest.raises(NotAuthorizedError):
        change(two, SECOND)


def test_the_old_key_goes_with_a_revocation(two) -> None:
    change(two, SECOND)
    two(lambda tables: core.revoke(tables, FIRST, NOW))
    member = two(lambda tables: core.approve(tables, FIRST, NOW)).member
    assert (member.key, member.old_key) == (SECOND, b"")


async def test_both_keys_count_until_the_old_ones_end() -> None:
    async with an_index() as cluster:
        old, new = cluster.bucket.key, KeyPair.generate(cluster.rng)
        statements = sign_key_change(old, new, cluster.options.cluster_id, 100)
        await cluster.ask(cluster.bucket.caller, mb.ChangeBucketKey(*statements))
        kinds = cluster.service.membership.kinds
        cluster.clock.time += 100
        assert kinds(old.principal) == kinds(new.principal) == {Kind.BUCKET}
        roster = await roster_of(cluster)
        assert roster.buckets[0].key == new.principal
        assert roster.buckets[0].old_key == old.principal
        cluster.clock.time += 1
        assert kinds(old.principal) == frozenset()
        assert kinds(new.principal) == {Kind.BUCKET}
        caller = Caller(new.principal, frozenset({Kind.BUCKET}))
        assert isinstance(await cluster.ask(caller, m.Feed(0, 0, 0)), m.FeedBatch)
        # One number, one content: what is over goes with the next change.
        again = await cluster.ask(caller, mb.GetRoster(0, 0))
        signer = [cluster.index_key.principal]
        assert roster == open_roster(
            again.roster, cluster=cluster.options.cluster_id, signers=signer
        )


# --- the calls ----------------------------------------------------------------------------------


async def roster_of(
    cluster: IndexCluster, epoch: int = 0, wait_ms: int = 0, caller: Caller | None = None
) -> Roster:
    told = await cluster.ask(caller or cluster.bucket.caller, mb.GetRoster(epoch, wait_ms))
    assert isinstance(told, mb.SignedRoster)
    return open_roster(
        told.roster,
        cluster=cluster.options.cluster_id,
        signers=[cluster.index_key.principal],
    )


async def test_the_roster_names_the_buckets_and_is_told_with_news(autojump_clock) -> None:
    async with an_index(buckets=2) as cluster:
        first = await roster_of(cluster)
        assert {each.principal for each in first.buckets} == {
            bucket.key.principal for bucket in cluster.buckets
        }
        assert {each.http for each in first.buckets} == {"http://bucket.test"}
        later = trio.current_time()
        assert await roster_of(cluster, first.epoch, wait_ms=5000) == first
        assert trio.current_time() - later == pytest.approx(5)
        told: list[Roster] = []

        async def wait() -> None:
            told.append(await roster_of(cluster, first.epoch, wait_ms=60_000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await cluster.ask(cluster.operator, mb.RevokeBucket(cluster.buckets[1].key.principal))
        assert told[0].epoch > first.epoch
        assert [each.principal for each in told[0].buckets] == [cluster.bucket.key.principal]


async def test_an_address_that_does_not_fit_the_roster_is_left_out() -> None:
    async with an_index() as cluster:
        for letters, told in (
            ("b" * 73, "http://" + "b" * 73),
            ("b" * 74, ""),
            ("\u00e9" * 37, ""),
        ):
            space = m.Space(1, 1, 0)
            address = f"http://{letters}"
            request = m.SyncBucket(cluster.bucket.incarnation, 1, (), space, address)
            before = (await roster_of(cluster)).epoch
            await cluster.ask(cluster.bucket.caller, request)
            roster = await roster_of(cluster)
            assert roster.buckets[0].http == told
            assert roster.epoch > before
            await cluster.ask(cluster.bucket.caller, request)
            assert (await roster_of(cluster)).epoch == roster.epoch


async def test_a_long_poll_of_a_bucket_ends_when_it_is_revoked(autojump_clock) -> None:
    async with an_index() as cluster, trio.open_nursery() as nursery:

        async def poll(request: m.Feed | mb.GetRoster) -> None:
            with pytest.raises(NotAuthorizedError):
                await cluster.ask(cluster.bucket.caller, request)
            ended.append(trio.current_time())

        ended: list[float] = []
        await cluster.bucket.feed()
        roster = await roster_of(cluster)
        before = trio.current_time()
        nursery.start_soon(poll, m.Feed(*cluster.bucket.cursor, 60_000))
        nursery.start_soon(poll, mb.GetRoster(roster.epoch, 60_000))
        await trio.testing.wait_all_tasks_blocked()
        await cluster.ask(cluster.operator, mb.RevokeBucket(cluster.bucket.key.principal))
        await trio.testing.wait_all_tasks_blocked()
        assert ended == [before, before]


async def test_a_long_poll_tells_nothing_once_its_key_is_over(autojump_clock) -> None:
    async with an_index(buckets=2) as cluster, trio.open_nursery() as nursery:
        new = KeyPair.generate(cluster.rng)
        statements = sign_key_change(cluster.bucket.key, new, cluster.options.cluster_id, 10)
        await cluster.ask(cluster.bucket.caller, mb.ChangeBucketKey(*statements))

        async def poll(request: m.Feed | mb.GetRoster) -> None:
            with pytest.raises(NotAuthorizedError):
                await cluster.ask(cluster.bucket.caller, request)
            ended.append(trio.current_time())

        ended: list[float] = []
        await cluster.bucket.feed()
        roster = await roster_of(cluster)
        nursery.start_soon(poll, m.Feed(*cluster.bucket.cursor, 60_000))
        nursery.start_soon(poll, mb.GetRoster(roster.epoch, 60_000))
        await trio.testing.wait_all_tasks_blocked()
        cluster.clock.time += 11
        await cluster.ask(cluster.app, m.BlockPrincipal(cluster.bob_key.principal))
        await cluster.ask(cluster.operator, mb.RevokeBucket(cluster.buckets[1].key.principal))
    assert len(ended) == 2


async def test_a_bucket_that_waits_for_approval_hears_of_itself_alone(autojump_clock) -> None:
    async with an_index(buckets=2) as cluster:
        newcomer = Caller(KeyPair.generate(cluster.rng).principal, frozenset({Kind.CANDIDATE}))
        made = await cluster.ask(cluster.operator, mb.InviteBucket(60))
        await cluster.ask(newcomer, mb.Join(made.invite_id, made.secret))
        for _ in range(2):
            pending = await roster_of(cluster, caller=newcomer)
            assert [each.principal for each in pending.buckets] == [newcomer.proven]
            assert pending.buckets[0].state == "pending"
            whole = await roster_of(cluster)  # whoever asks first
            assert len(whole.buckets) == 3
            assert (pending.epoch, pending.index_keys) == (whole.epoch, whole.index_keys)
        await cluster.ask(cluster.operator, mb.ApproveBucket(newcomer.proven))
        approved = Caller(newcomer.proven, frozenset({Kind.BUCKET}))
        assert len((await roster_of(cluster, caller=approved)).buckets) == 3


async def test_an_answer_that_is_overtaken_does_not_put_an_older_roster_in_place(
    autojump_clock, monkeypatch
) -> None:
    async with an_index(buckets=2) as cluster:
        membership, started = cluster.service.membership, trio.current_time()
        transact = membership._transact

        async def late_at_first(*operation, **arguments):
            outcome = await transact(*operation, **arguments)
            if trio.current_time() == started:
                await trio.sleep(10)
            return outcome

        monkeypatch.setattr(membership, "_transact", late_at_first)
        told: list[int] = []

        async def ask_early() -> None:
            told.append((await roster_of(cluster)).epoch)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_early)
            await trio.sleep(5)
            await cluster.ask(cluster.operator, mb.RevokeBucket(cluster.buckets[1].caller.proven))
            newest = (await roster_of(cluster)).epoch
        assert told[0] < newest == membership.epoch


async def test_who_waits_for_the_roster_hears_of_a_new_address(autojump_clock, tmp_path) -> None:
    async with an_index(buckets=2, directory=tmp_path) as cluster:
        await trio.sleep(ADDRESS_NEWS_S)
        for wakes in (True, False):  # the second one comes too soon after the first
            before, started = await roster_of(cluster), trio.current_time()
            async with trio.open_nursery() as nursery:
                told: list[tuple[float, Roster]] = []

                async def wait(
                    epoch: int = before.epoch, told: list[tuple[float, Roster]] = told
                ) -> None:
                    roster = await roster_of(cluster, epoch, 60_000)
                    told.append((trio.current_time(), roster))

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                address = f"http://bucket-{wakes}.test"
                report = m.SyncBucket(cluster.bucket.incarnation, 1, (), m.Space(1, 1, 0), address)
                await cluster.ask(cluster.buckets[1].caller, report)
                if not wakes:
                    # What was held back goes with the next report after that time.
                    await trio.sleep(ADDRESS_NEWS_S)
                    assert not told
                    await cluster.ask(cluster.buckets[1].caller, report)
            ((at, roster),) = told
            assert at - started == pytest.approx(0 if wakes else ADDRESS_NEWS_S)
            assert address in {each.http for each in roster.buckets}
    # What stands in the database is no news.
    async with cluster.open() as service:
        woken = service.membership.news
        await cluster.ask(
            cluster.buckets[1].caller,
            m.SyncBucket(cluster.bucket.incarnation, 1, (), m.Space(1, 1, 0), address),
        )
        assert not woken.is_set()


async def test_a_batch_that_waited_while_its_bucket_was_revoked_changes_nothing() -> None:
    async with an_index() as cluster:
        request = m.SyncBucket(
            cluster.bucket.incarnation, 1, (), m.Space(1, 1, 0), "http://bucket.test"
        )
        refused: list[bool] = []

        async def sync() -> None:
            with pytest.raises(NotAuthorizedError):
                await cluster.ask(cluster.bucket.caller, request)
            refused.append(True)

        async with trio.open_nursery() as nursery:
            # Both pass the check at the door; the transactions come in this order.
            nursery.start_soon(
                cluster.ask, cluster.operator, mb.RevokeBucket(cluster.bucket.key.principal)
            )
            await trio.lowlevel.checkpoint()
            nursery.start_soon(sync)
        assert refused == [True]
        assert [each.state for each in (await cluster.status()).buckets] == ["revoked"]


async def test_what_a_key_is_follows_the_membership() -> None:
    async with an_index() as cluster:
        kinds = cluster.service.membership.kinds
        newcomer = Caller(KeyPair.generate(cluster.rng).principal)
        assert kinds(newcomer.proven) == frozenset()
        made = await cluster.ask(cluster.operator, mb.InviteBucket(60))
        await cluster.ask(newcomer, mb.Join(made.invite_id, made.secret))
        assert kinds(newcomer.proven) == {Kind.CANDIDATE}
        await cluster.ask(cluster.operator, mb.ApproveBucket(newcomer.proven))
        assert kinds(newcomer.proven) == {Kind.BUCKET}
        await cluster.ask(cluster.operator, mb.RevokeBucket(newcomer.proven))
        assert kinds(newcomer.proven) == frozenset()
        assert kinds(cluster.bucket.key.principal) == {Kind.BUCKET}


async def test_neither_a_bucket_nor_an_app_s_operator_is_blocked() -> None:
    """An operator who is blocked could not take it back."""
    async with an_index() as cluster:
        operator, bucket = cluster.operator.proven, cluster.bucket.key.principal
        with pytest.raises(NotAuthorizedError, match="does not block an operator"):
            await cluster.ask(cluster.app, m.BlockPrincipal(operator))
        new = KeyPair.generate(cluster.rng)
        statements = sign_key_change(cluster.bucket.key, new, cluster.options.cluster_id, 100)
        await cluster.ask(cluster.bucket.caller, mb.ChangeBucketKey(*statements))
        for key in (bucket, new.principal):
            with pytest.raises(InvalidArgumentError, match="revoke it"):
                await cluster.ask(cluster.app, m.BlockPrincipal(key))
        assert await roster_of(cluster)
        await cluster.ask(cluster.app, m.BlockPrincipal(operator, blocked=False))
        await cluster.ask(cluster.app, m.BlockPrincipal(cluster.bob_key.principal))
        both = Caller(cluster.app.proven, frozenset({Kind.APP, Kind.OPERATOR}))
        await cluster.ask(both, m.BlockPrincipal(operator))


async def test_members_are_told_by_pages() -> None:
    cluster = IndexCluster(Rules(), None, 70)
    async with cluster.open():
        first = await cluster.ask(cluster.operator, mb.ListMembers())
        rest = await cluster.ask(cluster.operator, mb.ListMembers(first.members[-1].principal))
        assert (len(first.members), len(rest.members)) == (64, 6)
        told = [each.principal for each in (*first.members, *rest.members)]
        assert told == sorted(bucket.key.principal for bucket in cluster.buckets)


async def test_a_restart_keeps_everything(tmp_path) -> None:
    cluster = IndexCluster(Rules(), tmp_path, 2)
    async with cluster.open():
        await cluster.ask(cluster.operator, mb.InviteBucket(60, label="later"))
        await cluster.ask(cluster.operator, mb.RevokeBucket(cluster.buckets[1].key.principal))
        before = await cluster.ask(cluster.operator, mb.ListMembers())
    async with cluster.open() as service:
        assert await cluster.ask(cluster.operator, mb.ListMembers()) == before
        assert service.membership.epoch == before.epoch
        assert service.membership.kinds(cluster.buckets[1].key.principal) == frozenset()
