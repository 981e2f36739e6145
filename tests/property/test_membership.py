"""Who belongs to the cluster, over any history: a key is one bucket's, a number is one roster."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ostnode.errors import OstError
from ostnode.ids import ClusterId, Principal
from ostnode.roles.index.core import membership as core
from ostnode.roles.index.core.memberrows import Invite, MemberState
from ostnode.roles.index.core.roster import roster
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.repository import run_alone
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.wire import membership as mb
from ostnode.wire.roster import Roster
from ostnode.wire.rotation import KeyChange

CLUSTER = ClusterId(bytes(16))
INDEX = Principal(b"i" * 32)
KEYS = [Principal(bytes([number]) * 32) for number in range(1, 5)]
keys = st.sampled_from(KEYS)


class MembershipMachine(RuleBasedStateMachine):
    """Few keys, so that every one of them meets every role."""

    def __init__(self) -> None:
        super().__init__()
        self.database = SqliteDatabase(None)
        self.now = 1_700_000_000
        self.told: dict[int, Roster] = {}
        self.epoch = 0
        self.owners: dict[Principal, Principal] = {}
        self.present: dict[Principal, Principal] = {}
        self.over: set[Principal] = set()
        self.revoked: set[Principal] = set()
        self.run(lambda tables: core.take_up(tables, (), self.now))

    def run(self, operation):
        """A decision in its transaction; a refusal changes nothing."""
        with suppress(OstError):
            return run_alone(self.database, operation)

    @rule(seconds=st.sampled_from([-5, 0, 1, 50, 101]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(named=st.sets(keys, max_size=2))
    def restart(self, named: set[Principal]) -> None:
        self.run(lambda tables: core.take_up(tables, named, self.now))

    @rule(who=keys, auto=st.booleans())
    def join(self, who: Principal, *, auto: bool) -> None:
        invite = Invite(bytes(8), core.secret_hash(bytes(32)), self.now + 9, auto, "")
        self.run(lambda tables: core.invite(tables, invite, self.now))
        self.run(lambda tables: core.join(tables, who, mb.Join(bytes(8), bytes(32)), self.now))

    @rule(bucket=keys)
    def approve(self, bucket: Principal) -> None:
        if self.run(lambda tables: core.approve(tables, bucket, self.now)):
            self.revoked.discard(bucket)

    @rule(bucket=keys)
    def revoke(self, bucket: Principal) -> None:
        change = self.run(lambda tables: core.revoke(tables, bucket, self.now))
        if change and change.member is not None:
            self.revoked.add(bucket)

    @rule(
        number=st.integers(0, 5), new=keys, shown=st.booleans(), overlap_s=st.sampled_from([0, 9])
    )
    def change_key(self, number: int, new: Principal, overlap_s: int, *, shown: bool) -> None:
        """Of whoever comes at this place; `shown` by somebody else than the key before."""
        members = run_alone(self.database, lambda tables: tables.members.where())
        if not members:
            return
        old = members[number % len(members)].key
        asked = KeyChange(CLUSTER, old, new, overlap_s)
        caller = new if shown else old
        self.run(lambda tables: core.change_key(tables, caller, asked, self.now))
        self.now += overlap_s

    @invariant()
    def a_key_is_one_buckets_for_ever(self) -> None:
        members = run_alone(self.database, lambda tables: tables.members.where())
        held = {
            (Principal(key), member.principal)
            for member in members
            for key in (member.principal, member.key, member.old_key or member.key)
        }
        kept = {each.principal for each in members}
        held |= {(key, owner) for key, owner in self.owners.items() if owner in kept}
        self.owners = dict(held)
        assert len(self.owners) == len(held)
        present = {each.principal: each.key for each in members}
        self.over |= {key for one, key in self.present.items() if present.get(one, key) != key}
        self.present = present
        assert not self.over & set(present.values())

    @invariant()
    def a_number_is_one_roster(self) -> None:
        def look(tables: Tables) -> Roster:
            return roster(tables, CLUSTER, INDEX)

        made = run_alone(self.database, look)
        assert self.told.setdefault(made.epoch, made) == made
        assert made.epoch >= self.epoch
        self.epoch = made.epoch

    @invariant()
    def who_was_revoked_stays_so(self) -> None:
        for bucket in self.revoked:
            member = run_alone(self.database, lambda tables, b=bucket: tables.members.get(b))
            assert member.state is MemberState.REVOKED

    def teardown(self) -> None:
        self.database.close()


@pytest.mark.slow
def test_any_history_leaves_keys_and_numbers_unmistakable() -> None:
    MembershipMachine.TestCase.settings = settings(stateful_step_count=30)
    MembershipMachine.TestCase().runTest()
