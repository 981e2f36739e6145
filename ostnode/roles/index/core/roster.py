"""What the index tells of the membership: the roster, and pages for operators."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ostnode.errors import InternalError, NotAuthorizedError
from ostnode.ids import ClusterId, Principal
from ostnode.roles.index.core.indexkeys import roster_keys
from ostnode.roles.index.core.memberrows import Invite, Member, MemberState, RosterEpoch
from ostnode.roles.index.core.rows import THE_INDEX
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import membership as mb
from ostnode.wire.roster import ROSTER_ADDRESS_BYTES_MAX, Roster, RosterBucket


@dataclass(frozen=True, slots=True)
class Hearing:
    """What a bucket is told: the roster's number, and whether it is `whole`."""

    epoch: int
    whole: bool


def hearing_of(tables: Tables, bucket: Principal) -> Hearing:
    """How much of the roster a bucket hears; raises NotAuthorizedError unless it is a member."""
    asking = tables.members.get(bucket)
    if asking is None or asking.state is MemberState.REVOKED:
        raise NotAuthorizedError("this bucket is not, or no longer, a member")
    return Hearing(last_epoch(tables).epoch, asking.state is MemberState.APPROVED)


def roster(
    tables: Tables, cluster_id: ClusterId, index: Principal, only: Principal | None = None
) -> Roster:
    """What is to be signed under the present number: always the same.

    A bucket that waits for approval hears of itself alone, `only`.
    """
    last = last_epoch(tables)
    members = [
        each
        for each in tables.members.where()
        if each.state is not MemberState.REVOKED and only in {None, each.principal}
    ]
    return Roster(
        cluster_id=cluster_id,
        epoch=last.epoch,
        changed_at=last.changed_at,
        index_keys=roster_keys(tables, index, last.changed_at),
        buckets=tuple(_entry(tables, member, last.changed_at) for member in members),
    )


def last_epoch(tables: Tables) -> RosterEpoch:
    """The roster's number and when it got it."""
    last = tables.roster.get(THE_INDEX)
    if last is None:
        raise InternalError("the index's database has lost its roster row")
    return last


def page(tables: Tables, after: Principal | None, now: int) -> mb.MemberPage:
    """Members for an operator, and with the first page the open join tokens."""
    members = tables.members_after(after or b"", mb.MEMBERS_TOLD_MAX)
    open_invites = [each for each in tables.invites.where() if each.expires_at > now]
    return mb.MemberPage(
        epoch=last_epoch(tables).epoch,
        members=tuple(_told(tables, member) for member in members),
        invites=tuple(map(_invite, open_invites)) if after is None else (),
    )


def _entry(tables: Tables, member: Member, changed_at: int) -> RosterBucket:
    """As of the roster's own time: one epoch never says two things."""
    http = _address(tables, member)
    if len(http.encode()) > ROSTER_ADDRESS_BYTES_MAX:
        http = ""
    entry = RosterBucket(member.principal, member.key, member.state, http=http)
    if member.old_key and changed_at <= member.old_until:
        entry = replace(entry, old_key=Principal(member.old_key), old_until=member.old_until)
    return entry


def _told(tables: Tables, member: Member) -> mb.MemberInfo:
    return mb.MemberInfo(
        principal=member.principal,
        state=member.state,
        key=member.key,
        http=_address(tables, member),
        label=member.label,
        configured=member.configured,
        changed_at=member.changed_at,
    )


def _address(tables: Tables, member: Member) -> str:
    bucket = tables.buckets.get(member.principal)
    return bucket.http if bucket else ""


def _invite(row: Invite) -> mb.InviteInfo:
    return mb.InviteInfo(row.invite_id, row.expires_at, row.auto_approve, row.label, row.failures)
