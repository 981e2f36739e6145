"""Every table over one connection: portable SQL, no engine's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, TypeVar

from typing_extensions import override

from ostnode.ids import BlobId, Principal, Uid
from ostnode.roles.index.core import memberrows, rows
from ostnode.roles.index.core.tables import Column, Rows, Tables
from ostnode.roles.index.database.mapping import Connection, SqlRows

_TOTALS: Final = """
    SELECT COUNT(*), COALESCE(SUM(blobs), 0), COALESCE(SUM(grants), 0),
        COALESCE(SUM(used), 0), COALESCE(SUM(reserved), 0),
        (SELECT COUNT(*) FROM rejected_events)
    FROM users WHERE deleted = 0"""

LAST_PLACE: Final = "SELECT COALESCE(MAX(place), 0) FROM feed_unstamped"

R = TypeVar("R")

_CHARGED = """
    SELECT COALESCE(SUM(size), 0), COUNT(*) FROM charges WHERE uid = ? AND evicting = 0"""
_RESERVED = "SELECT COALESCE(SUM(reserved), 0), COUNT(*) FROM grants WHERE uid = ?"
_KEPT = """
    SELECT COALESCE(SUM(size), 0), COUNT(*) FROM charges WHERE uid = ? AND evicting = 0
        AND bucket IN (SELECT principal FROM buckets WHERE feed_level = 0)"""
_PLACED = """
    SELECT (SELECT COUNT(*) FROM grants WHERE blob_id = ?),
        (SELECT COUNT(*) FROM charges WHERE blob_id = ?)"""


_USERS_SUMMED = """
    SELECT MAX(uid), COALESCE(SUM(1 - deleted), 0), COALESCE(SUM((1 - deleted) * blobs), 0),
        COALESCE(SUM((1 - deleted) * grants), 0), COALESCE(SUM((1 - deleted) * used), 0),
        COALESCE(SUM((1 - deleted) * reserved), 0)
    FROM (SELECT * FROM users WHERE uid > ? ORDER BY uid LIMIT ?) AS slice"""
_REJECTED_COUNTED = "SELECT COUNT(*) FROM (SELECT 1 FROM rejected_events LIMIT ?) AS some"


class SqlTables(Tables):
    """The tables inside one running transaction. `urgent` says that `note_urgent` was called."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.urgent = False
        self._users = self._rows(rows.User, "users", "uid")
        self._grants = self._rows(rows.OpenGrant, "grants", "grant_id")
        self._answers = self._rows(rows.OutboxAnswer, "outbox_answers", "bucket", "seq")
        self._rejected = self._rows(rows.Rejected, "rejected_events", "bucket", "seq")
        self._feed = self._rows(rows.FeedRow, "feed", "entity")
        self._unstamped = self._rows(rows.Unstamped, "feed_unstamped", "entity")
        self.meta: Rows[rows.Meta] = self._rows(rows.Meta, "meta", "name")
        self.users: Rows[rows.User] = self._users
        self.grants: Rows[rows.OpenGrant] = self._grants
        self._charges = self._rows(rows.Charge, "charges", "uid", "blob_id")
        self.charges: Rows[rows.Charge] = self._charges
        self._placements = self._rows(rows.Placement, "placements", "blob_id")
        self.placements: Rows[rows.Placement] = self._placements
        self.buckets: Rows[rows.Bucket] = self._rows(rows.Bucket, "buckets", "principal")
        self._members = self._rows(memberrows.Member, "members", "principal")
        self.members: Rows[memberrows.Member] = self._members
        self.past_keys: Rows[memberrows.PastKey] = self._rows(
            memberrows.PastKey, "past_keys", "key"
        )
        self._invites = self._rows(memberrows.Invite, "invites", "invite_id")
        self.invites: Rows[memberrows.Invite] = self._invites
        self.roster: Rows[memberrows.RosterEpoch] = self._rows(
            memberrows.RosterEpoch, "roster", "name"
        )
        self.index_keys: Rows[memberrows.IndexKey] = self._rows(
            memberrows.IndexKey, "index_keys", "key"
        )
        self.leases: Rows[rows.Lease] = self._rows(rows.Lease, "leases", "name")
        self.provisions: Rows[rows.Provision] = self._rows(rows.Provision, "provisions", "number")
        self.answers: Rows[rows.OutboxAnswer] = self._answers
        self.rejected: Rows[rows.Rejected] = self._rejected
        self.blocked: Rows[rows.Blocked] = self._rows(
            rows.Blocked, "blocked_principals", "principal"
        )
        self._blocked_blobs = self._rows(rows.BlockedBlob, "blocked_blobs", "blob_id")
        self.blocked_blobs: Rows[rows.BlockedBlob] = self._blocked_blobs
        self._chores = self._rows(rows.Chore, "chores", "kind", "target")
        self.chores: Rows[rows.Chore] = self._chores
        self.burned: Rows[rows.Burned] = self._rows(rows.Burned, "burned_accessors", "accessor")
        self.deletions: Rows[rows.DeletionCount] = self._rows(
            rows.DeletionCount, "accessor_deletions", "uid"
        )
        self.feed: Rows[rows.FeedRow] = self._feed
        self.unstamped: Rows[rows.Unstamped] = self._unstamped
        self.agreements: Rows[rows.Agreement] = self._rows(rows.Agreement, "agreements", "bucket")
        self.restorations: Rows[rows.Restoration] = self._rows(
            rows.Restoration, "restorations", "name"
        )
        self._findings = self._rows(rows.Finding, "findings", "bucket", "kind", "key")
        self.findings: Rows[rows.Finding] = self._findings

    @override
    def alone(self) -> AbstractContextManager[None]:
        return self._savepoint()

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        self._connection.execute("SAVEPOINT alone")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK TO SAVEPOINT alone")
            self._connection.execute("RELEASE SAVEPOINT alone")
            raise
        self._connection.execute("RELEASE SAVEPOINT alone")

    @override
    def note_urgent(self) -> None:
        self.urgent = True

    @override
    def live_user(self, principal: Principal) -> rows.User | None:
        found = self._users.where(principal=principal, deleted=False)
        return found[0] if found else None

    @override
    def next_place(self) -> int:
        ((last,),) = self._ask(LAST_PLACE)
        return int(last) + 1

    @override
    def unstamped_in_order(self, limit: int, *, urgent_only: bool) -> Sequence[rows.Unstamped]:
        return self._unstamped.select(
            "urgent >= ? ORDER BY place, entity LIMIT ?", int(urgent_only), limit
        )

    @override
    def feed_after(self, seq: int, bucket: Principal, limit: int) -> Sequence[rows.FeedRow]:
        return self._feed.select(
            "seq > ? AND bucket IN (?, ?) ORDER BY seq LIMIT ?", seq, b"", bucket, limit
        )

    @override
    def grants_ended(self, bucket: Principal, floor: int, limit: int) -> Sequence[rows.OpenGrant]:
        return self._grants.select(
            "bucket = ? AND latest_end <= ? ORDER BY latest_end, grant_id LIMIT ?",
            bucket,
            floor,
            limit,
        )

    @override
    def unrevoked_grants(self, limit: int, **equal: Column) -> Sequence[rows.OpenGrant]:
        named = " AND ".join(f"{name} = ?" for name in equal)
        return self._grants.select(
            f"{named} AND revoking = 0 ORDER BY grant_id LIMIT ?", *equal.values(), limit
        )

    @override
    def smaller_grant(self, blob_id: BlobId, size: int) -> bool:
        return bool(self._grants.select("blob_id = ? AND size < ? LIMIT 1", blob_id, size))

    @override
    def first_chore(self) -> rows.Chore | None:
        found = self._chores.select("1 = 1 ORDER BY kind, target LIMIT 1")
        return found[0] if found else None

    @override
    def blocked_blobs_after(self, blob_id: bytes, limit: int) -> Sequence[rows.BlockedBlob]:
        return self._blocked_blobs.select(
            "blocked = 1 AND blob_id > ? ORDER BY blob_id LIMIT ?", blob_id, limit
        )

    @override
    def oldest_charges(self, uid: Uid, size_min: int, limit: int) -> Sequence[rows.Charge]:
        return self._charges.select(
            "uid = ? AND evicting = 0 AND size >= ? "
            "AND bucket IN (SELECT principal FROM buckets WHERE feed_level > 0) "
            "ORDER BY charged_at, blob_id LIMIT ?",
            uid,
            size_min,
            limit,
        )

    @override
    def kept_charges(self, uid: Uid) -> tuple[int, int]:
        ((size, count),) = self._ask(_KEPT, (uid,))
        return int(size), int(count)

    @override
    def answers_between(
        self, bucket: Principal, low: int, high: int
    ) -> Sequence[rows.OutboxAnswer]:
        return self._answers.select(
            "bucket = ? AND seq BETWEEN ? AND ? ORDER BY seq", bucket, low, high
        )

    @override
    def drop_answers_before(self, bucket: Principal, seq: int) -> None:
        self._answers.delete("bucket = ? AND seq < ?", bucket, seq)

    @override
    def rejected_between(self, bucket: Principal, low: int, high: int) -> Sequence[rows.Rejected]:
        return self._rejected.select(
            "bucket = ? AND seq BETWEEN ? AND ? ORDER BY seq", bucket, low, high
        )

    @override
    def members_after(self, principal: bytes, limit: int) -> Sequence[memberrows.Member]:
        return self._members.select("principal > ? ORDER BY principal LIMIT ?", principal, limit)

    @override
    def drop_invites_until(self, now: int) -> None:
        self._invites.delete("expires_at <= ?", now)

    @override
    def users_after(self, uid: bytes, limit: int) -> Sequence[rows.User]:
        return self._users.select("uid > ? ORDER BY uid LIMIT ?", uid, limit)

    @override
    def grants_after(self, grant_id: bytes, limit: int) -> Sequence[rows.OpenGrant]:
        return self._grants.select("grant_id > ? ORDER BY grant_id LIMIT ?", grant_id, limit)

    @override
    def placements_after(self, blob_id: bytes, limit: int) -> Sequence[rows.Placement]:
        return self._placements.select("blob_id > ? ORDER BY blob_id LIMIT ?", blob_id, limit)

    @override
    def charges_between(self, after: bytes, through: bytes, limit: int) -> Sequence[rows.Charge]:
        condition = "(uid, blob_id) > (?, ?)"
        places = [after[:8], after[8:]]
        if through:
            condition += " AND (uid, blob_id) <= (?, ?)"
            places += [through[:8], through[8:]]
        order = "ORDER BY uid, blob_id LIMIT ?"
        return self._charges.select(f"{condition} {order}", *places, limit)

    @override
    def grants_at(
        self, bucket: Principal, latest_end: int, grant_id: bytes, limit: int
    ) -> Sequence[rows.OpenGrant]:
        return self._grants.select(
            "bucket = ? AND (latest_end, grant_id) > (?, ?) ORDER BY latest_end, grant_id LIMIT ?",
            bucket,
            latest_end,
            grant_id,
            limit,
        )

    @override
    def account_of(self, uid: bytes) -> rows.Account:
        ((used, blobs),) = self._ask(_CHARGED, (uid,))
        ((reserved, grants),) = self._ask(_RESERVED, (uid,))
        return rows.Account(int(used), int(reserved), int(blobs), int(grants))

    @override
    def placed(self, blob_id: bytes) -> tuple[int, int]:
        ((grants, charges),) = self._ask(_PLACED, (blob_id, blob_id))
        return int(grants), int(charges)

    @override
    def findings_after(self, place: tuple[bytes, str, bytes], limit: int) -> Sequence[rows.Finding]:
        return self._findings.select(
            "(bucket, kind, key) > (?, ?, ?) ORDER BY bucket, kind, key LIMIT ?", *place, limit
        )

    @override
    def findings_before(self, bucket: bytes, run: int, limit: int) -> Sequence[rows.Finding]:
        return self._findings.select(
            "bucket = ? AND run < ? AND kind <> 'lost_blob' LIMIT ?", bucket, run, limit
        )

    @override
    def rejected_after(self, bucket: bytes, seq: int, limit: int) -> Sequence[rows.Rejected]:
        return self._rejected.select(
            "(bucket, seq) > (?, ?) ORDER BY bucket, seq LIMIT ?", bucket, seq, limit
        )

    @override
    def users_summed(self, after: bytes, limit: int) -> tuple[bytes, rows.Totals] | None:
        ((last, users, blobs, grants, used, reserved),) = self._ask(_USERS_SUMMED, (after, limit))
        if last is None:
            return None
        return last, rows.Totals(users, blobs, grants, used, reserved, rejected_events=0)

    @override
    def rejected_up_to(self, limit: int) -> int:
        ((count,),) = self._ask(_REJECTED_COUNTED, (limit,))
        return int(count)

    @override
    def totals(self) -> rows.Totals:
        ((users, charges, grants, used, reserved, rejected),) = self._ask(_TOTALS)
        return rows.Totals(
            *(int(value) for value in (users, charges, grants, used, reserved, rejected))
        )

    def _rows(self, row: type[R], table: str, *key: str) -> SqlRows[R]:
        return SqlRows(self._connection, row, table, *key)

    def _ask(self, sql: str, parameters: Sequence[Column] = ()) -> Iterable[Sequence[Any]]:
        """A question that is not about the rows of one table. Changes are for `SqlRows` only."""
        return self._connection.execute(sql, parameters)
