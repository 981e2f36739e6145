"""The index's rows about who belongs to the cluster; see `rows` for what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ostnode.ids import Principal

HEARD: Final = "heard"


class MemberState(StrEnum):
    """PENDING has joined and waits for an operator. REVOKED stays so until approved again."""

    PENDING = "pending"
    APPROVED = "approved"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Member:
    """A bucket that is or was in the cluster; `principal` is its name for ever.

    It signs with `key`, and until `old_until` may do so with `old_key` too (empty: there is none).
    `configured` says that the index's config names it.
    """

    principal: Principal
    state: MemberState
    key: Principal
    old_key: bytes = b""
    old_until: int = 0
    configured: bool = False
    label: str = ""
    changed_at: int = 0


@dataclass(frozen=True, slots=True)
class PastKey:
    """A key that the bucket has signed with and another one has followed; never taken again."""

    key: Principal
    bucket: Principal


@dataclass(frozen=True, slots=True)
class Invite:
    """A join token that nobody has used: the hash of its secret, and how many wrong ones came."""

    invite_id: bytes
    secret_hash: bytes
    expires_at: int
    auto_approve: bool
    label: str
    failures: int = 0


class IndexKeyState(StrEnum):
    """NEXT is announced and signs nothing yet. OLD counts until its end."""

    NEXT = "next"
    OLD = "old"


@dataclass(frozen=True, slots=True)
class IndexKey:
    """A key of the index beside the present one, which is in `Meta`. `until` is of an old one."""

    key: Principal
    state: IndexKeyState
    until: int = 0


@dataclass(frozen=True, slots=True)
class RosterEpoch:
    """The roster's number, in the row THE_INDEX; in the row HEARD one that buckets have seen."""

    name: str
    epoch: int
    changed_at: int
