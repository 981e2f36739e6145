"""The roster: the index's signed, numbered word on who belongs to the cluster.

It is a COSE_Sign1 of type `ost-roster` whose payload is the message `Roster`. Its epoch rises
with every change of the membership, so whoever keeps the highest one it has seen cannot be shown
an older one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Final

from ostnode.errors import InvalidArgumentError, TokenInvalidError
from ostnode.identity.cose import parse_sign1, sign1
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, Principal
from ostnode.wire.fields import Amount, Bounds, Message, ShortText
from ostnode.wire.membership import MEMBERS_MAX, ROSTER_BYTES_MAX
from ostnode.wire.schema import decode_message, encode_message

ROSTER_TYP: Final = "ost-roster"
ROSTER_ADDRESS_BYTES_MAX: Final = 80
"""256 buckets with such addresses and two keys each fit ROSTER_BYTES_MAX. The index leaves out what
is longer in UTF-8; the schema counts characters, as of every text."""
KEYS_MAX: Final = 3
"""Of the index: the key in use, the one to come and the one before it."""


@dataclass(frozen=True, slots=True)
class RosterKey(Message):
    """A key of the index, first the one it signs with; one that is announced counts already.

    `until` is the second after which it counts no more, 0 for no end.
    """

    key: Principal
    until: Amount = 0


@dataclass(frozen=True, slots=True)
class RosterBucket(Message):
    """A bucket: its name, the key it signs with, and whether it is pending or approved.

    `old_key` counts too until `old_until`. `http` is empty when the index does not know it or it
    is over ROSTER_ADDRESS_BYTES_MAX.
    """

    principal: Principal
    key: Principal
    state: ShortText
    old_key: Principal | None = None
    old_until: Amount = 0
    http: Annotated[str, Bounds(0, ROSTER_ADDRESS_BYTES_MAX)] = ""


@dataclass(frozen=True, slots=True)
class Roster(Message):
    """Everybody in the cluster as of `changed_at`; buckets by principal."""

    cluster_id: ClusterId
    epoch: Amount
    changed_at: Amount
    index_keys: Annotated[tuple[RosterKey, ...], Bounds(1, KEYS_MAX)]
    buckets: Annotated[tuple[RosterBucket, ...], Bounds(0, MEMBERS_MAX)]


def sign_roster(key: KeyPair, roster: Roster) -> bytes:
    """The roster signed by the index; raises InvalidArgumentError when it is too large."""
    data = sign1(key, ROSTER_TYP, encode_message(roster))
    if len(data) > ROSTER_BYTES_MAX:
        raise InvalidArgumentError(f"the roster has {len(data)} bytes, over {ROSTER_BYTES_MAX}")
    return data


def open_roster(data: bytes, *, cluster: ClusterId, signers: Collection[Principal]) -> Roster:
    """The roster of this cluster, signed by one of `signers`.

    Checks in this order: size, form, signer, signature, type, content, cluster. Raises
    TokenInvalidError. Whether its epoch is older than one seen before is the caller's to check.
    """
    statement = parse_sign1(data, bytes_max=ROSTER_BYTES_MAX)
    if statement.kid not in signers:
        raise TokenInvalidError("the roster is signed by another key than the index's")
    if not statement.verified():
        raise TokenInvalidError("the roster's signature is wrong")
    if statement.typ != ROSTER_TYP:
        raise TokenInvalidError(f"it is no {ROSTER_TYP}")
    try:
        roster = decode_message(Roster, statement.payload)
    except InvalidArgumentError as error:
        raise TokenInvalidError(f"the roster is malformed: {error.message}") from None
    if roster.cluster_id != cluster:
        raise TokenInvalidError("the roster is of another cluster")
    return roster
