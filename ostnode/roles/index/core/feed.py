"""The feed to the buckets: what has changed, stamped with dense sequence numbers.

One row per entity holds its state as of the last stamp. A change marks the entity unstamped;
the heartbeat turns marks into events of the entity's current state. So a bucket that starts from
nothing reads everything, and a burst of changes to one entity is one event.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

from ostnode.errors import InternalError, InvalidArgumentError
from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.roles.index.core.rows import THE_INDEX, FeedRow, Meta, Unstamped
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.eventcodec import encode_event, fitting
from ostnode.wire.fields import BATCH_ITEMS_MAX
from ostnode.wire.session import LEDGER

STAMPS_MAX: Final = 500
"""Entities stamped in one transaction: a few milliseconds, so that others get their turn."""

_USER, _ACCESSOR, _BLOCKED, _GRANT = b"u", b"a", b"b", b"g"
_EVICTION, _BLOCKED_BLOB = b"e", b"x"
_SINCE_LEDGER: Final = frozenset({_EVICTION, _BLOCKED_BLOB})
"""What a link without the feature `ledger` does not bring."""


def expect_users(tables: Tables, uids: Iterable[Uid]) -> None:
    """Changes of these registrations are going to be announced."""
    tables.unstamped.expect([(_USER + uid,) for uid in uids])


def announce_user(tables: Tables, uid: Uid, *, urgent: bool) -> None:
    """The registration changed; a change of bytes left alone is not urgent."""
    _announce(tables, _USER + uid, urgent=urgent)


def announce_accessor(tables: Tables, accessor: Principal) -> None:
    """The accessor is burned."""
    _announce(tables, _ACCESSOR + accessor, urgent=True)


def announce_blocked(tables: Tables, principal: Principal) -> None:
    """The principal was blocked or unblocked."""
    _announce(tables, _BLOCKED + principal, urgent=True)


def announce_revocation(tables: Tables, grant_id: GrantId) -> None:
    """The grant is to be closed."""
    _announce(tables, _GRANT + grant_id, urgent=True)


def withdraw_revocation(tables: Tables, grant_id: GrantId) -> None:
    """The grant is gone: nobody needs to hear that it should be closed."""
    tables.unstamped.drop(_GRANT + grant_id)
    tables.feed.drop(_GRANT + grant_id)


def announce_blocked_blob(tables: Tables, blob_id: BlobId) -> None:
    """The blob was blocked or unblocked."""
    _announce(tables, _BLOCKED_BLOB + blob_id, urgent=True)


def announce_eviction(tables: Tables, uid: Uid, blob_id: BlobId) -> None:
    """The uid's references to the blob are to be removed."""
    _announce(tables, _EVICTION + uid + blob_id, urgent=True)


def withdraw_eviction(tables: Tables, uid: Uid, blob_id: BlobId) -> None:
    """They are gone."""
    tables.unstamped.drop(_EVICTION + uid + blob_id)
    tables.feed.drop(_EVICTION + uid + blob_id)


def _announce(tables: Tables, entity: bytes, *, urgent: bool) -> None:
    if urgent:
        tables.note_urgent()
    mark = tables.unstamped.get(entity)
    if mark is None:
        tables.unstamped.put(Unstamped(entity, tables.next_place(), urgent))
    elif urgent and not mark.urgent:
        tables.unstamped.put(replace(mark, urgent=True))


def stamp(tables: Tables, *, urgent_only: bool) -> int:
    """Give the next changed entities their places in the feed; how many were looked at."""
    marks = tables.unstamped_in_order(STAMPS_MAX, urgent_only=urgent_only)
    if not marks:
        return 0
    meta = index_meta(tables)
    seq = meta.feed_seq
    tables.users.expect([(mark.entity[1:],) for mark in marks if mark.entity[:1] == _USER])
    for mark in marks:
        seq += 1
        event, bucket = _event_of(tables, mark.entity)
        tables.feed.put(FeedRow(mark.entity, seq, bucket, encode_event(event)))
        tables.unstamped.drop(mark.entity)
    tables.meta.put(replace(meta, feed_seq=seq))
    return len(marks)


def read_feed(
    tables: Tables, bucket: Principal, request: m.Feed, now: int, features: Collection[str]
) -> m.FeedBatch:
    """The events behind a bucket's cursor, as far as a link with these features brings them.

    Raises InvalidArgumentError with detail `resync` for a cursor of another index incarnation,
    or ahead of everything ever stamped: that bucket has heard things this index never said.
    """
    meta = index_meta(tables)
    first_contact = request.incarnation == 0 and request.seq == 0
    if not first_contact and request.incarnation != meta.incarnation:
        raise InvalidArgumentError("the feed cursor is of another index incarnation", resync=True)
    if request.seq > meta.feed_seq:
        raise InvalidArgumentError("the feed cursor is ahead of the feed", resync=True)
    level = 1 if LEDGER in features else 0
    _note_level(tables, bucket, level)
    found = tables.feed_after(request.seq, bucket, BATCH_ITEMS_MAX)
    rows = found if level else [_before_ledger(tables, row) for row in found if _is_older(row)]
    events = fitting(row.event for row in rows)
    if len(events) < len(rows):
        next_seq = rows[len(events) - 1].seq
    else:
        next_seq = found[-1].seq if len(found) == BATCH_ITEMS_MAX else meta.feed_seq
    return m.FeedBatch(meta.incarnation, next_seq, now, events)


def _is_older(row: FeedRow) -> bool:
    return row.entity[:1] not in _SINCE_LEDGER


def _before_ledger(tables: Tables, row: FeedRow) -> FeedRow:
    """The row for a bucket that knows no recall: there the grant is revoked."""
    grant = tables.grants.get(row.entity[1:]) if row.entity[:1] == _GRANT else None
    if grant is None or grant.revoking:
        return row
    revoked = e.GrantRevoked(grant.grant_id, grant.uid, grant.blob_id, grant.latest_end)
    tables.grants.put(replace(grant, revoking=True))
    return replace(row, event=encode_event(revoked))


def _note_level(tables: Tables, bucket: Principal, level: int) -> None:
    row = tables.buckets.get(bucket)
    if row is not None and row.feed_level != level:
        tables.buckets.put(replace(row, feed_level=level))


def index_meta(tables: Tables) -> Meta:
    """The one row that says what this database is."""
    meta = tables.meta.get(THE_INDEX)
    if meta is None:
        raise InternalError("the index's database has lost its meta row")
    return meta


def _event_of(tables: Tables, entity: bytes) -> tuple[e.FeedEvent, bytes]:
    """The entity's event as of now, and the one bucket it is for (empty: all of them).

    A mark never outlives its row, so the row is there.
    """
    tag, key = entity[:1], entity[1:]
    if tag == _USER and (user := tables.users.get(key)):
        left = max(0, user.byte_limit - user.used - user.reserved)
        return e.UserChanged(user.uid, user.principal, user.version, left, user.deleted), b""
    if tag == _ACCESSOR:
        return e.AccessorDeleted(Principal(key)), b""
    if tag == _BLOCKED and (block := tables.blocked.get(key)):
        return e.PrincipalBlocked(block.principal, block.blocked, block.version), b""
    if tag == _GRANT and (grant := tables.grants.get(key)):
        if not grant.revoking:
            return e.GrantRecalled(grant.grant_id, grant.uid, grant.blob_id), grant.bucket
        revoked = e.GrantRevoked(grant.grant_id, grant.uid, grant.blob_id, grant.latest_end)
        return revoked, grant.bucket
    if tag == _EVICTION and (charge := tables.charges.get(key[: Uid.length], key[Uid.length :])):
        return e.EvictBlob(charge.uid, charge.blob_id), charge.bucket
    if tag == _BLOCKED_BLOB and (denied := tables.blocked_blobs.get(key)):
        return e.BlobBlocked(denied.blob_id, denied.blocked, denied.version), b""
    raise InternalError(f"the feed names an entity that is not there: {entity.hex()}")
