"""The index's accounts with the decisions of real buckets: whatever happens, both sides agree.

As in `test_index_accounts`, but each bucket is the product's, on a log in a list: it forwards,
expires, crashes before a sync, hears the feed late or twice, and hears of chats and of blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from ostnode.errors import OstError
from ostnode.ids import BlobId, Principal
from ostnode.roles.bucket.core import admission, completion, sweeps
from ostnode.roles.index.core import accessors, denylist, feed, ledger
from ostnode.roles.index.core.rows import User
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import messages as m
from ostnode.wire.session import LEDGER
from tests.property.test_index_accounts import BUCKETS, SIZES, IndexAccounts, blobs, buckets, people
from tests.support.corebucket import CoreBucket
from tests.support.index_model import Token

INDEX = Principal(bytes(32))
CHATS = [Principal(bytes([n]) * 32) for n in (200, 201)]


class IndexAndBuckets(IndexAccounts):
    tokens = IndexAccounts.tokens
    queue_poison = None  # a bucket queues no events that are none

    def __init__(self) -> None:
        super().__init__()
        self.buckets = [CoreBucket(principal, INDEX) for principal in BUCKETS]

    def bucket_of(self, token: Token) -> CoreBucket:
        bucket = super().bucket_of(token)
        bucket.now = self.now
        return bucket

    @rule(token=tokens, index=st.integers(0, 1))
    def push_one(self, token: Token, index: int) -> None:
        self.bucket_of(token).push_one(token, index, SIZES[token.blob_id])

    @rule(token=tokens, lives_s=st.sampled_from([1, 60]))
    def push_what_expires(self, token: Token, lives_s: int) -> None:
        self.bucket_of(token).push(token, SIZES[token.blob_id], lives_s)

    @rule(principal=people, blob_id=blobs)
    def upload_and_remove_and_upload(self, principal: Principal, blob_id: BlobId) -> None:
        """And show each grant again."""
        shown = []
        for _ in range(2):
            token = self.allocate(principal, blob_id, 0)
            if not isinstance(token, Token):
                return
            bucket = self.bucket_of(token)
            for each in (*shown, token):
                bucket.push(each, SIZES[blob_id])
            shown.append(token)
            self.sync(bucket, 100)
            if len(shown) == 1:
                bucket.remove_all(token.uid, blob_id)
                bucket.push(token, SIZES[blob_id])
                self.sync(bucket, 100)

    @rule(principal=people, blob_id=blobs)
    def push_late(self, principal: Principal, blob_id: BlobId) -> None:
        """The grant's reservation has been freed: nothing comes of it."""
        token = self.allocate(principal, blob_id, 0)
        if not isinstance(token, Token):
            return
        bucket = self.bucket_of(token)
        if bucket.floor < token.end:
            self.now = max(self.now, token.end)
            bucket.hear(self.read_feed(bucket))
            bucket.raise_floor(bucket.index_time)
        held = bucket.held
        bucket.push(token, SIZES[token.blob_id])
        assert set(bucket.held) <= set(held)

    @rule(principal=people, blob_id=blobs)
    def push_what_rests_on_nothing(self, principal: Principal, blob_id: BlobId) -> None:
        """A grant that reserves nothing is worth what is held."""
        for _ in range(2):
            token = self.allocate(principal, blob_id, 0)
            if not isinstance(token, Token):
                return
            bucket = self.bucket_of(token)
            if token.reserved == token.size:
                bucket.push(token, SIZES[blob_id])
                self.sync(bucket, 100)
        bucket.remove_all(token.uid, blob_id)
        if token.reserved < token.size and (token.uid, blob_id) not in bucket.held:
            bucket.push(token, SIZES[blob_id])
            assert (token.uid, blob_id) not in bucket.held

    @rule(token=tokens, chat=st.sampled_from(CHATS), ref_id=st.sampled_from([b"", b"2"]))
    def forward(self, token: Token, chat: Principal, ref_id: bytes) -> None:
        self.bucket_of(token).forward(token, chat, ref_id)

    @rule(chat=st.sampled_from([CHATS[0], BUCKETS[1]]), really=st.integers(0, 5))
    def delete_chat(self, chat: Principal, really: int) -> None:
        if not really:
            self.transact(lambda tables: accessors.burn_accessor(tables, chat, self.now))

    @rule(blob_id=blobs, blocked=st.sampled_from([False, False, True]))
    def block_blob(self, blob_id: BlobId, blocked: bool) -> None:
        self.transact(lambda tables: denylist.set_blocked(tables, blob_id, blocked=blocked))

    @rule(at=buckets)
    def sweep(self, at: int) -> None:
        self.buckets[at].now = self.now
        self.buckets[at].sweep()

    @rule(at=buckets, kept=st.integers(0, 3))
    def crash(self, at: int, kept: int) -> None:
        self.buckets[at].log.crash(kept)

    @rule(at=buckets, back=st.integers(1, 3))
    def hear_again(self, at: int, back: int) -> None:
        bucket = self.buckets[at]
        incarnation, seq = bucket.cursor
        request = m.Feed(incarnation, max(0, seq - back), 0)
        bucket.hear(
            self.transact(
                lambda tables: feed.read_feed(tables, bucket.principal, request, self.now, {LEDGER})
            )
        )

    def drain(self) -> None:
        for _ in range(4):
            for bucket in self.buckets:
                bucket.now = self.now
                bucket.sweep()
            super().drain()

    def settle(self) -> None:
        super().settle()
        live = {user.uid for user in self.transact(_registered)}
        assert all(uid in live for bucket in self.buckets for uid, _ in bucket.held)
        assert not any(bucket.uploads for bucket in self.buckets)
        assert not any(bucket.outbox for bucket in self.buckets)


def _registered(tables: Tables) -> list[User]:
    return tables.users.where(deleted=False)


def run(machine: type[IndexAndBuckets], **options: object) -> None:
    machine.TestCase.settings = settings(stateful_step_count=40, derandomize=True, **options)
    machine.TestCase().runTest()


@pytest.mark.slow
def test_b25_b16_b30_b68_index_and_buckets_agree_whatever_happens() -> None:
    run(IndexAndBuckets)


# --- mistakes that must be found ---


def decrement_twice(patch: pytest.MonkeyPatch) -> None:
    drop = ledger.drop_charge

    def twice(tables: Tables, uid, blob_id, bucket) -> None:
        charge = tables.charges.get(uid, blob_id)
        drop(tables, uid, blob_id, bucket)
        if charge is not None and not charge.evicting and charge.bucket == bucket:
            user = tables.users.get(uid)
            if user is not None and user.used >= charge.size:
                ledger._change_account(tables, uid, used=-charge.size)

    patch.setattr(ledger, "drop_charge", twice)


def apply_released_again(patch: pytest.MonkeyPatch) -> None:
    """Each `Released` once more when the next event of its blob comes."""
    release, before = ledger.release_charge, {}

    def late(tables: Tables, uid, blob_id, bucket) -> None:
        release(tables, uid, blob_id, bucket)
        before[uid, blob_id] = bucket

    add = ledger.add_charge

    def add_and_release(tables: Tables, charge) -> None:
        add(tables, charge)
        bucket = before.pop((charge.uid, charge.blob_id), None)
        if bucket is not None:
            release(tables, charge.uid, charge.blob_id, bucket)

    patch.setattr(ledger, "release_charge", late)
    patch.setattr(ledger, "add_charge", add_and_release)


def keep_the_reservation(patch: pytest.MonkeyPatch) -> None:
    change = ledger._change_account

    def kept(tables: Tables, uid, *, reserved: int = 0, **sums: int) -> None:
        change(tables, uid, reserved=max(0, reserved), **sums)

    patch.setattr(ledger, "_change_account", kept)


def pass_over_the_floor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(admission, "_check_grant", lambda view, ask: None)


def take_closed_grants(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(admission, "answer_again", lambda *args: None)


def take_grants_that_rest_on_nothing(patch: pytest.MonkeyPatch) -> None:
    for module in (admission, completion):  # asked again once the bytes are there
        patch.setattr(module, "refuse_unheld", lambda *args: None)


def forget_to_sweep_users(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sweeps._SWEEPS, b"u", lambda draft, name: True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake",
    [
        decrement_twice,
        apply_released_again,
        keep_the_reservation,
        pass_over_the_floor,
        take_closed_grants,
        take_grants_that_rest_on_nothing,
        forget_to_sweep_users,
    ],
)
def test_a_mistake_in_the_accounts_is_found(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake(monkeypatch)
    machine = type("Mistaken", (IndexAndBuckets,), {})
    with pytest.raises((AssertionError, OstError)):
        run(machine, max_examples=300, phases=[Phase.generate], database=None)
