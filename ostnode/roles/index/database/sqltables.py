"""Every table over one connection: portable SQL, no engine's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from typing_extensions import override

from ostnode.ids import Principal
from ostnode.roles.index.core import rows
from ostnode.roles.index.core.tables import Rows, Tables
from ostnode.roles.index.database.mapping import Execute, SqlRows

_TOTALS = """
    SELECT COUNT(*), COALESCE(SUM(blobs), 0), COALESCE(SUM(grants), 0),
        COALESCE(SUM(used), 0), COALESCE(SUM(reserved), 0),
        (SELECT COUNT(*) FROM rejected_events)
    FROM users WHERE deleted = 0"""


class SqlTables(Tables):
    """The tables inside one running transaction. `urgent` says that `note_urgent` was called."""

    def __init__(self, execute: Execute) -> None:
        self._execute = execute
        self.urgent = False
        self._users = SqlRows(execute, rows.User, "users", "uid")
        self._grants = SqlRows(execute, rows.OpenGrant, "grants", "grant_id")
        self._answers = SqlRows(execute, rows.OutboxAnswer, "outbox_answers", "bucket", "seq")
        self._rejected = SqlRows(execute, rows.Rejected, "rejected_events", "bucket", "seq")
        self._feed = SqlRows(execute, rows.FeedRow, "feed", "entity")
        self._unstamped = SqlRows(execute, rows.Unstamped, "feed_unstamped", "entity")
        self.meta: Rows[rows.Meta] = SqlRows(execute, rows.Meta, "meta", "name")
        self.users: Rows[rows.User] = self._users
        self.grants: Rows[rows.OpenGrant] = self._grants
        self.charges: Rows[rows.Charge] = SqlRows(execute, rows.Charge, "charges", "uid", "blob_id")
        self.placements: Rows[rows.Placement] = SqlRows(
            execute, rows.Placement, "placements", "blob_id"
        )
        self.buckets: Rows[rows.Bucket] = SqlRows(execute, rows.Bucket, "buckets", "principal")
        self._members = SqlRows(execute, rows.Member, "members", "principal")
        self.members: Rows[rows.Member] = self._members
        self.past_keys: Rows[rows.PastKey] = SqlRows(execute, rows.PastKey, "past_keys", "key")
        self.invites: Rows[rows.Invite] = SqlRows(execute, rows.Invite, "invites", "invite_id")
        self.roster: Rows[rows.RosterEpoch] = SqlRows(execute, rows.RosterEpoch, "roster", "name")
        self.index_keys: Rows[rows.IndexKey] = SqlRows(execute, rows.IndexKey, "index_keys", "key")
        self.answers: Rows[rows.OutboxAnswer] = self._answers
        self.rejected: Rows[rows.Rejected] = self._rejected
        self.blocked: Rows[rows.Blocked] = SqlRows(
            execute, rows.Blocked, "blocked_principals", "principal"
        )
        self.burned: Rows[rows.Burned] = SqlRows(
            execute, rows.Burned, "burned_accessors", "accessor"
        )
        self.deletions: Rows[rows.DeletionCount] = SqlRows(
            execute, rows.DeletionCount, "accessor_deletions", "uid"
        )
        self.feed: Rows[rows.FeedRow] = self._feed
        self.unstamped: Rows[rows.Unstamped] = self._unstamped

    @contextmanager
    @override
    def alone(self) -> Iterator[None]:
        self._execute("SAVEPOINT alone")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK TO SAVEPOINT alone")
            self._execute("RELEASE SAVEPOINT alone")
            raise
        self._execute("RELEASE SAVEPOINT alone")

    @override
    def note_urgent(self) -> None:
        self.urgent = True

    @override
    def live_user(self, principal: Principal) -> rows.User | None:
        # The literal 0 lets the engine use the partial index; a parameter would not.
        found = self._users.select("principal = ? AND deleted = 0", principal)
        return found[0] if found else None

    @override
    def next_place(self) -> int:
        ((place,),) = self._execute("SELECT COALESCE(MAX(place), 0) + 1 FROM feed_unstamped")
        return int(place)

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
    def grants_ended(self, bucket: Principal, floor: int) -> Sequence[rows.OpenGrant]:
        return self._grants.select(
            "bucket = ? AND latest_end <= ? ORDER BY latest_end", bucket, floor
        )

    @override
    def answers_between(
        self, bucket: Principal, low: int, high: int
    ) -> Sequence[rows.OutboxAnswer]:
        return self._answers.select(
            "bucket = ? AND seq BETWEEN ? AND ? ORDER BY seq", bucket, low, high
        )

    @override
    def drop_answers_before(self, bucket: Principal, seq: int) -> None:
        self._execute("DELETE FROM outbox_answers WHERE bucket = ? AND seq < ?", (bucket, seq))

    @override
    def rejected_between(self, bucket: Principal, low: int, high: int) -> Sequence[rows.Rejected]:
        return self._rejected.select(
            "bucket = ? AND seq BETWEEN ? AND ? ORDER BY seq", bucket, low, high
        )

    @override
    def members_after(self, principal: bytes, limit: int) -> Sequence[rows.Member]:
        return self._members.select("principal > ? ORDER BY principal LIMIT ?", principal, limit)

    @override
    def drop_invites_until(self, now: int) -> None:
        self._execute("DELETE FROM invites WHERE expires_at <= ?", (now,))

    @override
    def totals(self) -> rows.Totals:
        ((users, charges, grants, used, reserved, rejected),) = self._execute(_TOTALS)
        return rows.Totals(
            *(int(value) for value in (users, charges, grants, used, reserved, rejected))
        )
