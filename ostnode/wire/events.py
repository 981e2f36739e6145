"""The ordered events between index and buckets: the outbox (up) and the feed (down).

Each event travels as its own CBOR map with a `kind`, so that one malformed event can be set
aside without losing the batch around it. A well-formed event always applies.
"""

from __future__ import annotations

from dataclasses import dataclass

from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.wire.fields import Amount, Message, ShortText


@dataclass(frozen=True, slots=True)
class Completed(Message):
    """Outbox: the grant was used; the uid now holds a reference to the blob of verified `size`."""

    grant_id: GrantId
    uid: Uid
    blob_id: BlobId
    size: Amount


@dataclass(frozen=True, slots=True)
class GrantClosed(Message):
    """Outbox: the grant is dead without a completion.

    `reason` is cancelled, hash_mismatch, revoked, expired, bucket_full, user_deleted,
    accessor_deleted or not_held (a reserve-0 grant found no reference: the charge goes too).
    """

    grant_id: GrantId
    uid: Uid
    blob_id: BlobId
    reason: ShortText


@dataclass(frozen=True, slots=True)
class Released(Message):
    """Outbox: the uid's last reference to the blob is gone."""

    uid: Uid
    blob_id: BlobId
    size: Amount


@dataclass(frozen=True, slots=True)
class FloorRaised(Message):
    """Outbox: no grant that ends at or before `floor` will ever complete here."""

    floor: Amount


@dataclass(frozen=True, slots=True)
class UserChanged(Message):
    """Feed: a registration as it is now. `version` orders events about one uid."""

    uid: Uid
    principal: Principal
    version: Amount
    bytes_left: Amount
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class AccessorDeleted(Message):
    """Feed: this accessor is burned for ever."""

    accessor: Principal


@dataclass(frozen=True, slots=True)
class PrincipalBlocked(Message):
    """Feed: this principal may (not) get sessions and reads. `version` orders them."""

    principal: Principal
    blocked: bool
    version: Amount


@dataclass(frozen=True, slots=True)
class GrantRevoked(Message):
    """Feed: close this grant unless it is used already; `end` is its latest end."""

    grant_id: GrantId
    uid: Uid
    blob_id: BlobId
    end: Amount


OutboxEvent = Completed | GrantClosed | Released | FloorRaised
FeedEvent = UserChanged | AccessorDeleted | PrincipalBlocked | GrantRevoked
