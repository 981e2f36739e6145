"""Who belongs to the cluster: invited, joined, approved, revoked; and the roster's epoch.

Every change of what the roster says raises its epoch, in the transaction of the change.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Final

from blake3 import blake3

from ostnode.errors import (
    BusyError,
    InvalidArgumentError,
    NotAuthorizedError,
    NotFoundError,
    OstError,
    TokenInvalidError,
)
from ostnode.ids import SIZE_MAX, Principal, PrincipalKind
from ostnode.roles.index.core.buckets import enlist, shut_out
from ostnode.roles.index.core.memberrows import (
    HEARD,
    Invite,
    Member,
    MemberState,
    PastKey,
    RosterEpoch,
)
from ostnode.roles.index.core.rows import THE_INDEX
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import membership as mb
from ostnode.wire.rotation import KeyChange

FAILURES_MAX: Final = 5
"""Wrong secrets after which a join token is dead; honest bearers copy it whole."""
ROWS_MAX: Final = 4096
"""Members, revoked ones included, whose rows are kept for ever."""
EPOCH_HEARD_MAX: Final = SIZE_MAX // 2
PAST_KEYS_MAX: Final = 1024
"""Of one bucket, kept for ever: once a week for twenty years."""
_HASH_CONTEXT: Final = "ostnode join secret 1"


@dataclass(frozen=True, slots=True)
class Change:
    """What a decision did to one bucket: `member` is None when it is forgotten."""

    principal: Principal
    member: Member | None


def secret_hash(secret: bytes) -> bytes:
    """What the index keeps of a join secret. It has 256 random bits, so a plain hash hides it."""
    return blake3(secret, derive_key_context=_HASH_CONTEXT).digest()


def invite(tables: Tables, new: Invite, now: int) -> None:
    """Keep a new join token; raises BusyError when too many are open."""
    tables.drop_invites_until(now)
    if len(tables.invites.where()) >= mb.INVITES_MAX:
        raise BusyError(f"{mb.INVITES_MAX} join tokens are open: withdraw some, or wait")
    tables.invites.put(new)


def withdraw(tables: Tables, invite_id: bytes) -> None:
    """End a join token."""
    tables.invites.drop(invite_id)


def join(tables: Tables, caller: Principal, request: mb.Join, now: int) -> Change | OstError:
    """Make the bearer of a good join token a member; a refusal returned is to be committed.

    Whoever is a member already stands as it did, and the token stays good. Raises
    NotAuthorizedError for a revoked bucket, BusyError when the cluster is full.
    """
    member = tables.members.get(caller)
    if member is not None and member.state is MemberState.REVOKED:
        raise NotAuthorizedError("this bucket was revoked; an operator may approve it again")
    if member is not None and not signs_for(member, caller, now):
        raise NotAuthorizedError("another key has followed this one")
    if member is not None:
        return Change(caller, member)
    tables.drop_invites_until(now)
    found = tables.invites.get(request.invite_id)
    if found is None or not compare_digest(found.secret_hash, secret_hash(request.secret)):
        return _refused(tables, found)
    if _owner(tables, caller) is not None:
        raise NotAuthorizedError("this is another bucket's key")
    _check_room(tables)
    if len(tables.members.where()) >= ROWS_MAX:
        raise BusyError("too many buckets have been in this cluster")
    tables.invites.drop(found.invite_id)
    state = MemberState.APPROVED if found.auto_approve else MemberState.PENDING
    member = Member(caller, state, caller, label=found.label, changed_at=now)
    return _put(tables, member, now)


def approve(tables: Tables, bucket: Principal, now: int) -> Change:
    """Let a bucket work. Raises NotFoundError for one that is no member, BusyError."""
    member = _known(tables, bucket)
    if member.state is MemberState.APPROVED:
        return Change(bucket, member)
    if member.state is MemberState.REVOKED:
        _check_room(tables)
    return _put(tables, replace(member, state=MemberState.APPROVED, changed_at=now), now)


def revoke(tables: Tables, bucket: Principal, now: int) -> Change:
    """Shut a bucket out; one that was never approved is forgotten. Raises NotFoundError."""
    member = _known(tables, bucket)
    if member.state is MemberState.REVOKED:
        return Change(bucket, member)
    # One that worked here once stays known: named again, it must not come with its first key.
    if member.state is MemberState.PENDING and tables.buckets.get(bucket) is None:
        tables.members.drop(bucket)
        raise_epoch(tables, now)
        _enlist(tables)
        return Change(bucket, None)
    # What it could sign with is forgotten: approved again, it comes with the key it has now.
    revoked = replace(member, state=MemberState.REVOKED, old_key=b"", old_until=0, changed_at=now)
    shut_out(tables, bucket)
    return _put(tables, revoked, now)


def change_key(tables: Tables, caller: Principal, change: KeyChange, now: int) -> Change:
    """Let another key follow the one that a bucket signs with; the bucket's name stays.

    The two keys' signatures decide, not who shows them: a bucket shows its last changes again,
    with the key it has now, to an index that was set back to before them. Then the old key is over
    at once.

    Raises NotAuthorizedError for a bucket that is not approved, another's key, or one that is
    not the bucket's present one; InvalidArgumentError while the last change is not over.
    """
    done = _signer(tables, change.new)
    if done is not None and change.old != change.new and _owner(tables, change.old) == done:
        return Change(done, require_approved(tables, done))  # a lost answer, or shown again
    bucket = _signer(tables, change.old)
    if bucket is None:
        raise NotAuthorizedError("only the present key says which one follows it")
    member = require_approved(tables, bucket)
    if member.old_key and now <= member.old_until:
        raise InvalidArgumentError(
            "the last change of keys is not over yet", old_until=member.old_until
        )
    if _owner(tables, change.new) is not None:
        raise NotAuthorizedError("this key is or was a bucket's already")
    if len(tables.past_keys.where(bucket=bucket)) >= PAST_KEYS_MAX:
        raise NotAuthorizedError(f"a bucket has changed its key {PAST_KEYS_MAX} times: no more")
    tables.past_keys.put(PastKey(member.key, bucket))
    old_key, until = (change.old, now + change.overlap_s) if caller == change.old else (b"", 0)
    changed = replace(
        member, key=change.new, old_key=bytes(old_key), old_until=until, changed_at=now
    )
    return _put(tables, changed, now)


def take_up(tables: Tables, named: Collection[Principal], now: int) -> None:
    """Take the config's word: the buckets it names are members, unless they were revoked.

    One that it no longer names is pending. Raises BusyError when there are too many with those that
    have joined, InvalidArgumentError for a key that is or was one of another bucket's.
    """
    changed = tables.roster.get(THE_INDEX) is None
    for member in tables.members.where():
        if member.configured != (member.principal in named):
            tables.members.put(_as_configured(member, configured=not member.configured, now=now))
            changed = True
    for principal in named:
        if tables.members.get(principal) is None:
            _check_free(tables, principal)
            state = MemberState.APPROVED
            tables.members.put(Member(principal, state, principal, configured=True, changed_at=now))
            changed = True
    if _taking_part(tables) > mb.MEMBERS_MAX:
        raise BusyError(f"with those that have joined there are over {mb.MEMBERS_MAX} buckets")
    if changed:
        raise_epoch(tables, now)
    _enlist(tables)


def require_approved(tables: Tables, bucket: Principal) -> Member:
    """The member; raises NotAuthorizedError for anybody but an approved bucket."""
    member = tables.members.get(bucket)
    if member is None or member.state is not MemberState.APPROVED:
        raise NotAuthorizedError("this bucket is not, or no longer, approved")
    return member


def signs_for(member: Member, key: Principal, now: float) -> bool:
    """Whether the key counts for the member now."""
    return key == member.key or (key == member.old_key and now <= member.old_until)


def raise_epoch(tables: Tables, now: int) -> int:
    """Number the roster anew.

    Epochs follow the clock where that is ahead, and what buckets have seen: an index restored from
    a backup overtakes with its next change whatever it said before, also by a clock gone wrong.
    """
    seen = [row.epoch + 1 for name in (THE_INDEX, HEARD) if (row := tables.roster.get(name))]
    epoch = max(now, *seen, 0)
    tables.roster.put(RosterEpoch(THE_INDEX, epoch, now))
    return epoch


def note_heard(tables: Tables, epoch: int, now: int) -> bool:
    """Keep in mind a number that an approved bucket has seen; whether it is news.

    Not beyond EPOCH_HEARD_MAX: buckets cannot use the numbers up.
    """
    known = [row.epoch for name in (THE_INDEX, HEARD) if (row := tables.roster.get(name))]
    if epoch > EPOCH_HEARD_MAX or epoch <= max(known, default=0):
        return False
    tables.roster.put(RosterEpoch(HEARD, epoch, now))
    return True


def _refused(tables: Tables, found: Invite | None) -> OstError:
    """One answer whatever is wrong; a token that somebody guesses at dies."""
    if found is not None and found.failures + 1 >= FAILURES_MAX:
        tables.invites.drop(found.invite_id)
    elif found is not None:
        tables.invites.put(replace(found, failures=found.failures + 1))
    return TokenInvalidError("the join token is unknown, used or over: have a new one made")


def _put(tables: Tables, member: Member, now: int) -> Change:
    tables.members.put(member)
    raise_epoch(tables, now)
    _enlist(tables)
    return Change(member.principal, member)


def _enlist(tables: Tables) -> None:
    approved = tables.members.where(state=MemberState.APPROVED)
    enlist(tables, [member.principal for member in approved])


def _as_configured(member: Member, *, configured: bool, now: int) -> Member:
    state = member.state
    if state is not MemberState.REVOKED:
        state = MemberState.APPROVED if configured else MemberState.PENDING
    return replace(member, configured=configured, state=state, changed_at=now)


def _known(tables: Tables, bucket: Principal) -> Member:
    member = tables.members.get(bucket)
    if member is None:
        raise NotFoundError("there is no such bucket in this cluster")
    return member


def _owner(tables: Tables, key: Principal) -> Principal | None:
    """The bucket whose name or key this is or was."""
    if tables.members.get(key) is not None:
        return key
    past = tables.past_keys.get(key)
    if past is not None:
        return past.bucket
    found = tables.members.where(key=key) or tables.members.where(old_key=key)
    return found[0].principal if found else None


def _signer(tables: Tables, key: Principal) -> Principal | None:
    """The bucket that signs with this key now."""
    found = tables.members.where(key=key)
    return found[0].principal if found else None


def _check_free(tables: Tables, key: Principal) -> None:
    """Two buckets with one key would pass for each other."""
    owner = _owner(tables, key)
    if owner is not None:
        name, taken = (each.text(PrincipalKind.BUCKET) for each in (owner, key))
        raise InvalidArgumentError(
            f"index.buckets names {taken}, a key of the bucket {name}: put that name there"
        )


def _taking_part(tables: Tables) -> int:
    return sum(each.state is not MemberState.REVOKED for each in tables.members.where())


def _check_room(tables: Tables) -> None:
    if _taking_part(tables) >= mb.MEMBERS_MAX:
        raise BusyError(f"a cluster has at most {mb.MEMBERS_MAX} buckets: revoke some first")
