"""Who belongs to the cluster: joining and leaving, and the roster that the index signs of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final

from ostnode.ids import Principal
from ostnode.wire.fields import Address, Amount, Bounds, Message, Request, ShortText, Token

MEMBERS_MAX: Final = 256
"""Approved and pending buckets of one cluster: what a roster has room for."""
MEMBERS_TOLD_MAX: Final = 64
"""Of one page, which fits the 64 KiB of a header with the longest addresses."""
INVITES_MAX: Final = 64
INVITE_ID_BYTES: Final = 8
JOIN_SECRET_BYTES: Final = 32
INVITE_TTL_S_MAX: Final = 7 * 86_400
LABEL_CHARS_MAX: Final = 32
ROSTER_BYTES_MAX: Final = 63 * 1024
"""Signed. What is left of a frame's header is for the fields around it."""
ROSTER_WAIT_MS_MAX: Final = 60_000
OVERLAP_S_MAX: Final = 90 * 86_400
"""How long a key may count beside the one that follows it."""

InviteId = Annotated[bytes, Bounds(INVITE_ID_BYTES, INVITE_ID_BYTES)]
JoinSecret = Annotated[bytes, Bounds(JOIN_SECRET_BYTES, JOIN_SECRET_BYTES)]
Label = Annotated[str, Bounds(0, LABEL_CHARS_MAX)]


@dataclass(frozen=True, slots=True)
class InviteBucket(Request):
    """Make a join token for one bucket, good for `ttl_s` seconds and one use.

    With `auto_approve` its bearer is a member at once, else it waits for `ApproveBucket`.
    """

    ttl_s: Annotated[int, Bounds(1, INVITE_TTL_S_MAX)]
    auto_approve: bool = False
    label: Label = ""


@dataclass(frozen=True, slots=True)
class Invitation(Message):
    """A join token's parts. The index keeps a hash of `secret` alone; it is told this once.

    `peer` is where buckets reach the index, empty when its config does not say.
    """

    invite_id: InviteId
    secret: JoinSecret = field(repr=False)
    index: Principal
    peer: Address
    expires_at: Amount


@dataclass(frozen=True, slots=True)
class ListMembers(Request):
    """A page of the cluster's buckets, those whose principal comes after `after`."""

    after: Principal | None = None


@dataclass(frozen=True, slots=True)
class MemberInfo(Message):
    """A bucket. `state` is pending, approved or revoked; `key` is the one it signs with now.

    The principal is the bucket's name for ever; after a rotation its key is another.
    `changed_at` is when the state was last changed.
    """

    principal: Principal
    state: ShortText
    key: Principal
    http: Address
    label: Label
    configured: bool
    changed_at: Amount


@dataclass(frozen=True, slots=True)
class InviteInfo(Message):
    """A join token that nobody has used yet."""

    invite_id: InviteId
    expires_at: Amount
    auto_approve: bool
    label: Label
    failures: Amount


@dataclass(frozen=True, slots=True)
class MemberPage(Message):
    """Members by principal; there are more when there are MEMBERS_TOLD_MAX of them.

    `invites` are the open ones, told with the first page.
    """

    epoch: Amount
    members: Annotated[tuple[MemberInfo, ...], Bounds(0, MEMBERS_TOLD_MAX)]
    invites: Annotated[tuple[InviteInfo, ...], Bounds(0, INVITES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class ApproveBucket(Request):
    """Let a pending bucket work, or a revoked one work again."""

    bucket: Principal


@dataclass(frozen=True, slots=True)
class RevokeBucket(Request):
    """Shut a bucket out: its links end, nothing more is placed there.

    One that was never approved is forgotten.
    """

    bucket: Principal


@dataclass(frozen=True, slots=True)
class WithdrawInvite(Request):
    """End a join token that nobody has used; succeeds when there is none."""

    invite_id: InviteId


@dataclass(frozen=True, slots=True)
class Join(Request):
    """A bucket's request to be a member, with the join token it was given.

    The link proves who asks. Asked again by the same bucket it is answered as the first time.
    """

    invite_id: InviteId
    secret: JoinSecret = field(repr=False)


@dataclass(frozen=True, slots=True)
class Standing(Message):
    """How the caller stands: `state` is pending or approved."""

    state: ShortText


@dataclass(frozen=True, slots=True)
class GetRoster(Request):
    """The roster, once its epoch is another than `epoch`; waits for that up to `wait_ms`.

    Then it comes all the same.
    """

    epoch: Amount
    wait_ms: Annotated[int, Bounds(0, ROSTER_WAIT_MS_MAX)]


@dataclass(frozen=True, slots=True)
class SignedRoster(Message):
    """The roster as `wire.roster` signs it; how the caller stands is in it."""

    roster: Annotated[bytes, Bounds(1, ROSTER_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class ChangeBucketKey(Request):
    """A bucket's word that another key follows the one it signs with: see `wire.rotation`.

    Asked again it is answered as the first time.
    """

    by_old: Token
    by_new: Token


@dataclass(frozen=True, slots=True)
class KeyChanged(Message):
    """The new key counts; the old one does until then."""

    old_until: Amount
