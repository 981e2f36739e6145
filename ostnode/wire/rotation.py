"""A node's change of key, said by the old key and agreed to by the new one.

Both sign the same `KeyChange`, each in a COSE_Sign1 of type `ost-key-change`: the old key says who
follows it, the new one that somebody holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from ostnode.errors import InvalidArgumentError, TokenInvalidError
from ostnode.identity.cose import Sign1, parse_sign1, sign1
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, Principal
from ostnode.wire.fields import Bounds, Message
from ostnode.wire.membership import OVERLAP_S_MAX
from ostnode.wire.schema import decode_message, encode_message

KEY_CHANGE_TYP: Final = "ost-key-change"


@dataclass(frozen=True, slots=True)
class KeyChange(Message):
    """`new` follows `old`, which counts for `overlap_s` more seconds."""

    cluster_id: ClusterId
    old: Principal
    new: Principal
    overlap_s: Annotated[int, Bounds(0, OVERLAP_S_MAX)]


def sign_key_change(
    old: KeyPair, new: KeyPair, cluster: ClusterId, overlap_s: int
) -> tuple[bytes, bytes]:
    """The statement by the old key, and by the new one."""
    payload = encode_message(KeyChange(cluster, old.principal, new.principal, overlap_s))
    return sign1(old, KEY_CHANGE_TYP, payload), sign1(new, KEY_CHANGE_TYP, payload)


def open_key_change(by_old: bytes, by_new: bytes, *, cluster: ClusterId) -> KeyChange:
    """What both keys did sign, for this cluster; raises TokenInvalidError."""
    first, second = _verified(by_old), _verified(by_new)
    if first.payload != second.payload:
        raise TokenInvalidError("the two keys say different things")
    try:
        change = decode_message(KeyChange, first.payload)
    except InvalidArgumentError as error:
        raise TokenInvalidError(f"the change of keys is malformed: {error.message}") from None
    if (change.old, change.new) != (first.kid, second.kid) or change.old == change.new:
        raise TokenInvalidError("it is not signed by the two keys that it names")
    if change.cluster_id != cluster:
        raise TokenInvalidError("the change of keys is for another cluster")
    return change


def _verified(data: bytes) -> Sign1:
    statement = parse_sign1(data)
    if not statement.verified():
        raise TokenInvalidError("its signature is wrong")
    if statement.typ != KEY_CHANGE_TYP:
        raise TokenInvalidError(f"it is no {KEY_CHANGE_TYP}")
    return statement
