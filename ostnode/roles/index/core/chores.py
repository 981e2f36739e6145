"""Work that follows from one decision for many rows, done in slices between other requests.

A decision that concerns thousands of grants (of a deleted user, of a bucket whose floor has passed
them, of a blob that its bucket has no room for) leaves a row here, and does the first slice itself.
The leader does the rest; a restart goes on. Until a slice comes, its rows are as before: a grant
that is to be revoked may complete, and one that is to be freed keeps its reservation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ostnode.ids import BlobId, Principal, Uid
from ostnode.roles.index.core import ledger
from ostnode.roles.index.core.rows import Chore
from ostnode.roles.index.core.tables import Tables

SLICE_GRANTS: Final = 100
"""Grants ended or revoked in one transaction: some 15 ms."""
_REVOKE_USER: Final = "revoke_user"
_FREE_ENDED: Final = "free_ended"
_RECALL_BLOB: Final = "recall_blob"


def revoke_user(tables: Tables, uid: Uid) -> None:
    """Have all grants of a uid closed."""
    tables.chores.put(Chore(_REVOKE_USER, bytes(uid)))


def free_ended(tables: Tables, bucket: Principal) -> None:
    """Free the bucket's grants that its floor has passed."""
    tables.chores.put(Chore(_FREE_ENDED, bytes(bucket)))


def recall_blob(tables: Tables, blob_id: BlobId) -> None:
    """Have the grants for a blob closed whose uploads have not begun."""
    tables.chores.put(Chore(_RECALL_BLOB, bytes(blob_id)))


def do_slice(tables: Tables) -> bool:
    """Do what is left, as far as one transaction should; whether there may be more."""
    left = SLICE_GRANTS
    while left > 0 and (chore := tables.first_chore()):
        done = _CHORES[chore.kind](tables, chore.target, left)
        if done < left:
            tables.chores.drop(chore.kind, chore.target)
        left -= done + 1
    return left <= 0


def _revoke_user(tables: Tables, uid: bytes, limit: int) -> int:
    grants = tables.unrevoked_grants(limit, uid=uid)
    for grant in grants:
        ledger.revoke_grant(tables, grant)
    return len(grants)


def _recall_blob(tables: Tables, blob_id: bytes, limit: int) -> int:
    """Nobody gets a new grant for the blob while it is to be placed anew, so this ends."""
    placement = tables.placements.get(blob_id)
    if placement is None or not placement.moving:
        return 0
    grants = tables.unrevoked_grants(limit, blob_id=blob_id, recalled=False)
    for grant in grants:
        ledger.recall_grant(tables, grant)
    return len(grants)


def _free_ended(tables: Tables, principal: bytes, limit: int) -> int:
    bucket = tables.buckets.get(principal)
    grants = tables.grants_ended(Principal(principal), bucket.floor if bucket else 0, limit)
    for grant in grants:
        ledger.end_grant(tables, grant)
    return len(grants)


_CHORES: Final[dict[str, Callable[[Tables, bytes, int], int]]] = {
    _REVOKE_USER: _revoke_user,
    _FREE_ENDED: _free_ended,
    _RECALL_BLOB: _recall_blob,
}
"""Each does up to so many and says how many; fewer is the end of it."""
