"""The signed roster: whose it must be, and how large it may get."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostnode.errors import InvalidArgumentError, TokenInvalidError
from ostnode.identity.cose import TOKEN_BYTES_MAX, sign1
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, Principal
from ostnode.wire import roster as r
from ostnode.wire.membership import MEMBERS_MAX, ROSTER_BYTES_MAX
from ostnode.wire.schema import encode_message

INDEX, OTHER = KeyPair.from_seed(bytes(32)), KeyPair.from_seed(bytes([1]) * 32)
CLUSTER = ClusterId(b"cluster-cluster-")
BUCKET = r.RosterBucket(Principal(b"b" * 32), Principal(b"k" * 32), "approved", http="http://b")
ROSTER = r.Roster(CLUSTER, 5, 1_700_000_000, (r.RosterKey(INDEX.principal),), (BUCKET,))


def opened(data: bytes, cluster: ClusterId = CLUSTER) -> r.Roster:
    return r.open_roster(data, cluster=cluster, signers=[INDEX.principal])


def test_a_roster_comes_back() -> None:
    data = r.sign_roster(INDEX, ROSTER)
    assert opened(data) == ROSTER
    assert r.sign_roster(INDEX, ROSTER) == data


def test_another_signer_is_refused() -> None:
    with pytest.raises(TokenInvalidError, match="another key"):
        opened(r.sign_roster(OTHER, ROSTER))


def test_another_cluster_is_refused() -> None:
    with pytest.raises(TokenInvalidError, match="another cluster"):
        opened(r.sign_roster(INDEX, ROSTER), ClusterId(bytes(16)))


def test_another_kind_of_statement_is_refused() -> None:
    with pytest.raises(TokenInvalidError, match="no ost-roster"):
        opened(sign1(INDEX, "ost-grant+cwt", encode_message(ROSTER)))


def test_a_changed_roster_is_refused() -> None:
    data = bytearray(r.sign_roster(INDEX, ROSTER))
    for at in range(len(data)):
        data[at] ^= 1
        with pytest.raises(TokenInvalidError):
            opened(bytes(data))
        data[at] ^= 1


@pytest.mark.parametrize("payload", [b"", b"\xa0", b"\xff", encode_message(BUCKET)])
def test_b47_a_signed_payload_that_is_no_roster_is_refused(payload: bytes) -> None:
    with pytest.raises(TokenInvalidError, match="malformed"):
        opened(sign1(INDEX, r.ROSTER_TYP, payload))


def test_the_fullest_roster_fits() -> None:
    bucket = replace(
        BUCKET,
        old_key=BUCKET.key,
        old_until=(1 << 63) - 1,
        http="h" * r.ROSTER_ADDRESS_BYTES_MAX,
    )
    largest = (1 << 63) - 1
    full = r.Roster(
        CLUSTER,
        largest,
        largest,
        (r.RosterKey(INDEX.principal, largest),) * r.KEYS_MAX,
        (bucket,) * MEMBERS_MAX,
    )
    data = r.sign_roster(INDEX, full)
    assert TOKEN_BYTES_MAX < len(data) <= ROSTER_BYTES_MAX
    assert opened(data) == full


def test_a_roster_over_the_limit_is_not_signed_and_not_read() -> None:
    # Bounds are in characters: these take two bytes each.
    bucket = replace(BUCKET, http="\N{LATIN SMALL LETTER E WITH ACUTE}" * 80)
    buckets: tuple[r.RosterBucket, ...] = ()
    with pytest.raises(InvalidArgumentError, match="over 64512"):  # noqa: PT012  one of many
        while len(buckets) < MEMBERS_MAX:
            buckets += (bucket,)
            r.sign_roster(INDEX, replace(ROSTER, buckets=buckets))
    assert len(buckets) > 200
    with pytest.raises(TokenInvalidError, match="at most"):
        opened(bytes(ROSTER_BYTES_MAX + 1))
