"""Blobs that an operator has blocked: nobody reads, uploads or forwards them.

Nothing that is stored is deleted by it: who holds the blob goes on paying for it, and once it is
unblocked it is there again.
"""

from __future__ import annotations

from ostnode.errors import BlobBlockedError
from ostnode.ids import BlobId
from ostnode.roles.index.core import feed
from ostnode.roles.index.core.rows import BlockedBlob
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import accounts as a


def set_blocked(tables: Tables, blob_id: BlobId, *, blocked: bool) -> None:
    """Block or unblock a blob, stored or not; buckets hear of it through the feed."""
    row = tables.blocked_blobs.get(blob_id) or BlockedBlob(blob_id, blocked=False, version=0)
    if row.blocked != blocked:
        tables.blocked_blobs.put(BlockedBlob(blob_id, blocked, row.version + 1))
        feed.announce_blocked_blob(tables, blob_id)


def refuse_blocked(tables: Tables, blob_id: BlobId) -> None:
    """Raise BlobBlockedError for a blob that is blocked."""
    row = tables.blocked_blobs.get(blob_id)
    if row is not None and row.blocked:
        raise BlobBlockedError


def page(tables: Tables, after: BlobId | None) -> a.BlockedPage:
    """Blobs that are blocked, those whose id comes after `after`."""
    rows = tables.blocked_blobs_after(after or b"", a.BLOCKED_TOLD_MAX)
    return a.BlockedPage(tuple(row.blob_id for row in rows))
