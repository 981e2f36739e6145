"""Grants: for one bucket as it is now, whole, and in time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostnode.errors import GrantExpiredError, GrantInvalidError, InvalidArgumentError
from ostnode.identity.claims import Claim
from ostnode.identity.tokens import Grant, mint_grant, open_grant
from ostnode.ids import SIZE_MAX, Principal
from tests.support.identity_tokens import (
    ALICE,
    BUCKET,
    GRANT,
    GRANT_CLAIMS,
    INDEX,
    NOW,
    sign_claims,
)

TYP = "ost-grant+cwt"


def opened(
    data: bytes,
    *,
    index: Principal = INDEX.principal,
    bucket: Principal = BUCKET.principal,
    bucket_incarnation: int = GRANT.bucket_incarnation,
    now: float = NOW,
) -> Grant:
    return open_grant(
        data,
        index=index,
        bucket=bucket,
        bucket_incarnation=bucket_incarnation,
        now=now,
        skew=60,
    )


@pytest.mark.parametrize(
    "grant",
    [
        GRANT,
        replace(GRANT, reserved=0),
        replace(GRANT, size=0, reserved=0),
        replace(GRANT, size=SIZE_MAX, reserved=SIZE_MAX),
    ],
    ids=["new", "already charged", "empty blob", "huge"],
)
def test_what_was_minted_is_what_opens(grant: Grant) -> None:
    assert opened(mint_grant(INDEX, grant)) == grant


def test_the_claims_are_those_of_the_table() -> None:
    assert mint_grant(INDEX, GRANT) == sign_claims(INDEX, TYP, GRANT_CLAIMS)


def test_a_grant_of_another_index_or_kind_is_refused() -> None:
    with pytest.raises(GrantInvalidError, match="another key"):
        opened(mint_grant(ALICE, replace(GRANT, index=ALICE.principal)))
    with pytest.raises(GrantInvalidError, match="it is no"):
        opened(sign_claims(INDEX, "ost-at+cwt", GRANT_CLAIMS))
    with pytest.raises(GrantInvalidError):
        opened(b"")
    with pytest.raises(InvalidArgumentError):
        mint_grant(ALICE, GRANT)


def test_a_grant_is_for_one_bucket_of_one_incarnation() -> None:
    data = mint_grant(INDEX, GRANT)
    with pytest.raises(GrantInvalidError, match="another bucket"):
        opened(data, bucket=ALICE.principal)
    with pytest.raises(GrantInvalidError, match="restored"):
        opened(data, bucket_incarnation=GRANT.bucket_incarnation + 1)


def test_a_grant_has_its_time() -> None:
    data = mint_grant(INDEX, GRANT)
    opened(data, now=NOW - 60)
    opened(data, now=NOW + 3600 + 59)
    with pytest.raises(GrantInvalidError, match="future"):
        opened(data, now=NOW - 61)
    with pytest.raises(GrantExpiredError, match="allocate again"):
        opened(data, now=NOW + 3600 + 60)


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        *((claim, None) for claim in GRANT_CLAIMS),
        (Claim.SUB, bytes(ALICE.principal)),
        (Claim.AUD, BUCKET.principal.hex()[:-2]),
        (Claim.CTI, bytes(15)),
        (Claim.BLOB, bytes(33)),
        (Claim.UID, bytes(7)),
        (Claim.SIZE, -1),
        (Claim.SIZE, SIZE_MAX + 1),
        (Claim.CHUNK_BYTES, 0),
        (Claim.RESERVED, 4_999_999),
        (Claim.RESERVED, False),
        (Claim.BUCKET_INCARNATION, "1"),
        (Claim.SCOPE, "read"),
    ],
)
def test_each_claim_has_its_type_and_no_other_may_be_there(claim: Claim, value: object) -> None:
    with pytest.raises(GrantInvalidError):
        opened(sign_claims(INDEX, TYP, {**GRANT_CLAIMS, claim: value}))
