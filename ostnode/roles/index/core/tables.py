"""What the decisions need of a database: row access inside one running transaction.

The decisions of this package are synchronous functions over `Tables`. They do no I/O of their
own: an engine runs them between BEGIN and COMMIT, takes back what a refusal wrote, and lets
nobody hear of anything before the COMMIT is durable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from ostnode.ids import BlobId, Principal, Uid
from ostnode.roles.index.core.memberrows import IndexKey, Invite, Member, PastKey, RosterEpoch
from ostnode.roles.index.core.rows import (
    Account,
    Agreement,
    Blocked,
    BlockedBlob,
    Bucket,
    Burned,
    Charge,
    Chore,
    DeletionCount,
    FeedRow,
    Finding,
    Lease,
    Meta,
    OpenGrant,
    OutboxAnswer,
    Placement,
    Provision,
    Rejected,
    Restoration,
    Totals,
    Unstamped,
    User,
)

Column = int | str | bytes
R = TypeVar("R")


class Rows(Protocol[R]):
    """One table's rows, found by primary key."""

    def get(self, *key: Column) -> R | None:
        """The row with this key."""
        ...

    def expect(self, keys: Iterable[tuple[Column, ...]]) -> None:
        """Rows with these keys are going to be asked for: they may be read together."""
        ...

    def put(self, row: R) -> None:
        """Insert the row, or replace the one with its key."""
        ...

    def drop(self, *key: Column) -> None:
        """Delete the row with this key, if there is one."""
        ...

    def where(self, **equal: Column) -> list[R]:
        """The rows whose named columns have these values (all rows without any), by key."""
        ...


class Tables(Protocol):
    """Every table, and the few questions that are not about one key."""

    meta: Rows[Meta]
    users: Rows[User]
    grants: Rows[OpenGrant]
    charges: Rows[Charge]
    placements: Rows[Placement]
    buckets: Rows[Bucket]
    members: Rows[Member]
    past_keys: Rows[PastKey]
    invites: Rows[Invite]
    roster: Rows[RosterEpoch]
    index_keys: Rows[IndexKey]
    leases: Rows[Lease]
    provisions: Rows[Provision]
    answers: Rows[OutboxAnswer]
    rejected: Rows[Rejected]
    blocked: Rows[Blocked]
    blocked_blobs: Rows[BlockedBlob]
    burned: Rows[Burned]
    chores: Rows[Chore]
    deletions: Rows[DeletionCount]
    feed: Rows[FeedRow]
    unstamped: Rows[Unstamped]
    agreements: Rows[Agreement]
    restorations: Rows[Restoration]
    findings: Rows[Finding]

    def alone(self) -> AbstractContextManager[None]:
        """A block whose writes are taken back when it raises, without ending the transaction."""
        ...

    def note_urgent(self) -> None:
        """Something was written that buckets should hear of as soon as this is durable."""
        ...

    def live_user(self, principal: Principal) -> User | None:
        """The registration under this principal that is not deleted."""
        ...

    def next_place(self) -> int:
        """A place behind every unstamped entity's."""
        ...

    def unstamped_in_order(self, limit: int, *, urgent_only: bool) -> Sequence[Unstamped]:
        """The first unstamped entities, by place."""
        ...

    def feed_after(self, seq: int, bucket: Principal, limit: int) -> Sequence[FeedRow]:
        """Feed rows behind `seq` that the bucket reads, in order."""
        ...

    def grants_ended(self, bucket: Principal, floor: int, limit: int) -> Sequence[OpenGrant]:
        """The first of the bucket's grants whose latest end is at or before `floor`."""
        ...

    def unrevoked_grants(self, limit: int, **equal: Column) -> Sequence[OpenGrant]:
        """Some grants whose named columns have these values, of those that are not revoked."""
        ...

    def smaller_grant(self, blob_id: BlobId, size: int) -> bool:
        """Whether a grant for the blob states fewer bytes."""
        ...

    def first_chore(self) -> Chore | None:
        """The first chore that is left."""
        ...

    def blocked_blobs_after(self, blob_id: bytes, limit: int) -> Sequence[BlockedBlob]:
        """Blobs that are blocked now, by id, from the one that comes next."""
        ...

    def oldest_charges(self, uid: Uid, size_min: int, limit: int) -> Sequence[Charge]:
        """The uid's charges, the oldest first, that are in buckets which hear of evictions.

        None that is being evicted, or of fewer bytes.
        """
        ...

    def kept_charges(self, uid: Uid) -> tuple[int, int]:
        """Bytes and number of the uid's charges that are in buckets which hear of no evictions."""
        ...

    def answers_between(self, bucket: Principal, low: int, high: int) -> Sequence[OutboxAnswer]:
        """What was answered to the bucket's events `low … high`, in order."""
        ...

    def drop_answers_before(self, bucket: Principal, seq: int) -> None:
        """Forget what was answered to events before `seq`."""
        ...

    def rejected_between(self, bucket: Principal, low: int, high: int) -> Sequence[Rejected]:
        """The bucket's events `low … high` that were set aside, in order."""
        ...

    def members_after(self, principal: bytes, limit: int) -> Sequence[Member]:
        """Members by principal, from the one that comes next."""
        ...

    def drop_invites_until(self, now: int) -> None:
        """Forget the join tokens whose time is over."""
        ...

    def users_after(self, uid: bytes, limit: int) -> Sequence[User]:
        """Registrations by uid, from the one that comes next."""
        ...

    def grants_after(self, grant_id: bytes, limit: int) -> Sequence[OpenGrant]:
        """Open grants by id, from the one that comes next."""
        ...

    def placements_after(self, blob_id: bytes, limit: int) -> Sequence[Placement]:
        """Placements by blob, from the one that comes next."""
        ...

    def charges_between(self, after: bytes, through: bytes, limit: int) -> Sequence[Charge]:
        """Charges by uid and blob, together the places named; empty: from start, to end."""
        ...

    def grants_at(
        self, bucket: Principal, latest_end: int, grant_id: bytes, limit: int
    ) -> Sequence[OpenGrant]:
        """A bucket's open grants by latest end and id, from the one that comes next."""
        ...

    def account_of(self, uid: bytes) -> Account:
        """The sums over the uid's charges and grants; those being evicted do not count."""
        ...

    def placed(self, blob_id: bytes) -> tuple[int, int]:
        """How many grants and charges there are for a blob."""
        ...

    def findings_after(self, place: tuple[bytes, str, bytes], limit: int) -> Sequence[Finding]:
        """Findings by bucket, kind and key, from the one that comes next."""
        ...

    def findings_before(self, bucket: bytes, run: int, limit: int) -> Sequence[Finding]:
        """Some findings about a bucket that are of earlier runs; what it has lost is not among
        them.
        """
        ...

    def rejected_after(self, bucket: bytes, seq: int, limit: int) -> Sequence[Rejected]:
        """Events that were set aside by bucket and number, from the one that comes next."""
        ...

    def users_summed(self, after: bytes, limit: int) -> tuple[bytes, Totals] | None:
        """The sums over the next `limit` registrations by uid, and the last of these uids.

        None when there are none after `after`. Events that were set aside are not counted.
        """
        ...

    def rejected_up_to(self, limit: int) -> int:
        """How many events were set aside, counted to `limit` at most."""
        ...

    def totals(self) -> Totals:
        """Sums over the live registrations."""
        ...
