"""The accounts: grants and charges come and go only here, each with every sum it is part of.

A user's row sums its grants and charges, a placement's row counts them. Rows of deleted or
unknown uids count for placements alone: they end when the bucket's events end them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ostnode.errors import InvalidArgumentError
from ostnode.ids import SIZE_MAX, BlobId, Principal, Uid
from ostnode.roles.index.core import feed
from ostnode.roles.index.core.rows import Charge, OpenGrant, Placement
from ostnode.roles.index.core.tables import Tables


def expect(tables: Tables, held: Collection[tuple[Uid, BlobId]]) -> None:
    """What these uids hold of these blobs is going to change."""
    uids = [uid for uid, _ in held]
    tables.users.expect([(uid,) for uid in uids])
    feed.expect_users(tables, uids)
    tables.placements.expect([(blob_id,) for _, blob_id in held])
    tables.charges.expect(held)


def open_grant(tables: Tables, grant: OpenGrant) -> None:
    """Record a new grant: its bytes are reserved, its blob is placed."""
    tables.grants.put(grant)
    _change_account(tables, grant.uid, reserved=grant.reserved, grants=1)
    _change_placement(tables, grant.blob_id, grant.bucket, grants=1)


def revoke_grant(tables: Tables, grant: OpenGrant) -> None:
    """Ask the bucket to close the grant. Its reservation stays until it has."""
    if not grant.revoking:
        tables.grants.put(replace(grant, revoking=True))
        feed.announce_revocation(tables, grant.grant_id)


def recall_grant(tables: Tables, grant: OpenGrant) -> None:
    """Ask the bucket to close the grant, unless its upload has begun there and has its room."""
    if not grant.revoking and not grant.recalled:
        tables.grants.put(replace(grant, recalled=True))
        feed.announce_revocation(tables, grant.grant_id)


def end_grant(tables: Tables, grant: OpenGrant) -> None:
    """The grant can never complete again: free what it reserved."""
    tables.grants.drop(grant.grant_id)
    if grant.revoking or grant.recalled:
        feed.withdraw_revocation(tables, grant.grant_id)
    _change_account(tables, grant.uid, reserved=-grant.reserved, grants=-1)
    _change_placement(tables, grant.blob_id, grant.bucket, grants=-1)


def add_charge(tables: Tables, charge: Charge) -> None:
    """Charge the uid for the blob, once however often it is said.

    One that is being evicted stays so: the bucket will remove what has just been added as well.
    """
    if tables.charges.get(charge.uid, charge.blob_id) is None:
        tables.charges.put(charge)
        _change_account(tables, charge.uid, used=charge.size, blobs=1)
        _change_placement(tables, charge.blob_id, charge.bucket, charges=1)


def evict_charge(tables: Tables, charge: Charge) -> None:
    """Take the charge out of the account, and have the bucket remove the uid's references.

    The row stays until the bucket says `Evicted`: a blob allocated again before that could lose its
    new references to the old word.
    """
    tables.charges.put(replace(charge, evicting=True))
    _change_account(tables, charge.uid, used=-charge.size, blobs=-1)
    feed.announce_eviction(tables, charge.uid, charge.blob_id)


def release_charge(tables: Tables, uid: Uid, blob_id: BlobId, bucket: Principal) -> None:
    """The uid's references are gone. One that is being evicted has still to hear of that."""
    charge = tables.charges.get(uid, blob_id)
    if charge is not None and not charge.evicting:
        drop_charge(tables, uid, blob_id, bucket)


def drop_charge(tables: Tables, uid: Uid, blob_id: BlobId, bucket: Principal) -> None:
    """The uid holds the blob no more; nothing happens when it is not charged for this bucket's."""
    charge = tables.charges.get(uid, blob_id)
    if charge is None or charge.bucket != bucket:
        return
    tables.charges.drop(uid, blob_id)
    if charge.evicting:
        feed.withdraw_eviction(tables, uid, blob_id)
    else:
        _change_account(tables, uid, used=-charge.size, blobs=-1)
    _change_placement(tables, blob_id, bucket, charges=-1)


def _change_account(
    tables: Tables, uid: Uid, *, used: int = 0, reserved: int = 0, blobs: int = 0, grants: int = 0
) -> None:
    user = tables.users.get(uid)
    if user is None or user.deleted:
        return
    changed = replace(
        user,
        used=user.used + used,
        reserved=user.reserved + reserved,
        blobs=user.blobs + blobs,
        grants=user.grants + grants,
        version=user.version + 1,
    )
    if not (0 <= changed.used <= SIZE_MAX and 0 <= changed.reserved <= SIZE_MAX):
        raise InvalidArgumentError("the account would leave its range")
    tables.users.put(changed)
    feed.announce_user(tables, uid, urgent=False)


def _change_placement(
    tables: Tables, blob_id: BlobId, bucket: Principal, *, grants: int = 0, charges: int = 0
) -> None:
    old = tables.placements.get(blob_id) or Placement(blob_id, bucket)
    grants, charges = old.grants + grants, old.charges + charges
    if grants == 0 and charges == 0:
        tables.placements.drop(blob_id)
    else:
        # A charge means that the bucket had room after all: there is a copy, and it stays.
        moving = old.moving and charges == 0
        tables.placements.put(replace(old, grants=grants, charges=charges, moving=moving))
