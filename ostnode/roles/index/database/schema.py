"""The tables, in SQL that every engine reads: one column per field of the row's dataclass.

Keys and upserts only: no triggers, sequences or foreign keys. BYTEA is PostgreSQL's name; SQLite
stores a blob as a blob whatever its column is called. Booleans are 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from ostnode.roles.index.core.tables import Column
from ostnode.roles.index.database.engine import DatabaseUnusableError

SCHEMA_VERSION: Final = 3

_META: Final = """CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY,
    schema_version BIGINT NOT NULL,
    cluster_id BYTEA NOT NULL,
    principal BYTEA NOT NULL,
    incarnation BIGINT NOT NULL,
    feed_seq BIGINT NOT NULL
)"""
"""Read before all else, of whatever version: it gets no other columns."""

_MIGRATIONS: Final[dict[int, tuple[str, ...]]] = {
    # 2 added tables only (members, invites, roster, keys), and the statements below make those.
    1: (),
    2: (
        "ALTER TABLE charges ADD COLUMN evicting BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE grants ADD COLUMN recalled BIGINT NOT NULL DEFAULT 0",
        "DROP INDEX grants_by_blob",
        "ALTER TABLE buckets ADD COLUMN feed_level BIGINT NOT NULL DEFAULT 0",
        "ALTER TABLE buckets ADD COLUMN intent TEXT NOT NULL DEFAULT 'active'",
        "ALTER TABLE buckets ADD COLUMN zone TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE buckets ADD COLUMN weight BIGINT NOT NULL DEFAULT 0",
    ),
}
"""What leads from each version to the next. Tables and indexes that lack are made after that."""

_STATEMENTS: Final = (
    """CREATE TABLE IF NOT EXISTS users (
        uid BYTEA PRIMARY KEY,
        principal BYTEA NOT NULL,
        byte_limit BIGINT NOT NULL,
        on_full TEXT NOT NULL,
        used BIGINT NOT NULL,
        reserved BIGINT NOT NULL,
        blobs BIGINT NOT NULL,
        grants BIGINT NOT NULL,
        version BIGINT NOT NULL,
        deleted BIGINT NOT NULL
    )""",
    """CREATE UNIQUE INDEX IF NOT EXISTS users_live ON users (principal) WHERE deleted = 0""",
    """CREATE TABLE IF NOT EXISTS grants (
        grant_id BYTEA PRIMARY KEY,
        uid BYTEA NOT NULL,
        blob_id BYTEA NOT NULL,
        bucket BYTEA NOT NULL,
        size BIGINT NOT NULL,
        chunk_bytes BIGINT NOT NULL,
        reserved BIGINT NOT NULL,
        latest_end BIGINT NOT NULL,
        revoking BIGINT NOT NULL,
        recalled BIGINT NOT NULL,
        UNIQUE (uid, blob_id)
    )""",
    """CREATE INDEX IF NOT EXISTS grants_by_end ON grants (bucket, latest_end)""",
    """CREATE INDEX IF NOT EXISTS grants_by_size ON grants (blob_id, size)""",
    """CREATE TABLE IF NOT EXISTS charges (
        uid BYTEA NOT NULL,
        blob_id BYTEA NOT NULL,
        bucket BYTEA NOT NULL,
        size BIGINT NOT NULL,
        charged_at BIGINT NOT NULL,
        evicting BIGINT NOT NULL,
        PRIMARY KEY (uid, blob_id)
    )""",
    # For the oldest of an allowance that is full.
    """CREATE INDEX IF NOT EXISTS charges_by_age ON charges (uid, charged_at, blob_id)
        WHERE evicting = 0""",
    """CREATE TABLE IF NOT EXISTS placements (
        blob_id BYTEA PRIMARY KEY,
        bucket BYTEA NOT NULL,
        grants BIGINT NOT NULL,
        charges BIGINT NOT NULL,
        moving BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS buckets (
        principal BYTEA PRIMARY KEY,
        state TEXT NOT NULL,
        incarnation BIGINT NOT NULL,
        acked_seq BIGINT NOT NULL,
        floor BIGINT NOT NULL,
        http TEXT NOT NULL,
        total BIGINT NOT NULL,
        free BIGINT NOT NULL,
        stored BIGINT NOT NULL,
        last_seen BIGINT NOT NULL,
        feed_level BIGINT NOT NULL,
        intent TEXT NOT NULL,
        zone TEXT NOT NULL,
        weight BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS members (
        principal BYTEA PRIMARY KEY,
        state TEXT NOT NULL,
        key BYTEA NOT NULL,
        old_key BYTEA NOT NULL,
        old_until BIGINT NOT NULL,
        configured BIGINT NOT NULL,
        label TEXT NOT NULL,
        changed_at BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS past_keys (
        key BYTEA PRIMARY KEY,
        bucket BYTEA NOT NULL
    )""",
    """CREATE INDEX IF NOT EXISTS past_keys_by_bucket ON past_keys (bucket)""",
    """CREATE TABLE IF NOT EXISTS invites (
        invite_id BYTEA PRIMARY KEY,
        secret_hash BYTEA NOT NULL,
        expires_at BIGINT NOT NULL,
        auto_approve BIGINT NOT NULL,
        label TEXT NOT NULL,
        failures BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS roster (
        name TEXT PRIMARY KEY,
        epoch BIGINT NOT NULL,
        changed_at BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS index_keys (
        key BYTEA PRIMARY KEY,
        state TEXT NOT NULL,
        until BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS leases (
        name TEXT PRIMARY KEY,
        holder BYTEA NOT NULL,
        token BIGINT NOT NULL,
        beats BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS provisions (
        number BIGINT PRIMARY KEY,
        invite_id BYTEA NOT NULL,
        attempts BIGINT NOT NULL,
        asked_at BIGINT NOT NULL,
        arrived BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS outbox_answers (
        bucket BYTEA NOT NULL,
        seq BIGINT NOT NULL,
        digest BYTEA NOT NULL,
        grant_id BYTEA NOT NULL,
        latest_end BIGINT NOT NULL,
        PRIMARY KEY (bucket, seq)
    )""",
    """CREATE TABLE IF NOT EXISTS rejected_events (
        bucket BYTEA NOT NULL,
        seq BIGINT NOT NULL,
        reason TEXT NOT NULL,
        event BYTEA NOT NULL,
        rejected_at BIGINT NOT NULL,
        PRIMARY KEY (bucket, seq)
    )""",
    """CREATE TABLE IF NOT EXISTS blocked_principals (
        principal BYTEA PRIMARY KEY,
        blocked BIGINT NOT NULL,
        version BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS blocked_blobs (
        blob_id BYTEA PRIMARY KEY,
        blocked BIGINT NOT NULL,
        version BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS chores (
        kind TEXT NOT NULL,
        target BYTEA NOT NULL,
        PRIMARY KEY (kind, target)
    )""",
    """CREATE TABLE IF NOT EXISTS burned_accessors (
        accessor BYTEA PRIMARY KEY,
        burned_at BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS accessor_deletions (
        uid BYTEA PRIMARY KEY,
        day BIGINT NOT NULL,
        count BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS feed (
        entity BYTEA PRIMARY KEY,
        seq BIGINT NOT NULL UNIQUE,
        bucket BYTEA NOT NULL,
        event BYTEA NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS feed_unstamped (
        entity BYTEA PRIMARY KEY,
        place BIGINT NOT NULL,
        urgent BIGINT NOT NULL
    )""",
    """CREATE INDEX IF NOT EXISTS feed_unstamped_places ON feed_unstamped (place)""",
    # For what a placement counts.
    """CREATE INDEX IF NOT EXISTS charges_by_blob ON charges (blob_id)""",
    """CREATE TABLE IF NOT EXISTS agreements (
        bucket BYTEA PRIMARY KEY,
        incarnation BIGINT NOT NULL,
        begun BIGINT NOT NULL,
        forgotten BIGINT NOT NULL,
        freed BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS restorations (
        name TEXT PRIMARY KEY,
        incarnation BIGINT NOT NULL,
        restored_at BIGINT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS findings (
        bucket BYTEA NOT NULL,
        kind TEXT NOT NULL,
        key BYTEA NOT NULL,
        run BIGINT NOT NULL,
        expected BIGINT NOT NULL,
        found BIGINT NOT NULL,
        found_at BIGINT NOT NULL,
        repaired BIGINT NOT NULL,
        PRIMARY KEY (bucket, kind, key)
    )""",
)


def bring_up_to_date(execute: Callable[..., Iterable[Sequence[Column]]]) -> None:
    """Make the tables, or those of an older version into today's; in the caller's transaction.

    Raises DatabaseUnusableError for a newer version, before anything is changed.
    """
    execute(_META)
    versions = [int(version) for (version,) in execute("SELECT schema_version FROM meta")]
    for version in versions:
        if version not in {*_MIGRATIONS, SCHEMA_VERSION}:
            raise DatabaseUnusableError(
                f"the database has schema {version}, this program knows {SCHEMA_VERSION}: "
                "install the version that wrote it, or a newer one"
            )
        for before in range(version, SCHEMA_VERSION):
            for statement in _MIGRATIONS[before]:
                execute(statement)
    for statement in _STATEMENTS:
        execute(statement)
    if versions != [SCHEMA_VERSION]:
        execute("UPDATE meta SET schema_version = ?", (SCHEMA_VERSION,))
