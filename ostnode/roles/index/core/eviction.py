"""Room in an allowance that is full, for users who would rather lose their oldest blobs.

What is evicted counts in the account no more, so there is room at once; the bucket hears of it
through the feed, and until it has said that the references are gone the blob cannot be allocated
again. Only what buckets hear of is chosen: one whose link lacks the feature `ledger` keeps all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ostnode.errors import AllowanceExceededError
from ostnode.roles.index.core import ledger
from ostnode.roles.index.core.rows import Charge, User
from ostnode.roles.index.core.rules import EVICT_OLDEST, Rules
from ostnode.roles.index.core.tables import Tables

VICTIMS_MAX: Final = 128
"""Evicted in one transaction: some 15 ms, so that others get their turn."""


@dataclass(frozen=True, slots=True)
class Lack:
    """What an account lacks for one more blob: bytes of its limit, blobs of the most allowed."""

    nbytes: int
    blobs: int

    @property
    def nothing(self) -> bool:
        """Whether the blob fits."""
        return self.nbytes <= 0 and self.blobs <= 0


def lack_of(user: User, rules: Rules, size: int) -> Lack:
    """What the account lacks for one more blob of this size."""
    return Lack(
        user.used + user.reserved + size - user.byte_limit,
        user.blobs + user.grants + 1 - rules.user_blobs_max,
    )


def require_room(tables: Tables, user: User, rules: Rules, size: int) -> Lack:
    """What must be evicted before a blob of this size fits: nothing, for most.

    Raises AllowanceExceededError when it cannot be made to fit. Nothing is evicted in vain: what
    uploads have reserved is never given up, nor what buckets would not hear of.
    """
    lack = lack_of(user, rules, size)
    if lack.nothing:
        return lack
    kept_bytes, kept_blobs = _kept(tables, user)
    if (
        user.on_full == EVICT_OLDEST
        and kept_bytes + user.reserved + size <= user.byte_limit
        and kept_blobs + user.grants < rules.user_blobs_max
    ):
        return lack
    account = {
        "limit": user.byte_limit,
        "used": user.used,
        "reserved": user.reserved,
        "needed": size,
    }
    if lack.nbytes > 0:
        raise AllowanceExceededError("the blob does not fit your allowance", **account)
    raise AllowanceExceededError(f"you hold {user.blobs} blobs, the most allowed", **account)


def evict_oldest(tables: Tables, user: User, lack: Lack) -> bool:
    """Evict the oldest blobs that fill the lack; whether it is filled, for it takes slices."""
    victims = choose(tables, user, lack)
    for charge in victims:
        ledger.evict_charge(tables, charge)
    return _without(lack, victims).nothing


def choose(tables: Tables, user: User, lack: Lack) -> list[Charge]:
    """The oldest blobs that fill the lack, up to VICTIMS_MAX. Empty ones go only to be fewer."""
    victims: list[Charge] = []
    size_min = 0 if lack.blobs > 0 else 1
    for charge in tables.oldest_charges(user.uid, size_min, VICTIMS_MAX):
        if _without(lack, victims).nothing:
            break
        victims.append(charge)
    return victims


def used_after(tables: Tables, user: User, lack: Lack) -> int:
    """The bytes that evicting what is lacked will leave in use, at most."""
    victims = choose(tables, user, lack)
    least = lack.nbytes if not _without(lack, victims).nothing else 0
    return user.used - max(least, sum(charge.size for charge in victims))


def _without(lack: Lack, victims: list[Charge]) -> Lack:
    return Lack(lack.nbytes - sum(each.size for each in victims), lack.blobs - len(victims))


def _kept(tables: Tables, user: User) -> tuple[int, int]:
    """Bytes and number of blobs that cannot be evicted; not looked for when all buckets hear."""
    if all(row.feed_level > 0 for row in tables.buckets.where() if row.incarnation):
        return 0, 0
    return tables.kept_charges(user.uid)
