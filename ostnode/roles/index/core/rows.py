"""The index's rows: one frozen dataclass per table, its fields the columns in order.

Sizes are bytes, times whole seconds since 1970. A change is a new row put in the old one's
place; the database's transaction makes several of them one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ostnode.ids import BlobId, ClusterId, GrantId, Principal, Uid

THE_INDEX: Final = "index"


@dataclass(frozen=True, slots=True)
class Meta:
    """What this database is: one row, named THE_INDEX. `incarnation` is in microseconds."""

    name: str
    schema_version: int
    cluster_id: ClusterId
    principal: Principal
    incarnation: int
    feed_seq: int


@dataclass(frozen=True, slots=True)
class User:
    """One registration. A deleted one keeps its row, so that its uid is never given again.

    `used` sums the uid's charges and `reserved` its grants' reservations; `blobs` and `grants`
    count them. `version` grows with every change and orders the feed's events about the uid.
    """

    uid: Uid
    principal: Principal
    byte_limit: int
    on_full: str
    used: int = 0
    reserved: int = 0
    blobs: int = 0
    grants: int = 0
    version: int = 1
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class OpenGrant:
    """A grant the bucket has not closed, at most one per (uid, blob).

    `reserved` is `size`, or 0 when the uid was charged for the blob already. `latest_end` is the
    latest end ever signed for this id. A `revoking` one is never renewed. A `recalled` one is to be
    closed unless its upload has begun.
    """

    grant_id: GrantId
    uid: Uid
    blob_id: BlobId
    bucket: Principal
    size: int
    chunk_bytes: int
    reserved: int
    latest_end: int
    revoking: bool = False
    recalled: bool = False


@dataclass(frozen=True, slots=True)
class Charge:
    """The uid holds a reference to the blob in this bucket and pays `size` bytes for it.

    An `evicting` one counts nothing in the account any more; it ends when the bucket says so.
    """

    uid: Uid
    blob_id: BlobId
    bucket: Principal
    size: int
    charged_at: int
    evicting: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a blob is or will be, while it has grants or charges (of deleted uids too).

    `moving`: its bucket had no room for it; nothing is granted until the other grants there are
    closed and the blob can be placed anew.
    """

    blob_id: BlobId
    bucket: Principal
    grants: int = 0
    charges: int = 0
    moving: bool = False


class BucketState(StrEnum):
    """What a bucket takes part in. Only an ACTIVE one gets new blobs; all keep what they have.

    PENDING: not approved, or never heard of. STANDBY waits to be needed. FULL has no room, or an
    operator said so. RETIRED gets nothing new any more; DRAINING is the way there, and no bucket
    takes it yet. LOST has not been heard of for too long. REVOKED is shut out.
    """

    PENDING = "pending"
    STANDBY = "standby"
    ACTIVE = "active"
    FULL = "full"
    DRAINING = "draining"
    RETIRED = "retired"
    LOST = "lost"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket as it last reported. `acked_seq` counts in `incarnation`; `floor` as it sent it.

    `intent` is what was decided for it, by operators, by the top-up, or when it reported first: the
    state that it has while it reports and has room. `weight` is its share of new blobs, 0 for the
    size of its disk; `zone` is what it fails together with.
    `feed_level` says what it reads in the feed: 1 and above, what the feature `ledger` brings.
    """

    principal: Principal
    state: BucketState = BucketState.PENDING
    incarnation: int = 0
    acked_seq: int = 0
    floor: int = 0
    http: str = ""
    total: int = 0
    free: int = 0
    stored: int = 0
    last_seen: int = 0
    feed_level: int = 0
    intent: BucketState = BucketState.PENDING
    zone: str = ""
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Lease:
    """Which index node leads: one row, named THE_INDEX.

    `token` grows with every taking, `beats` with every renewal since.
    """

    name: str
    holder: bytes
    token: int
    beats: int


@dataclass(frozen=True, slots=True)
class Provision:
    """A bucket that somebody was asked to make, the last time at `asked_at`, for this join token.

    At most one has not `arrived`: it has not reported yet.
    """

    number: int
    invite_id: bytes
    attempts: int
    asked_at: int
    arrived: bool = False


@dataclass(frozen=True, slots=True)
class OutboxAnswer:
    """What was answered to an outbox event, kept until the bucket shows that it knows.

    `digest` is of the event's bytes; `grant_id` is empty when no grant was closed by it.
    """

    bucket: Principal
    seq: int
    digest: bytes
    grant_id: bytes
    latest_end: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """An outbox event that could not be applied, kept for people to look at."""

    bucket: Principal
    seq: int
    reason: str
    event: bytes
    rejected_at: int


@dataclass(frozen=True, slots=True)
class Blocked:
    """Whether a principal is blocked; the row stays when it no longer is, for the version."""

    principal: Principal
    blocked: bool
    version: int


@dataclass(frozen=True, slots=True)
class BlockedBlob:
    """Whether a blob is blocked; the row stays when it no longer is, for the version."""

    blob_id: BlobId
    blocked: bool
    version: int


@dataclass(frozen=True, slots=True)
class Chore:
    """Work that a decision has left to be done in slices: see `core.chores`."""

    kind: str
    target: bytes


@dataclass(frozen=True, slots=True)
class Burned:
    """An accessor deleted for ever."""

    accessor: Principal
    burned_at: int


@dataclass(frozen=True, slots=True)
class DeletionCount:
    """How many accessors a uid has deleted on its latest day (days since 1970)."""

    uid: Uid
    day: int
    count: int


@dataclass(frozen=True, slots=True)
class FeedRow:
    """An entity's event as buckets read it, stamped with its place in the feed.

    `bucket` is the only one that reads it, empty when all do.
    """

    entity: bytes
    seq: int
    bucket: bytes
    event: bytes


@dataclass(frozen=True, slots=True)
class Unstamped:
    """An entity that has changed since it was stamped. `place` orders them by first change."""

    entity: bytes
    place: int
    urgent: bool


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a bucket and this index are one: the index incarnation that it has acknowledged.

    `begun` is the one that it has begun a resync for. A `forgotten` bucket is lost for ever; it is
    `freed` when nothing is charged or reserved for it any more.
    """

    bucket: Principal
    incarnation: int
    begun: int = 0
    forgotten: bool = False
    freed: bool = False


@dataclass(frozen=True, slots=True)
class Restoration:
    """That the index took an incarnation anew: one row, named THE_INDEX, none before the first."""

    name: str
    incarnation: int
    restored_at: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What a comparison has found, in its latest `run`; see `core.checking` for the kinds.

    `bucket` is empty for the index's own rows. `expected` and `found` are bytes or counts.
    """

    bucket: bytes
    kind: str
    key: bytes
    run: int
    expected: int
    found: int
    found_at: int
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """The sums over a uid's charges and grants, as its row should say."""

    used: int
    reserved: int
    blobs: int
    grants: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over live registrations, and what was set aside."""

    users: int
    charges: int
    open_grants: int
    bytes_used: int
    bytes_reserved: int
    rejected_events: int

    def plus(self, other: Totals) -> Totals:
        """The sums of both."""
        return Totals(
            self.users + other.users,
            self.charges + other.charges,
            self.open_grants + other.open_grants,
            self.bytes_used + other.bytes_used,
            self.bytes_reserved + other.bytes_reserved,
            self.rejected_events + other.rejected_events,
        )
