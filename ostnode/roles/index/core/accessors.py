"""Deleting an accessor (a chat) for ever, and finding a blob's bucket."""

from __future__ import annotations

from typing import Final

from ostnode.errors import BusyError, NoBucketError, NotFoundError
from ostnode.ids import BlobId, Principal, Uid
from ostnode.roles.index.core import feed
from ostnode.roles.index.core.buckets import Chooser
from ostnode.roles.index.core.rows import Burned, DeletionCount
from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.core.users import is_blocked, require_user
from ostnode.wire import messages as m

_DAY_S: Final = 86_400


def burn_accessor(tables: Tables, accessor: Principal, now: int) -> None:
    """Delete the accessor for ever; again is no error."""
    if tables.burned.get(accessor) is None:
        tables.burned.put(Burned(accessor, now))
        feed.announce_accessor(tables, accessor)


def burn_accessor_by_user(
    tables: Tables, rules: Rules, caller: Principal, accessor: Principal, now: int
) -> None:
    """The same for a user whose acc.del token has been checked.

    The burned accessor is the token's stored result: the same token shown again, its reply
    lost, finds it and costs nothing. Raises UserUnknownError, NotAuthorizedError or BusyError.
    """
    if tables.burned.get(accessor) is not None:
        return
    user = require_user(tables, caller)
    _count_deletion(tables, rules, user.uid, now)
    burn_accessor(tables, accessor, now)


def _count_deletion(tables: Tables, rules: Rules, uid: Uid, now: int) -> None:
    day = now // _DAY_S
    row = tables.deletions.get(uid)
    count = row.count if row is not None and row.day == day else 0
    if count >= rules.accessor_deletions_per_day:
        left_s = (day + 1) * _DAY_S - now
        raise BusyError("you have deleted as many chats as a day allows", retry_after_s=left_s)
    tables.deletions.put(DeletionCount(uid, day, count + 1))


def locate(
    tables: Tables, chooser: Chooser, caller: Principal, accessor: Principal, blob_id: BlobId
) -> m.BucketAddress:
    """Where a reader, whose token has been checked, should look for the blob.

    The index knows no references: that this reader may have this blob is for the bucket to say.
    A blob that is nowhere is therefore answered like one that is, with the bucket it would go
    to; anyone can make an accessor and sign a token, and must not learn what is stored. Raises
    NotFoundError.
    """
    if is_blocked(tables, caller) or tables.burned.get(accessor) is not None:
        raise NotFoundError
    return _address(tables, chooser, blob_id)


def locate_own(
    tables: Tables, chooser: Chooser, caller: Principal, blob_id: BlobId
) -> m.BucketAddress:
    """Where the caller's own blob is, or is being put. Raises NotFoundError.

    A grant counts like a charge: the bucket's word that an upload is complete takes a moment.
    """
    user = tables.live_user(caller)
    if user is None or is_blocked(tables, caller):
        raise NotFoundError
    charge = tables.charges.get(user.uid, blob_id)
    if charge is None and not tables.grants.where(uid=user.uid, blob_id=blob_id):
        raise NotFoundError
    return _address(tables, chooser, blob_id)


def _address(tables: Tables, chooser: Chooser, blob_id: BlobId) -> m.BucketAddress:
    try:
        bucket = chooser.looked_for_in(tables, blob_id)
    except NoBucketError:
        raise NotFoundError from None
    return m.BucketAddress(bucket.principal, bucket.http)
