"""A change of key: two signatures over one statement, and nothing less."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostnode.errors import TokenInvalidError
from ostnode.identity.cose import sign1
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId
from ostnode.wire import rotation as r
from ostnode.wire.schema import encode_message

OLD, NEW, OTHER = (KeyPair.from_seed(bytes([number]) * 32) for number in range(3))
CLUSTER = ClusterId(b"cluster-cluster-")
CHANGE = r.KeyChange(CLUSTER, OLD.principal, NEW.principal, 3600)


def signed(key: KeyPair, change: r.KeyChange = CHANGE, typ: str = r.KEY_CHANGE_TYP) -> bytes:
    return sign1(key, typ, encode_message(change))


def opened(by_old: bytes, by_new: bytes, cluster: ClusterId = CLUSTER) -> r.KeyChange:
    return r.open_key_change(by_old, by_new, cluster=cluster)


def test_what_both_keys_sign_is_taken() -> None:
    assert opened(*r.sign_key_change(OLD, NEW, CLUSTER, 3600)) == CHANGE
    assert r.sign_key_change(OLD, NEW, CLUSTER, 3600) == (signed(OLD), signed(NEW))


@pytest.mark.parametrize(
    ("by_old", "by_new"),
    [
        (signed(OLD), signed(OLD)),
        (signed(NEW), signed(NEW)),
        (signed(NEW), signed(OLD)),
        (signed(OTHER), signed(NEW)),
        (signed(OLD), signed(OTHER)),
        (signed(OLD), signed(NEW, replace(CHANGE, overlap_s=1))),
        (signed(OLD, typ="ost-roster"), signed(NEW, typ="ost-roster")),
        (signed(OLD)[:-1] + b"\x00", signed(NEW)),
        (signed(OLD), signed(NEW)[:-1] + b"\x00"),
        (b"", b""),
        (
            sign1(OLD, r.KEY_CHANGE_TYP, b"\xa0"),
            sign1(NEW, r.KEY_CHANGE_TYP, b"\xa0"),
        ),
    ],
)
def test_anything_less_is_refused(by_old: bytes, by_new: bytes) -> None:
    with pytest.raises(TokenInvalidError):
        opened(by_old, by_new)


def test_a_key_does_not_follow_itself() -> None:
    itself = replace(CHANGE, new=OLD.principal)
    with pytest.raises(TokenInvalidError):
        opened(signed(OLD, itself), signed(OLD, itself))


def test_another_cluster_is_refused() -> None:
    with pytest.raises(TokenInvalidError, match="another cluster"):
        opened(signed(OLD), signed(NEW), ClusterId(bytes(16)))
