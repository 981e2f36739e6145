"""Ids and statements under arbitrary input: they round-trip, or they are refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostnode.errors import OstError, TokenInvalidError
from ostnode.identity.cose import parse_sign1
from ostnode.identity.tokens import (
    AccessToken,
    Scope,
    TokenLimits,
    decode_text,
    encode_text,
    mint_access,
    open_access,
)
from ostnode.ids import BlobId, ClusterId, Principal, PrincipalKind, Uid
from tests.support.identity_tokens import BOB, CLUSTER, GENERAL, NOW, READ

TOKEN = mint_access(GENERAL, READ)
LIMITS = TokenLimits()


@st.composite
def access_tokens(draw: st.DrawFn) -> AccessToken:
    scope = draw(st.sampled_from(Scope))
    life_max = 3600 if scope is Scope.READ else 60
    blobs = st.binary(min_size=32, max_size=32).map(BlobId)
    blob = None
    if scope is Scope.REF_DEL or (scope is Scope.READ and draw(st.booleans())):
        blob = draw(blobs)
    owns = scope is Scope.REF_DEL
    return AccessToken(
        accessor=GENERAL.principal,
        cluster=draw(st.binary(min_size=16, max_size=16).map(ClusterId)),
        caller=draw(st.binary(min_size=32, max_size=32).map(Principal)),
        scope=scope,
        issued_at=NOW,
        expires_at=NOW + draw(st.integers(1, life_max)),
        cti=draw(st.binary(min_size=8, max_size=32)),
        blob=blob,
        owner=draw(st.binary(min_size=8, max_size=8).map(Uid)) if owns else None,
        ref_id=draw(st.binary(max_size=16)) if owns else None,
    )


@given(access_tokens())
def test_every_access_token_comes_back_as_it_was(token: AccessToken) -> None:
    data = mint_access(GENERAL, token)
    assert len(data) <= 1024
    again = open_access(
        decode_text(encode_text(data)),
        accessor=GENERAL.principal,
        cluster=token.cluster,
        now=NOW,
        limits=LIMITS,
    )
    assert again == token


@given(st.integers(0, len(TOKEN) * 8 - 1))
def test_no_bit_of_a_token_can_be_changed(bit: int) -> None:
    changed = bytearray(TOKEN)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(TokenInvalidError):
        open_access(
            bytes(changed),
            accessor=GENERAL.principal,
            cluster=CLUSTER,
            now=NOW,
            limits=LIMITS,
        )


@given(
    st.one_of(st.binary(max_size=1100), st.binary(max_size=64).map(lambda end: TOKEN[:-64] + end))
)
def test_arbitrary_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with suppress(TokenInvalidError):
        assert not parse_sign1(data).verified()


@given(st.text(max_size=80))
def test_arbitrary_text_is_one_tokens_text_or_refused(text: str) -> None:
    try:
        token = decode_text(text)
    except TokenInvalidError:
        return
    assert encode_text(token) == text


@given(st.binary(min_size=32, max_size=32).map(Principal), st.sampled_from(PrincipalKind))
def test_every_principal_has_one_text(principal: Principal, kind: PrincipalKind) -> None:
    text = principal.text(kind)
    assert Principal.parse(text, kind) == principal


@given(st.text(max_size=70), st.integers(0, 62), st.characters())
def test_a_principals_text_is_canonical_or_refused(text: str, position: int, char: str) -> None:
    known = BOB.principal.text(PrincipalKind.USER)
    for candidate in (text, known[:position] + char + known[position + 1 :]):
        try:
            principal = Principal.parse(candidate)
        except OstError:
            continue
        assert principal.text(PrincipalKind(candidate[:3])) == candidate
