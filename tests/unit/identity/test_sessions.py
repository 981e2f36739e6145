"""Logins and sessions: for one node, in time, and never one as the other."""

from __future__ import annotations

import pytest

from ostnode.errors import InvalidArgumentError, TokenExpiredError, TokenInvalidError
from ostnode.identity.claims import Claim
from ostnode.identity.tokens import (
    Login,
    Session,
    mint_login,
    mint_session,
    open_login,
    open_session,
)
from ostnode.ids import Principal
from tests.support.identity_tokens import (
    ALICE,
    BOB,
    BUCKET,
    INDEX,
    LIMITS,
    LOGIN,
    LOGIN_CLAIMS,
    NOW,
    SESSION,
    SESSION_CLAIMS,
    sign_claims,
)

LOGIN_TYP, SESSION_TYP = "ost-login+cwt", "ost-session+cwt"


def login_of(data: bytes, *, node: Principal = BUCKET.principal, now: float = NOW) -> Login:
    return open_login(data, nodes=[node], now=now, limits=LIMITS)


def session_of(data: bytes, *, node: Principal = BUCKET.principal, now: float = NOW) -> Session:
    return open_session(data, node=node, now=now)


def test_what_was_minted_is_what_opens() -> None:
    assert login_of(mint_login(ALICE, LOGIN)) == LOGIN
    assert session_of(mint_session(BUCKET, SESSION)) == SESSION


def test_the_claims_are_those_of_the_table() -> None:
    assert mint_login(ALICE, LOGIN) == sign_claims(ALICE, LOGIN_TYP, LOGIN_CLAIMS)
    assert mint_session(BUCKET, SESSION) == sign_claims(BUCKET, SESSION_TYP, SESSION_CLAIMS)


def test_a_login_names_whoever_signed_it() -> None:
    assert login_of(sign_claims(BOB, LOGIN_TYP, LOGIN_CLAIMS)).caller == BOB.principal


def test_a_login_to_another_node_is_refused() -> None:
    with pytest.raises(TokenInvalidError, match="another node"):
        login_of(mint_login(ALICE, LOGIN), node=INDEX.principal)


def test_a_login_is_good_for_a_minute_and_the_skew() -> None:
    data = mint_login(ALICE, LOGIN)
    login_of(data, now=NOW - 60)
    login_of(data, now=NOW + 119)
    with pytest.raises(TokenInvalidError, match="future"):
        login_of(data, now=NOW - 61)
    with pytest.raises(TokenExpiredError):
        login_of(data, now=NOW + 120)


def test_only_the_node_itself_gives_its_sessions() -> None:
    with pytest.raises(TokenInvalidError, match="another key"):
        session_of(sign_claims(ALICE, SESSION_TYP, SESSION_CLAIMS))
    with pytest.raises(TokenInvalidError, match="another key"):
        session_of(mint_session(BUCKET, SESSION), node=INDEX.principal)
    with pytest.raises(InvalidArgumentError):
        mint_session(ALICE, SESSION)


def test_a_session_says_for_which_node_it_is() -> None:
    claims = {**SESSION_CLAIMS, Claim.AUD: INDEX.principal.hex()}
    with pytest.raises(TokenInvalidError, match="another node"):
        session_of(sign_claims(BUCKET, SESSION_TYP, claims))


def test_a_session_ends_by_the_nodes_own_clock() -> None:
    data = mint_session(BUCKET, SESSION)
    session_of(data, now=NOW + 899.9)
    with pytest.raises(TokenExpiredError):
        session_of(data, now=NOW + 900)


def test_neither_can_be_shown_as_the_other() -> None:
    with pytest.raises(TokenInvalidError, match="it is no"):
        login_of(mint_session(BUCKET, SESSION))
    with pytest.raises(TokenInvalidError, match="it is no"):
        session_of(sign_claims(BUCKET, LOGIN_TYP, SESSION_CLAIMS))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        *((claim, None) for claim in LOGIN_CLAIMS),
        (Claim.AUD, bytes(BUCKET.principal)),
        (Claim.IAT, -1),
        (Claim.CTI, bytes(7)),
        (Claim.ORIGIN, "o" * 256),
        (Claim.EXP, NOW + 60),
    ],
)
def test_each_claim_of_a_login_is_checked(claim: Claim, value: object) -> None:
    with pytest.raises(TokenInvalidError):
        login_of(sign_claims(ALICE, LOGIN_TYP, {**LOGIN_CLAIMS, claim: value}))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        *((claim, None) for claim in SESSION_CLAIMS),
        (Claim.SUB, bytes(ALICE.principal)),
        (Claim.EXP, "soon"),
        (Claim.ORIGIN, b"origin"),
        (Claim.SCOPE, "read"),
    ],
)
def test_each_claim_of_a_session_is_checked(claim: Claim, value: object) -> None:
    with pytest.raises(TokenInvalidError):
        session_of(sign_claims(BUCKET, SESSION_TYP, {**SESSION_CLAIMS, claim: value}))
