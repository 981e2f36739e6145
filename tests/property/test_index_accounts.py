"""The index's accounts against a model of buckets, under any order, loss, repeat and crash."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from ostnode.errors import (
    AllowanceExceededError,
    BlobBlockedError,
    BusyError,
    InvalidArgumentError,
    OstError,
    UploadConflictError,
    UserUnknownError,
)
from ostnode.ids import BlobId, ClusterId, GrantId, Principal, Uid
from ostnode.roles.index import IndexOptions, Rules
from ostnode.roles.index.core import allocation, chores, feed, outbox, users
from ostnode.roles.index.core.buckets import Chooser
from ostnode.roles.index.core.rules import ON_FULL
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.repository import run_alone
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.roles.index.opening import found
from ostnode.wire import messages as m
from ostnode.wire.session import LEDGER
from tests.support.index_model import ModelBucket, Token

T = TypeVar("T")

PEOPLE = [Principal(bytes([n]) * 32) for n in range(1, 4)]
SIZES = {BlobId(bytes([n]) * 32): size for n, size in ((0, 0), (70, 3), (140, 5), (210, 8))}
BUCKETS = [Principal(bytes([n]) * 32) for n in (100, 101)]
RULES = Rules(chunk_bytes=4, grant_ttl_s=100, user_grants_max=3)
INCARNATION = 5
SUSPENDED = (
    AllowanceExceededError,
    BlobBlockedError,
    BusyError,
    InvalidArgumentError,
    UploadConflictError,
)

people = st.sampled_from(PEOPLE)
blobs = st.sampled_from(sorted(SIZES))
buckets = st.integers(0, 1)
counts = st.integers(1, 5)


class CrashError(Exception):
    """The process dies before COMMIT."""


class IndexAccounts(RuleBasedStateMachine):
    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.database = SqliteDatabase(None)
        self.random = random.Random(3)
        self.chooser = Chooser()
        self.buckets = [ModelBucket(principal) for principal in BUCKETS]
        self.now = 1_000
        self.highest: Counter[Uid] = Counter()

    def teardown(self) -> None:
        self.settle()
        self.database.close()

    def transact(self, operation: Callable[[Tables], T]) -> T:
        return run_alone(self.database, operation)

    # --- the index's side ---

    @initialize()
    def open(self) -> None:
        options = IndexOptions(cluster_id=ClusterId(bytes(16)), buckets=tuple(BUCKETS))
        self.transact(lambda tables: found(tables, options, Principal(bytes(32)), INCARNATION))
        for bucket in self.buckets:
            self.sync(bucket, 0)
            bucket.hear(self.read_feed(bucket))  # only of one that reads the feed blobs are evicted
        for principal in PEOPLE:
            self.register(principal, 16)
        self.register(PEOPLE[0], 9, "evict_oldest")

    @rule(blob_id=blobs)
    def post(self, blob_id: BlobId) -> None:
        """The first of the people, who evicts, posts one more."""
        token = self.allocate(PEOPLE[0], blob_id, 0)
        if isinstance(token, Token):
            self.push(token)
            self.sync(self.bucket_of(token), 5)

    @rule(principal=people, limit=st.integers(0, 24), on_full=st.sampled_from(ON_FULL))
    def register(self, principal: Principal, limit: int, on_full: str = "refuse") -> None:
        self.change(m.UserChange("register", principal, limit, on_full))
        uid = self.uid(principal)
        assert uid is not None
        self.highest[uid] = max(self.highest[uid], limit)

    @rule(principal=people)
    def delete(self, principal: Principal) -> None:
        self.change(m.UserChange("delete", principal))

    @rule(principal=people, limit=st.integers(8, 24))
    def delete_and_register(self, principal: Principal, limit: int) -> None:
        self.change(m.UserChange("delete", principal), m.UserChange("register", principal, limit))
        self.register(principal, limit)

    @rule(old=people, new=people)
    def change_principal(self, old: Principal, new: Principal) -> None:
        try:
            self.transact(lambda tables: users.change_principal(tables, old, new))
        except OstError:
            assert self.uid(old) is None or self.uid(new) is not None

    @rule(target=tokens, principal=people, blob_id=blobs, off=st.sampled_from([0, 0, 0, 1, -1]))
    def allocate(self, principal: Principal, blob_id: BlobId, off: int):
        size = max(0, SIZES[blob_id] + off)
        new_id = GrantId(INCARNATION.to_bytes(8, "big") + self.random.randbytes(8))
        ask = allocation.Ask(principal, blob_id, size, new_id, self.now)
        before = self.transact(lambda tables: tables.live_user(principal))
        try:
            granted = self.transact(
                lambda tables: allocation.allocate(tables, self.chooser, RULES, ask)
            )
        except UserUnknownError:
            assert before is None
            return multiple()
        except SUSPENDED:
            return multiple()
        if isinstance(granted, allocation.Unready):
            return multiple()
        user, grant = granted.user, granted.grant
        assert before is not None
        if user.used + user.reserved > before.used + before.reserved:
            assert user.used + user.reserved <= user.byte_limit
        return Token(
            grant.grant_id,
            grant.bucket,
            grant.uid,
            blob_id,
            grant.size,
            grant.reserved,
            grant.latest_end,
            principal,
        )

    @rule(token=tokens, principal=people)
    def release(self, token: Token, principal: Principal) -> None:
        try:
            self.transact(lambda tables: allocation.release(tables, principal, token.grant_id))
        except UserUnknownError:
            assert self.uid(principal) is None

    @rule(urgent_only=st.booleans())
    def stamp(self, urgent_only: bool) -> None:
        self.transact(lambda tables: feed.stamp(tables, urgent_only=urgent_only))

    @rule()
    def do_chores(self) -> None:
        self.transact(chores.do_slice)

    @rule(seconds=st.sampled_from([1, 30, 99, 250]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    # --- the buckets' side ---

    @rule(token=tokens)
    def push(self, token: Token) -> None:
        self.bucket_of(token).push(token, SIZES[token.blob_id])

    @rule(token=tokens, reason=st.sampled_from(["cancelled", "bucket_full", "expired"]))
    def cancel(self, token: Token, reason: str) -> None:
        self.bucket_of(token).cancel(token, reason)

    @rule(at=buckets, which=st.integers(0, 20))
    def remove(self, at: int, which: int) -> None:
        held = sorted(self.buckets[at].held)
        if held:
            self.buckets[at].remove(*held[which % len(held)])

    @rule(at=buckets, back=st.integers(0, 60))
    def raise_floor(self, at: int, back: int) -> None:
        self.buckets[at].raise_floor(self.buckets[at].index_time - back)

    @rule(at=buckets, data=st.sampled_from([b"\xff", b"\xa0", b"\xa1dkindhreleased"]))
    def queue_poison(self, at: int, data: bytes) -> None:
        self.buckets[at].queue_poison(data)

    @rule(at=buckets, count=counts)
    def sync_and_hear(self, at: int, count: int) -> None:
        self.sync(self.buckets[at], count)

    @rule(at=buckets, count=counts)
    def sync_and_lose_the_answer(self, at: int, count: int) -> None:
        request = self.buckets[at].batch(count)
        self.transact(self.applying(self.buckets[at], request))

    @rule(at=buckets, count=counts)
    def sync_twice(self, at: int, count: int) -> None:
        bucket = self.buckets[at]
        request = bucket.batch(count)
        first, second = (self.transact(self.applying(bucket, request)) for _ in range(2))
        assert first == second
        bucket.answered(request, second)

    @rule(at=buckets, count=counts)
    def crash_while_applying(self, at: int, count: int) -> None:
        bucket = self.buckets[at]
        apply = self.applying(bucket, bucket.batch(count))

        def die(tables: Tables) -> None:
            apply(tables)
            raise CrashError

        with pytest.raises(CrashError):
            self.transact(die)

    @rule(at=buckets, lose=st.booleans())
    def poll(self, at: int, lose: bool) -> None:
        bucket = self.buckets[at]
        batch = self.read_feed(bucket)
        if not lose:
            bucket.hear(batch)

    # --- what always holds ---

    @invariant()
    def sums_are_the_rows(self) -> None:
        everything = self.transact(
            lambda tables: (
                tables.users.where(),
                tables.grants.where(),
                tables.charges.where(),
                tables.placements.where(),
            )
        )
        registered, grants, charges, placements = everything
        for user in registered:
            if user.deleted:
                continue
            mine = [grant for grant in grants if grant.uid == user.uid]
            paid = [each for each in charges if each.uid == user.uid and not each.evicting]
            assert user.reserved == sum(grant.reserved for grant in mine)
            assert user.used == sum(charge.size for charge in paid)
            assert (user.grants, user.blobs) == (len(mine), len(paid))
            assert user.used + user.reserved <= self.highest[user.uid]
        granted = Counter(grant.blob_id for grant in grants)
        charged = Counter(charge.blob_id for charge in charges)
        assert {row.blob_id: (row.grants, row.charges) for row in placements} == {
            blob_id: (granted[blob_id], charged[blob_id]) for blob_id in granted | charged
        }

    @invariant()
    def nobody_stores_more_than_ever_allowed(self) -> None:
        """But for what is being evicted, and the bucket has not heard of."""
        charges = self.transact(lambda tables: tables.charges.where())
        evicting = {(each.uid, each.blob_id) for each in charges if each.evicting}
        stored: Counter[Uid] = Counter()
        for bucket in self.buckets:
            for key, size in bucket.held.items():
                stored[key[0]] += 0 if key in evicting else size
        assert all(stored[uid] <= self.highest[uid] for uid in stored)

    @invariant()
    def no_blob_is_in_two_buckets(self) -> None:
        one, other = ({blob_id for _, blob_id in bucket.held} for bucket in self.buckets)
        assert not one & other

    # --- at rest ---

    def settle(self) -> None:
        """Drain everything: the index's accounts are what the buckets hold (rule 6)."""
        self.drain()
        held = Counter[Uid]()
        for bucket in self.buckets:
            for (uid, _), size in bucket.held.items():
                held[uid] += size
        for user in self.transact(lambda tables: tables.users.where(deleted=False)):
            assert user.used == held[user.uid]
        # Every open grant ends one day, whatever its client does.
        self.now += 1_000
        self.drain()
        for bucket in self.buckets:
            bucket.raise_floor(bucket.index_time)
            assert not {end for end in bucket.closed.values() if 0 < end <= bucket.floor}
        self.drain()
        assert self.transact(lambda tables: tables.grants.where()) == []
        charges = self.transact(lambda tables: tables.charges.where())
        placed = {row.blob_id: row.bucket for row in self.transact(_placements)}
        for bucket in self.buckets:
            mine = {(c.uid, c.blob_id): c.size for c in charges if c.bucket == bucket.principal}
            assert mine == bucket.held
            assert all(placed[blob_id] == bucket.principal for _, blob_id in bucket.held)
            assert bucket.closed == {}
            assert bucket.reported == bucket.poison
        assert set(placed) == {charge.blob_id for charge in charges}

    def drain(self) -> None:
        for _ in range(4):
            while self.transact(chores.do_slice):
                pass
            while self.transact(lambda tables: feed.stamp(tables, urgent_only=False)):
                pass
            for bucket in self.buckets:
                bucket.hear(self.read_feed(bucket))
                self.sync(bucket, len(bucket.outbox))

    # --- helpers ---

    def change(self, *changes: m.UserChange) -> None:
        result = self.transact(
            lambda tables: users.change_users(
                tables, changes, lambda: Uid(self.random.randbytes(8))
            )
        )
        assert all(item == m.ItemResult() for item in result.results)

    def uid(self, principal: Principal) -> Uid | None:
        user = self.transact(lambda tables: tables.live_user(principal))
        return None if user is None else user.uid

    def bucket_of(self, token: Token) -> ModelBucket:
        return self.buckets[BUCKETS.index(token.bucket)]

    def applying(
        self, bucket: ModelBucket, request: m.SyncBucket
    ) -> Callable[[Tables], m.SyncResult]:
        return lambda tables: outbox.sync_bucket(tables, RULES, bucket.principal, request, self.now)

    def read_feed(self, bucket: ModelBucket) -> m.FeedBatch:
        request = m.Feed(*bucket.cursor, 0)
        return self.transact(
            lambda tables: feed.read_feed(tables, bucket.principal, request, self.now, {LEDGER})
        )

    def sync(self, bucket: ModelBucket, count: int) -> None:
        request = bucket.batch(count)
        bucket.answered(request, self.transact(self.applying(bucket, request)))


def _placements(tables: Tables):
    return tables.placements.where()


@pytest.mark.slow
def test_b25_accounts_hold_under_any_sequence() -> None:
    IndexAccounts.TestCase.settings = settings(stateful_step_count=40)
    IndexAccounts.TestCase().runTest()
