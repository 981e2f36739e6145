"""Access tokens: B17's half that is about the token, each condition violated alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostnode.codec import encode_cose
from ostnode.errors import InvalidArgumentError, TokenExpiredError, TokenInvalidError
from ostnode.identity.claims import Claim, confirmation
from ostnode.identity.cose import sign1
from ostnode.identity.tokens import AccessToken, Scope, TokenLimits, mint_access, open_access
from ostnode.ids import ClusterId, Principal, Uid
from tests.support.identity_tokens import (
    ALICE,
    BLOB,
    BOB,
    CLUSTER,
    GENERAL,
    LIMITS,
    NOW,
    OTHER_BLOB,
    OWNER,
    READ,
    READ_CLAIMS,
    sign_claims,
)

TYP = "ost-at+cwt"
REF_DEL = replace(
    READ, scope=Scope.REF_DEL, expires_at=NOW + 60, blob=BLOB, owner=OWNER, ref_id=b"m1"
)
ACC_DEL = replace(READ, scope=Scope.ACC_DEL, expires_at=NOW + 60)


def opened(
    data: bytes,
    *,
    accessor: Principal = GENERAL.principal,
    cluster: ClusterId = CLUSTER,
    now: float = NOW,
    limits: TokenLimits = LIMITS,
) -> AccessToken:
    return open_access(data, accessor=accessor, cluster=cluster, now=now, limits=limits)


@pytest.mark.parametrize(
    "token",
    [READ, replace(READ, blob=BLOB), REF_DEL, replace(REF_DEL, ref_id=b""), ACC_DEL],
    ids=["read", "read one blob", "ref.del", "ref.del of the empty ref_id", "acc.del"],
)
def test_what_was_minted_is_what_opens(token: AccessToken) -> None:
    assert opened(mint_access(GENERAL, token)) == token


def test_a_read_token_fits_a_url() -> None:
    assert len(mint_access(GENERAL, replace(READ, blob=BLOB))) < 300


def test_b17_a_token_signed_by_another_key_is_refused() -> None:
    mallory = mint_access(ALICE, replace(READ, accessor=ALICE.principal))
    with pytest.raises(TokenInvalidError, match="another key"):
        opened(mallory)


def test_b17_a_token_that_names_the_accessor_but_is_not_signed_by_it_is_refused() -> None:
    protected = encode_cose({1: -19, 4: bytes(GENERAL.principal), 16: TYP})
    payload = encode_cose(READ_CLAIMS)
    signature = ALICE.sign(encode_cose(["Signature1", protected, b"", payload]))
    with pytest.raises(TokenInvalidError, match="signature"):
        opened(encode_cose([protected, {}, payload, signature], tag=18))


def test_b17_a_statement_of_another_type_is_refused() -> None:
    for typ in ("ost-login+cwt", "ost-session+cwt", "ost-grant+cwt", "OST-AT+CWT", ""):
        with pytest.raises(TokenInvalidError, match="it is no"):
            opened(sign_claims(GENERAL, typ, READ_CLAIMS))


def test_b17_a_token_for_another_cluster_is_refused() -> None:
    with pytest.raises(TokenInvalidError, match="another cluster"):
        opened(mint_access(GENERAL, READ), cluster=ClusterId(bytes(16)))


def test_b17_a_token_ends_at_its_end_and_the_skew() -> None:
    token = mint_access(GENERAL, READ)
    opened(token, now=NOW + 600 + 59.9)
    with pytest.raises(TokenExpiredError):
        opened(token, now=NOW + 600 + 60)


def test_b17_a_token_from_the_future_is_refused_beyond_the_skew() -> None:
    token = mint_access(GENERAL, READ)
    opened(token, now=NOW - 60)
    with pytest.raises(TokenInvalidError, match="future"):
        opened(token, now=NOW - 60.1)


@pytest.mark.parametrize(
    ("token", "life_max"), [(READ, 3600), (REF_DEL, 60), (ACC_DEL, 60)], ids=str
)
def test_b17_a_token_that_would_live_too_long_is_refused(token: AccessToken, life_max: int) -> None:
    opened(mint_access(GENERAL, replace(token, expires_at=NOW + life_max)))
    for life in (life_max + 1, 0, -1):
        with pytest.raises(TokenInvalidError, match="must live"):
            opened(mint_access(GENERAL, replace(token, expires_at=NOW + life)))


def test_b17_a_token_of_another_scope_does_not_read() -> None:
    for token in (REF_DEL, ACC_DEL):
        with pytest.raises(TokenInvalidError, match="scope"):
            opened(mint_access(GENERAL, token)).require_read(BLOB, BOB.principal)


def test_b17_a_token_bound_to_a_blob_reads_no_other() -> None:
    bound = opened(mint_access(GENERAL, replace(READ, blob=BLOB)))
    bound.require_read(BLOB, BOB.principal)
    with pytest.raises(TokenInvalidError, match="another blob"):
        bound.require_read(OTHER_BLOB, BOB.principal)
    opened(mint_access(GENERAL, READ)).require_read(OTHER_BLOB, BOB.principal)


def test_b17_a_token_is_for_the_caller_it_names() -> None:
    with pytest.raises(TokenInvalidError, match="another caller"):
        opened(mint_access(GENERAL, READ)).require_read(BLOB, ALICE.principal)


def test_a_reference_deletion_is_for_exactly_the_reference_it_names() -> None:
    token = opened(mint_access(GENERAL, REF_DEL))
    token.require_reference_deletion(BLOB, OWNER, b"m1", BOB.principal)
    for blob, owner, ref_id in (
        (OTHER_BLOB, OWNER, b"m1"),
        (BLOB, Uid(bytes(8)), b"m1"),
        (BLOB, OWNER, b"m2"),
    ):
        with pytest.raises(TokenInvalidError, match="another reference"):
            token.require_reference_deletion(blob, owner, ref_id, BOB.principal)
    with pytest.raises(TokenInvalidError, match="another caller"):
        token.require_reference_deletion(BLOB, OWNER, b"m1", ALICE.principal)
    with pytest.raises(TokenInvalidError, match="scope"):
        opened(mint_access(GENERAL, READ)).require_reference_deletion(
            BLOB, OWNER, b"m1", BOB.principal
        )


def test_an_accessor_deletion_needs_its_scope_and_its_caller() -> None:
    token = opened(mint_access(GENERAL, ACC_DEL))
    token.require_accessor_deletion(BOB.principal)
    with pytest.raises(TokenInvalidError, match="another caller"):
        token.require_accessor_deletion(ALICE.principal)
    with pytest.raises(TokenInvalidError, match="scope"):
        opened(mint_access(GENERAL, READ)).require_accessor_deletion(BOB.principal)


def test_a_ref_id_that_is_too_long_is_not_minted() -> None:
    mint_access(GENERAL, replace(REF_DEL, ref_id=bytes(16)))
    with pytest.raises(InvalidArgumentError, match="at most 16 bytes"):
        mint_access(GENERAL, replace(REF_DEL, ref_id=bytes(17)))


@pytest.mark.parametrize(
    "token",
    [
        replace(READ, owner=OWNER),
        replace(READ, ref_id=b""),
        replace(REF_DEL, blob=None),
        replace(REF_DEL, owner=None),
        replace(REF_DEL, ref_id=None),
        replace(ACC_DEL, blob=BLOB),
    ],
    ids=str,
)
def test_scope_and_target_go_together_when_minted_and_when_opened(token: AccessToken) -> None:
    with pytest.raises(InvalidArgumentError, match="token names"):
        mint_access(GENERAL, token)
    claims = {
        **READ_CLAIMS,
        Claim.SCOPE: str(token.scope),
        Claim.EXP: token.expires_at,
        Claim.BLOB: token.blob,
        Claim.OWNER: token.owner,
        Claim.REF_ID: token.ref_id,
    }
    with pytest.raises(TokenInvalidError, match="token names"):
        opened(sign_claims(GENERAL, TYP, claims))


COSE_KEY = {1: 1, -1: 6, -2: bytes(BOB.principal)}
WRONG_CLAIMS = {
    "aud": [None, b"c" * 16, "c", CLUSTER.hex().upper(), [CLUSTER.hex()]],
    "exp": [None, "1", True, -1, 1 << 63],
    "iat": [None, "1", -1, 1 << 63],
    "cti": [None, b"1234567", b"c" * 33, "0123456789abcdef"],
    "cnf": [
        None,
        bytes(BOB.principal),
        {},
        {1: COSE_KEY, 3: b"kid"},
        {3: b"kid"},
        {1: {**COSE_KEY, 1: True}},
        {1: {**COSE_KEY, 1: 2}},
        {1: {**COSE_KEY, -1: 4}},
        {1: {**COSE_KEY, -2: bytes(31)}},
        {1: {**COSE_KEY, -4: b"private"}},
        {1: {1: 1, -1: 6}},
    ],
    "scope": [None, "write", "READ", "read ref.del", b"read", ["read"], "r" * 17, ""],
    "blob": [bytes(31), BLOB.hex()],
    "owner": [bytes(7), 1],
    "ref_id": [bytes(17), "m1"],
    "size": [0],
}


@pytest.mark.parametrize(
    ("claim", "value"),
    [(Claim[name.upper()], value) for name, values in WRONG_CLAIMS.items() for value in values],
)
def test_each_claim_has_its_type_and_no_other_may_be_there(claim: Claim, value: object) -> None:
    opened(sign_claims(GENERAL, TYP, READ_CLAIMS))
    with pytest.raises(TokenInvalidError):
        opened(sign_claims(GENERAL, TYP, {**READ_CLAIMS, claim: value}))


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\xa1\x03", b"\xa0\x00", b"\x01"])
def test_a_payload_that_is_no_set_of_claims_is_refused(payload: bytes) -> None:
    with pytest.raises(TokenInvalidError):
        opened(sign1(GENERAL, TYP, payload))


def test_a_claim_under_a_text_key_is_refused() -> None:
    payload = encode_cose({**READ_CLAIMS, "admin": True})
    with pytest.raises(TokenInvalidError, match="does not belong"):
        opened(sign1(GENERAL, TYP, payload))


def test_the_key_must_be_the_accessors() -> None:
    with pytest.raises(InvalidArgumentError):
        mint_access(ALICE, READ)


def test_b17_checks_come_in_the_order_of_the_specification() -> None:
    """Each step's fault is told although every later step's is there too.

    So nothing about the claims of a statement is looked at before its signature is good.
    """
    late_claims = {**READ_CLAIMS, Claim.AUD: "0" * 32, Claim.EXP: NOW - 600, Claim.IAT: NOW - 900}
    stale = {**late_claims, Claim.AUD: CLUSTER.hex()}
    protected = encode_cose({1: -19, 4: bytes(GENERAL.principal), 16: "x"})
    forged = encode_cose([protected, {}, b"", bytes(64)], tag=18)
    foreign = encode_cose(
        [encode_cose({1: -19, 4: bytes(ALICE.principal), 16: "x"}), {}, b"", bytes(64)], tag=18
    )
    steps = [
        (foreign + bytes(2000), "at most"),
        (foreign + b"\0", "not strict CBOR"),
        (foreign, "another key"),
        (forged, "signature"),
        (sign1(GENERAL, "x", b""), "it is no"),
        (sign1(GENERAL, TYP, b""), "malformed"),
        (sign_claims(GENERAL, TYP, late_claims), "another cluster"),
        (sign_claims(GENERAL, TYP, {**stale, Claim.OWNER: bytes(OWNER)}), "time is over"),
        (
            sign_claims(GENERAL, TYP, {**READ_CLAIMS, Claim.OWNER: bytes(OWNER)}),
            "names at most a blob",
        ),
    ]
    for data, message in steps:
        with pytest.raises((TokenInvalidError, TokenExpiredError), match=message):
            opened(data)


def test_the_holders_key_is_a_cose_key() -> None:
    assert confirmation(BOB.principal) == {1: {1: 1, -1: 6, -2: bytes(BOB.principal)}}
