"""Logins and sessions: how a caller proves itself to one node over HTTP.

A login is the caller's own statement, good once and for a minute; the node answers it with a
session, its own statement to itself, so a session is worth nothing at any other node.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from ostnode.errors import TokenExpiredError, TokenInvalidError
from ostnode.identity.claims import Claim, encode_claims
from ostnode.identity.keys import KeyPair
from ostnode.identity.statements import (
    CTI_BYTES_MAX,
    CTI_BYTES_MIN,
    ORIGIN_CHARS_MAX,
    TokenLimits,
    check_times,
    mint,
    open_claims,
)
from ostnode.ids import Principal

SESSION_TYP: Final = "ost-session+cwt"
LOGIN_TYP: Final = "ost-login+cwt"


@dataclass(frozen=True, slots=True)
class Login:
    """`caller` asks `node` for a session, from a page of `origin` (empty outside a browser)."""

    caller: Principal
    node: Principal
    origin: str
    issued_at: int
    cti: bytes


@dataclass(frozen=True, slots=True)
class Session:
    """`node` remembers that `caller` proved itself, until `expires_at` (seconds since 1970)."""

    caller: Principal
    node: Principal
    expires_at: int
    origin: str


def mint_login(key: KeyPair, login: Login) -> bytes:
    """Sign a login with the caller's key."""
    claims = {
        Claim.AUD: str(login.node),
        Claim.IAT: login.issued_at,
        Claim.CTI: login.cti,
        Claim.ORIGIN: login.origin,
    }
    return mint(key, login.caller, LOGIN_TYP, encode_claims(claims))


def open_login(
    data: bytes, *, nodes: Collection[Principal], now: float, limits: TokenLimits
) -> Login:
    """The claims of a login to a node that goes by one of these, signed by the caller it names.

    Left to the caller: `(caller, cti)` not seen before (remember it until `issued_at` +
    login_ttl_s + skew_s), issued after the process started, and the origin. Raises
    TokenInvalidError or TokenExpiredError.
    """
    signer, claims = open_claims(data, LOGIN_TYP, None)
    login = Login(
        caller=signer,
        node=claims.party(Claim.AUD, Principal),
        origin=claims.text(Claim.ORIGIN, chars_max=ORIGIN_CHARS_MAX),
        issued_at=claims.integer(Claim.IAT),
        cti=claims.data(Claim.CTI, low=CTI_BYTES_MIN, high=CTI_BYTES_MAX),
    )
    claims.finish()
    if login.node not in nodes:
        raise TokenInvalidError("it is for another node")
    check_times(
        login.issued_at,
        login.issued_at + limits.login_ttl_s,
        ttl_max_s=limits.login_ttl_s,
        now=now,
        skew_s=limits.skew_s,
    )
    return login


def mint_session(key: KeyPair, session: Session) -> bytes:
    """Sign a session with the node's key."""
    claims = {
        Claim.SUB: str(session.caller),
        Claim.AUD: str(session.node),
        Claim.EXP: session.expires_at,
        Claim.ORIGIN: session.origin,
    }
    return mint(key, session.node, SESSION_TYP, encode_claims(claims))


def open_session(data: bytes, *, node: Principal, now: float) -> Session:
    """The claims of a session this node gave; its own clock wrote the end, so no skew.

    Raises TokenInvalidError or TokenExpiredError.
    """
    signer, claims = open_claims(data, SESSION_TYP, node)
    session = Session(
        caller=claims.party(Claim.SUB, Principal),
        node=signer,
        expires_at=claims.integer(Claim.EXP),
        origin=claims.text(Claim.ORIGIN, chars_max=ORIGIN_CHARS_MAX),
    )
    audience = claims.party(Claim.AUD, Principal)
    claims.finish()
    if audience != node:
        raise TokenInvalidError("it is for another node")
    if now >= session.expires_at:
        raise TokenExpiredError("the session is over; log in again")
    return session
