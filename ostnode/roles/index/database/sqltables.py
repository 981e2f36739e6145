"""Every table over one connection: portable SQL, no engine's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, TypeVar

from typing_extensions import override

from ostnode.ids import Principal
from ostnode.roles.index.core import rows
from ostnode.roles.index.core.tables import Column, Rows, Tables
from ostnode.roles.index.database.mapping import Connection, SqlRows

_TOTALS: Final = """
    SELECT COUNT(*), COALESCE(SUM(blobs), 0), COALESCE(SUM(grants), 0),
        COALESCE(SUM(used), 0), COALESCE(SUM(reserved), 0),
        (SELECT COUNT(*) FROM rejected_events)
    FROM users WHERE deleted = 0"""

LAST_PLACE: Final = "SELECT COALESCE(MAX(place), 0) FROM feed_unstamped"

R = TypeVar("R")


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
        self.charges: Rows[rows.Charge] = self._rows(rows.Charge, "charges", "uid", "blob_id")
        self.placements: Rows[rows.Placement] = self._rows(rows.Placement, "placements", "blob_id")
        self.buckets: Rows[rows.Bucket] = self._rows(rows.Bucket, "buckets", "principal")
        self._members = self._rows(rows.Member, "members", "principal")
        self.members: Rows[rows.Member] = self._members
        self.past_keys: Rows[rows.PastKey] = self._rows(rows.PastKey, "past_keys", "key")
        self._invites = self._rows(rows.Invite, "invites", "invite_id")
        self.invites: Rows[rows.Invite] = self._invites
        self.roster: Rows[rows.RosterEpoch] = self._rows(rows.RosterEpoch, "roster", "name")
        self.index_keys: Rows[rows.IndexKey] = self._rows(rows.IndexKey, "index_keys", "key")
        self.answers: Rows[rows.OutboxAnswer] = self._answers
        self.rejected: Rows[rows.Rejected] = self._rejected
        self.blocked: Rows[rows.Blocked] = self._rows(
            rows.Blocked, "blocked_principals", "principal"
        )
        self.burned: Rows[rows.Burned] = self._rows(rows.Burned, "burned_accessors", "accessor")
        self.deletions: Rows[rows.DeletionCount] = self._rows(
            rows.DeletionCount, "accessor_deletions", "uid"
        )
        self.feed: Rows[rows.FeedRow] = self._feed
        self.unstamped: Rows[rows.Unstamped] = self._unstamped

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
        self._answers.delete("bucket = ? AND seq < ?", bucket, seq)

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
        self._invites.delete("expires_at <= ?", now)

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
