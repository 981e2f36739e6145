"""What the index says: its feed, and its answers to the outbox."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ostnode.ids import NULL_ACCESSOR, BlobId, Principal, Uid
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.closing import close_grant
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.records import (
    AccessorBurned,
    BlobBlocked,
    Blocked,
    Eviction,
    FeedCursor,
    Floor,
    GrantClosed,
    GrantsEnded,
    OutboxAcked,
    Reason,
    User,
)
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.session import LEDGER


def feed_level(features: Collection[str]) -> int:
    """What a link with these features brings in the feed: 1 with `ledger`, 0 before it.

    A feed says what is, so one that was read at a lower level is read again from the start.
    """
    return 1 if LEDGER in features else 0


def apply_feed(draft: Draft, events: Sequence[e.FeedEvent], cursor: FeedCursor) -> None:
    """Apply a batch of the feed, and remember that it is.

    Events say what is, so one that comes again changes nothing. What follows from a deletion is
    swept in slices afterwards; that it has happened holds from now on.
    """
    for event in events:
        _apply(draft, event)
    known = (*draft.feed_cursor(), draft.feed_level())
    if known != (cursor.incarnation, cursor.seq, cursor.level or 0):
        draft.add(replace(cursor, life=draft.feed_life() or None))


def _apply(draft: Draft, event: e.FeedEvent) -> None:
    match event:
        case e.UserChanged():
            _change_user(draft, event)
        case e.AccessorDeleted(accessor=accessor):
            _burn(draft, accessor)
        case e.PrincipalBlocked():
            _block(draft, event)
        case e.GrantRevoked():
            _revoke(draft, event)
        case e.GrantRecalled():
            _recall(draft, event)
        case e.EvictBlob(uid=uid, blob_id=blob_id):
            _evict(draft, uid, blob_id)
        case e.BlobBlocked():
            _block_blob(draft, event)


def _burn(draft: Draft, accessor: Principal) -> None:
    """The null accessor is nobody's: uploads without accessors outlive every chat."""
    if accessor != NULL_ACCESSOR and not draft.burned(accessor):
        draft.add(AccessorBurned(accessor))


def _block(draft: Draft, event: e.PrincipalBlocked) -> None:
    version = draft.version(event.version)
    if version > draft.blocked_version(event.principal):
        draft.add(Blocked(event.principal, event.blocked, version))


def _block_blob(draft: Draft, event: e.BlobBlocked) -> None:
    version = draft.version(event.version)
    if version > draft.blob_blocked_version(event.blob_id):
        draft.add(BlobBlocked(event.blocked, version), blob=event.blob_id)


def _evict(draft: Draft, uid: Uid, blob_id: BlobId) -> None:
    """Until it is swept, no grant counts that rests on the references."""
    if not draft.evicting(uid, blob_id):
        draft.add(Eviction(uid), blob=blob_id)


def _change_user(draft: Draft, event: e.UserChanged) -> None:
    """Older versions are ignored; a deleted uid never comes back."""
    known = draft.user(event.uid)
    version = draft.version(event.version)
    if known is not None and (known.deleted or version <= known.version):
        return
    draft.add(User(event.uid, event.principal, version, event.bytes_left, deleted=event.deleted))


def _revoke(draft: Draft, event: e.GrantRevoked) -> None:
    """Close the grant unless it is used already; that one is as dead, and its end is now known."""
    if isinstance(draft.grant(event.grant_id), t.ClosedGrant):
        draft.add(GrantsEnded((m.ClosedEnd(event.grant_id, event.end),)))
        return
    closed = GrantClosed(event.grant_id, event.uid, Reason.REVOKED, end=event.end)
    close_grant(draft, closed, event.blob_id)


def _recall(draft: Draft, event: e.GrantRecalled) -> None:
    """Close a grant that nobody has used: an upload that has begun has its room, and may end."""
    if draft.grant(event.grant_id) is None:
        closed = GrantClosed(event.grant_id, event.uid, Reason.REVOKED)
        close_grant(draft, closed, event.blob_id)


def acknowledge(draft: Draft, through: int, result: m.SyncResult) -> None:
    """Drop the events that the index has, and learn the latest ends of the grants they closed."""
    draft.add(OutboxAcked(through))
    if result.closed:
        draft.add(GrantsEnded(result.closed))


def raise_floor(draft: Draft, index_time: int) -> None:
    """Let the floor follow the index's clock, as last heard in the feed."""
    if index_time > draft.number(t.FLOOR):
        draft.add(Floor(index_time))
        draft.tell(e.FloorRaised(index_time))
