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
class Evicted(Message):
    """Outbox: `EvictBlob` has been carried out; the uid holds no reference to the blob.

    Unlike `Released` it ends a charge that is being evicted: the event has been heard and will not
    be again. Only links with the feature `ledger` bring that event.
    """

    uid: Uid
    blob_id: BlobId


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


@dataclass(frozen=True, slots=True)
class GrantRecalled(Message):
    """Feed, on links with `ledger`: close this grant unless it is used, or its upload has begun.

    A begun one has its room, and its grant may still be renewed: the latest end is named when the
    bucket says that it is closed.
    """

    grant_id: GrantId
    uid: Uid
    blob_id: BlobId


@dataclass(frozen=True, slots=True)
class EvictBlob(Message):
    """Feed, on links with `ledger`: remove all of the uid's references to the blob."""

    uid: Uid
    blob_id: BlobId


@dataclass(frozen=True, slots=True)
class BlobBlocked(Message):
    """Feed, on links with `ledger`: this blob may (not) be read or taken. `version` orders them."""

    blob_id: BlobId
    blocked: bool
    version: Amount


OutboxEvent = Completed | GrantClosed | Released | Evicted | FloorRaised
FeedEvent = (
    UserChanged
    | AccessorDeleted
    | PrincipalBlocked
    | GrantRevoked
    | GrantRecalled
    | EvictBlob
    | BlobBlocked
)
