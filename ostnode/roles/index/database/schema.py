"""The tables, in SQL that every engine reads: one column per field of the row's dataclass.

Keys and upserts only: no triggers, sequences or foreign keys. BYTEA is PostgreSQL's name; SQLite
stores a blob as a blob whatever its column is called. Booleans are 0 and 1.
"""

from __future__ import annotations

from typing import Final

SCHEMA_VERSION: Final = 2
SCHEMA_VERSION_MIN: Final = 1
"""What is taken up: 2 added members, invites, roster and keys, which are made when they lack."""

STATEMENTS: Final = (
    """CREATE TABLE IF NOT EXISTS meta (
        name TEXT PRIMARY KEY,
        schema_version BIGINT NOT NULL,
        cluster_id BYTEA NOT NULL,
        principal BYTEA NOT NULL,
        incarnation BIGINT NOT NULL,
        feed_seq BIGINT NOT NULL
    )""",
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
        UNIQUE (uid, blob_id)
    )""",
    """CREATE INDEX IF NOT EXISTS grants_by_end ON grants (bucket, latest_end)""",
    """CREATE INDEX IF NOT EXISTS grants_by_blob ON grants (blob_id)""",
    """CREATE TABLE IF NOT EXISTS charges (
        uid BYTEA NOT NULL,
        blob_id BYTEA NOT NULL,
        bucket BYTEA NOT NULL,
        size BIGINT NOT NULL,
        charged_at BIGINT NOT NULL,
        PRIMARY KEY (uid, blob_id)
    )""",
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
        last_seen BIGINT NOT NULL
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
)
