"""Enough buckets: activate one that stands by, else have one provided, never two at once.

What is under way stands in the database: a bucket that is being provided has a row, written with
the decision, and until it reports no other is asked for. A crash after that decision forgets the
secret of the row's join token alone: the next leader asks again, for the same bucket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ostnode.errors import BusyError
from ostnode.ids import SIZE_MAX
from ostnode.roles.index.core import membership
from ostnode.roles.index.core.buckets import intended
from ostnode.roles.index.core.memberrows import Invite, Member, MemberState
from ostnode.roles.index.core.rows import Bucket, BucketState, Provision
from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.core.tables import Tables


@dataclass(frozen=True, slots=True)
class Supply:
    """How many buckets take new blobs, and what is free there for blobs nobody has announced."""

    active: int
    free: int

    def lacks(self, rules: Rules) -> str:
        """What is missing, for people; empty when nothing is."""
        if self.active < rules.target_active:
            return f"{self.active} of {rules.target_active} buckets are active"
        if self.free < rules.headroom_bytes:
            return f"{self.free} of {rules.headroom_bytes} bytes of headroom are free"
        return ""


@dataclass(frozen=True, slots=True)
class Beat:
    """One look at the supply, and what the leader knows that the tables do not.

    `promised` are bytes of grants that may still be used. `invite` is a join token to give out,
    None where nobody provides buckets. `carried_out` is the request for a bucket that this process
    is seeing to; after `retry_s` without success it is made anew.
    """

    now: int
    promised: int = 0
    invite: Invite | None = None
    carried_out: Provision | None = None
    retry_s: int = 600


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a beat came to. `lack` is what is still missing after it.

    `activated` is a bucket that stood by; `wanted` a bucket to be provided, with the beat's join
    token; `making` the one that is under way.
    """

    supply: Supply
    lack: str
    activated: Bucket | None = None
    wanted: Provision | None = None
    making: Provision | None = None


def label_of(number: int) -> str:
    """What the member is called that a bucket of this number becomes."""
    return f"provided-{number}"


def supply(tables: Tables, promised: int) -> Supply:
    """As of the buckets' last reports. What is promised may be stored already: it errs below."""
    active = tables.buckets.where(state=BucketState.ACTIVE)
    free = sum(bucket.free for bucket in active)
    return Supply(len(active), min(SIZE_MAX, max(0, free - promised)))


def top_up(tables: Tables, rules: Rules, beat: Beat) -> Outcome:
    """Settle what has succeeded, and take one step if something is missing."""
    open_now = _settle(tables)
    have = supply(tables, beat.promised)
    lack = have.lacks(rules)
    if not lack:
        return Outcome(have, lack, making=open_now)
    spare = _spare(tables, rules)
    if spare is not None:
        tables.buckets.put(spare)
        return Outcome(have, "", activated=spare, making=open_now)
    if beat.invite is None:
        return Outcome(have, lack, making=open_now)
    if open_now is None:
        asked = _ask(tables, _next_number(tables), 1, beat.invite, beat.now)
    elif open_now != beat.carried_out or beat.now >= open_now.asked_at + beat.retry_s:
        membership.withdraw(tables, open_now.invite_id)
        asked = _ask(tables, open_now.number, open_now.attempts + 1, beat.invite, beat.now)
    else:
        return Outcome(have, lack, making=open_now)
    return Outcome(have, lack, wanted=asked, making=asked)


def provided(tables: Tables) -> list[int]:
    """The numbers of the buckets that were provided and have a place in the cluster."""
    members = {row.label: row for row in tables.members.where(state=MemberState.APPROVED)}
    return [row.number for row in tables.provisions.where() if label_of(row.number) in members]


def _settle(tables: Tables) -> Provision | None:
    """The bucket that is under way, unless it has arrived by now."""
    row = next(iter(tables.provisions.where(arrived=False)), None)
    if row is None:
        return None
    for member in tables.members.where(label=label_of(row.number)):
        if _has_arrived(tables, member):
            membership.withdraw(tables, row.invite_id)
            tables.provisions.put(replace(row, arrived=True))
            return None
    return row


def _has_arrived(tables: Tables, member: Member) -> bool:
    """It has reported, or was revoked: then it counts no more, and another may be asked for."""
    bucket = tables.buckets.get(member.principal)
    return bucket is not None and bucket.state is not BucketState.PENDING


def _spare(tables: Tables, rules: Rules) -> Bucket | None:
    """A bucket that stands by and has room, activated: of the zone with the fewest active ones."""
    ready = [
        made
        for bucket in tables.buckets.where(state=BucketState.STANDBY)
        if (made := intended(bucket, rules, BucketState.ACTIVE)).state is BucketState.ACTIVE
    ]
    zones = _zones(tables.buckets.where(state=BucketState.ACTIVE))
    ready.sort(key=lambda bucket: (zones[bucket.zone], -bucket.free, bucket.principal))
    return ready[0] if ready else None


def _zones(buckets: Iterable[Bucket]) -> Counter[str]:
    return Counter(bucket.zone for bucket in buckets)


def _next_number(tables: Tables) -> int:
    return max((row.number for row in tables.provisions.where()), default=0) + 1


def _ask(tables: Tables, number: int, attempts: int, invite: Invite, now: int) -> Provision | None:
    """None when there is no room for a join token, or for a bucket."""
    try:
        membership.invite(tables, replace(invite, label=label_of(number)), now)
    except BusyError:
        return None
    row = Provision(number, invite.invite_id, attempts, now)
    tables.provisions.put(row)
    return row
