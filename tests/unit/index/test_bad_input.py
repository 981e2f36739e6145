"""What the index refuses leaves nothing behind: the whole database is as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostnode.codec import encode
from ostnode.errors import (
    AllowanceExceededError,
    BlobTooLargeError,
    InvalidArgumentError,
    NotAuthorizedError,
    NotFoundError,
    OstError,
    UserExistsError,
    UserUnknownError,
)
from ostnode.ids import SIZE_MAX
from ostnode.roles.index import Rules
from ostnode.wire import accounts as ac
from ostnode.wire import checking as ck
from ostnode.wire import events as e
from ostnode.wire import fleet as fl
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller
from ostnode.wire.eventcodec import encode_event
from ostnode.wire.fields import Request
from ostnode.wire.schema import from_map
from tests.support.index_cluster import IndexCluster, an_index, blob


def dump(index: IndexCluster) -> list[str]:
    """Everything but who leads."""
    connection = index.service._transact.__self__._database._connection
    return [line for line in connection.iterdump() if '"leases"' not in line]


def but_for_agreements(index: IndexCluster) -> list[str]:
    """Everything but whether a bucket has to resync."""
    return [line for line in dump(index) if '"agreements"' not in line]


async def lived(index: IndexCluster) -> m.Allocation:
    """A charge, an open grant, and two users."""
    await index.change(("register", index.bob, 1000))
    charged = await index.allocate(index.alice, blob(1), 100)
    await index.bucket.sync(index.bucket.completed(charged))
    held = await index.allocate(index.alice, blob(2), 200)
    for bucket in index.buckets:
        await bucket.feed()
    return held


async def refused(index: IndexCluster, caller: Caller, request: Request) -> OstError:
    before = dump(index)
    with pytest.raises(OstError) as caught:
        await index.ask(caller, request)
    assert dump(index) == before
    return caught.value


def sync(index: IndexCluster, *events: bytes, **changes: object) -> m.SyncBucket:
    end = index.bucket
    space = m.Space(1 << 40, 1 << 40, 0)
    request = m.SyncBucket(end.incarnation, end.next_seq, events, space, "http://bucket.test")
    return replace(request, **changes)


async def test_requests_that_cannot_be_met_change_nothing() -> None:
    async with an_index(Rules(blob_bytes_max=10_000)) as index:
        await lived(index)
        nobody = Caller(index.general.principal)
        unknown = index.general.principal
        for caller, request, error in (
            (nobody, m.Allocate(blob(3), 1), UserUnknownError),
            (nobody, m.CanForward(blob(3), 1), UserUnknownError),
            (nobody, m.GetUser(), UserUnknownError),
            (nobody, m.ReleaseGrant(index.rng.token(16)), UserUnknownError),
            (index.alice, m.Allocate(blob(3), 10_001), BlobTooLargeError),
            (index.alice, m.Allocate(blob(3), SIZE_MAX), BlobTooLargeError),
            (index.alice, m.Allocate(blob(3), 701), AllowanceExceededError),
            (index.alice, m.Allocate(blob(1), 99), InvalidArgumentError),
            (index.alice, m.GetUser(index.bob.proven), NotAuthorizedError),
            (index.app, m.ChangePrincipal(unknown, index.bob.proven), UserUnknownError),
            (
                index.app,
                m.ChangePrincipal(index.alice.proven, index.bob.proven),
                UserExistsError,
            ),
            (index.operator, fl.SetBucketState(unknown, "active"), NotFoundError),
            (index.operator, ck.ForgetBucket(unknown), NotFoundError),
            (index.app, ac.BlockBlob(blob(1)), NotAuthorizedError),
            (index.bucket.caller, ac.ListBlocked(), NotAuthorizedError),
        ):
            assert isinstance(await refused(index, caller, request), error), request


async def test_a_batch_of_users_that_is_all_wrong_changes_nothing() -> None:
    async with an_index() as index:
        await lived(index)
        before = dump(index)
        stranger = Caller(index.general.principal)
        assert await index.change(
            ("update", stranger, 5), ("delete", stranger, 0), ("explode", index.alice, 5)
        ) == ["user_unknown", "", "invalid_argument"]
        assert dump(index) == before


@pytest.mark.parametrize("limit", [-1, SIZE_MAX + 1, 1 << 63, 1 << 64, True, "10"])
def test_a_limit_that_is_no_amount_is_no_message(limit: object) -> None:
    change = {"op": "register", "principal": bytes(32), "byte_limit": limit}
    with pytest.raises(InvalidArgumentError):
        from_map(m.ChangeUsers, {"changes": [change]})


async def test_the_same_user_twice_in_a_batch_is_taken_in_order() -> None:
    async with an_index() as index:
        codes = await index.change(
            ("register", index.bob, 1), ("register", index.bob, SIZE_MAX), ("update", index.bob, 7)
        )
        assert codes == ["", "", ""]
        assert (await index.user(index.bob.proven)).allowance.limit == 7


async def test_a_bucket_that_is_none_of_ours_is_refused() -> None:
    async with an_index() as index:
        await lived(index)
        other = replace(index.bucket.caller, principal=index.general.principal)
        for request in (sync(index), m.Feed(0, 0, 0)):
            assert isinstance(await refused(index, other, request), NotAuthorizedError)


async def test_gaps_and_stale_incarnations_change_no_account() -> None:
    """A bucket that was set back is remembered as such: no account and no event is."""
    async with an_index() as index:
        held = await lived(index)
        account = await index.account(index.alice)
        before = but_for_agreements(index)
        completed = encode_event(index.bucket.completed(held))
        for changes in (
            {"first_seq": index.bucket.next_seq + 1},
            {"first_seq": 0},
            {"incarnation": index.bucket.incarnation - 1},
            {"incarnation": 0},
        ):
            with pytest.raises(OstError):
                await index.ask(index.bucket.caller, sync(index, completed, **changes))
            assert await index.account(index.alice) == account
            assert (await index.status()).rejected_events == 0
            assert but_for_agreements(index) == before


async def test_a_feed_cursor_of_another_index_changes_nothing() -> None:
    async with an_index() as index:
        await lived(index)
        plain = replace(index.bucket.caller, features=frozenset())
        for request in (m.Feed(5, 1, 0), m.Feed(index.bucket.cursor[0], 1 << 40, 0)):
            with pytest.raises(InvalidArgumentError):
                await index.ask(plain, request)


async def test_another_buckets_events_are_set_aside_once_and_change_no_account() -> None:
    async with an_index(buckets=2) as index:
        await index.change(("register", index.bob, 1000))
        held = await index.allocate(index.alice, blob(1), 100)
        owner = index.bucket_of(held)
        (other,) = (bucket for bucket in index.buckets if bucket is not owner)
        await owner.sync(owner.completed(held))
        again = await index.allocate(index.alice, blob(2), 50)
        home = index.bucket_of(again)
        (wrong,) = (bucket for bucket in index.buckets if bucket is not home)
        grant = home.open(again)
        before = await index.account(index.alice)
        result = await wrong.sync_bytes(
            encode_event(e.Completed(grant.grant_id, grant.uid, grant.blob_id, grant.size)),
            encode_event(e.GrantClosed(grant.grant_id, grant.uid, grant.blob_id, "cancelled")),
            encode({"kind": "completed"}),
            b"\xff",
        )
        await other.sync(e.Released(grant.uid, blob(1), 100), e.Evicted(grant.uid, blob(1)))
        assert await index.account(index.alice) == before
        assert len(result.rejected) == 4
        assert (await index.status()).rejected_events == 4
        await home.sync(home.completed(again))
        assert await index.account(index.alice) == (150, 0)
