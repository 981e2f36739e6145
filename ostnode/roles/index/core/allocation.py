"""allocated_bucket: check, reserve and place in one transaction; and giving grants back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from ostnode.errors import (
    BlobTooLargeError,
    BusyError,
    InvalidArgumentError,
    UploadConflictError,
)
from ostnode.ids import BlobId, GrantId, Principal
from ostnode.roles.index.core import ledger
from ostnode.roles.index.core.buckets import Chooser, require_taker
from ostnode.roles.index.core.denylist import refuse_blocked
from ostnode.roles.index.core.eviction import Lack, evict_oldest, require_room, used_after
from ostnode.roles.index.core.rows import Bucket, BucketState, Charge, OpenGrant, User
from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.core.users import require_user
from ostnode.wire import messages as m


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a bucket. `new_id` is the grant's id, should it be a new one."""

    caller: Principal
    blob_id: BlobId
    size: int
    new_id: GrantId
    now: int


@dataclass(frozen=True, slots=True)
class Granted:
    """What the transaction decided, to be signed once it is durable."""

    user: User
    grant: OpenGrant
    bucket: Bucket
    already_yours: bool


class Unready(Enum):
    """Why there is no grant yet, in a transaction that is to be committed."""

    CLOSING = "the last grant for this blob is being closed"
    EVICTING = "room is being made"
    """More than one transaction takes: the same asked again goes on."""


def allocate(tables: Tables, chooser: Chooser, rules: Rules, ask: Ask) -> Granted | Unready:
    """Reserve and place, or renew the open grant.

    Whose allowance is full, and who would rather lose the oldest blobs, loses them with that.
    Raises UserUnknownError, NotAuthorizedError, BlobTooLargeError, BlobBlockedError,
    InvalidArgumentError, UploadConflictError, AllowanceExceededError, NoBucketError or BusyError.
    """
    user = require_user(tables, ask.caller)
    _check_size(ask.size, rules)
    refuse_blocked(tables, ask.blob_id)
    charge = _charge_of(tables, user, ask.blob_id, ask.size)
    grant = _open_grant_of(tables, user, ask)
    placement = tables.placements.get(ask.blob_id)
    if grant is None and placement is not None and placement.moving:
        raise BusyError("the blob is being placed in another bucket")
    if grant is None:
        reserved = 0 if charge else ask.size
        _check_grants(user, rules)
        lack = require_room(tables, user, rules, ask.size) if charge is None else Lack(0, 0)
        if charge is None:
            # Whether it is placed or not: a full cluster must not tell which blobs there are.
            require_taker(tables, ask.size)
        bucket = chooser.bucket_for(tables, ask.blob_id, ask.size)
        if not lack.nothing and not evict_oldest(tables, user, lack):
            return Unready.EVICTING
        grant = OpenGrant(
            grant_id=ask.new_id,
            uid=user.uid,
            blob_id=ask.blob_id,
            bucket=bucket.principal,
            size=ask.size,
            chunk_bytes=rules.chunk_bytes,
            reserved=reserved,
            latest_end=_end(bucket, rules, ask.now),
        )
        ledger.open_grant(tables, grant)
    elif charge is None and grant.reserved < grant.size:
        # Its charge has gone: the bucket would refuse it. Have it closed, so that the next
        # allocation can reserve.
        ledger.revoke_grant(tables, grant)
        return Unready.CLOSING
    else:
        bucket = chooser.bucket_for(tables, ask.blob_id)
        end = max(grant.latest_end, _end(bucket, rules, ask.now))
        grant = replace(grant, latest_end=end)
        tables.grants.put(grant)
        if bucket.state is not BucketState.ACTIVE and not (placement and placement.charges):
            # Whoever renews and pushes nothing must not hold the blob in a full bucket for ever.
            ledger.recall_grant(tables, grant)
    user = tables.users.get(user.uid) or user
    return Granted(user, grant, bucket, already_yours=charge is not None)


def _end(bucket: Bucket, rules: Rules, now: int) -> int:
    """A grant's end. A clock set back must not make grants that end below the bucket's floor."""
    return max(now, bucket.floor) + rules.grant_ttl_s


def can_forward(
    tables: Tables, rules: Rules, caller: Principal, blob_id: BlobId, size: int
) -> m.Allowance:
    """The account as an allocation would leave it. Raises what an allocation would for it."""
    user = require_user(tables, caller)
    _check_size(size, rules)
    refuse_blocked(tables, blob_id)
    charge = _charge_of(tables, user, blob_id, size)
    if charge is not None or tables.grants.where(uid=user.uid, blob_id=blob_id):
        return m.Allowance(user.byte_limit, user.used, user.reserved)
    _check_grants(user, rules)
    lack = require_room(tables, user, rules, size)
    used = user.used if lack.nothing else used_after(tables, user, lack)
    return m.Allowance(user.byte_limit, used, user.reserved + size)


def release(tables: Tables, caller: Principal, grant_id: GrantId) -> None:
    """Have the caller's grant closed. One that is gone already, or another's, is no error."""
    user = require_user(tables, caller)
    grant = tables.grants.get(grant_id)
    if grant is not None and grant.uid == user.uid:
        ledger.revoke_grant(tables, grant)


def _check_size(size: int, rules: Rules) -> None:
    """Raise BlobTooLargeError."""
    if size > rules.blob_bytes_max:
        raise BlobTooLargeError(
            f"a blob has at most {rules.blob_bytes_max} bytes here",
            limit=rules.blob_bytes_max,
            needed=size,
        )


def _charge_of(tables: Tables, user: User, blob_id: BlobId, size: int) -> Charge | None:
    """What the user is charged for the blob; raises BusyError while that is being evicted."""
    charge = tables.charges.get(user.uid, blob_id)
    if charge is None:
        return None
    if charge.size != size:
        raise InvalidArgumentError("you hold this blob already, and it has another size")
    if charge.evicting:
        raise BusyError("your last copy of this blob is being evicted")
    return charge


def _open_grant_of(tables: Tables, user: User, ask: Ask) -> OpenGrant | None:
    grant = next(iter(tables.grants.where(uid=user.uid, blob_id=ask.blob_id)), None)
    if grant is None:
        return None
    if grant.revoking:
        raise BusyError("the last grant for this blob is being closed")
    if grant.size != ask.size:
        raise UploadConflictError("a grant for this blob with another size is open: release it")
    return grant


def _check_grants(user: User, rules: Rules) -> None:
    """Raise BusyError unless one more grant fits."""
    if user.grants >= rules.user_grants_max:
        raise BusyError(f"{user.grants} grants of yours are open: finish or release some")
