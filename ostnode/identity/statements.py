"""What every signed statement goes through: its text form, its envelope and its times."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from ostnode.base64url import decode_base64url, encode_base64url
from ostnode.errors import InvalidArgumentError, TokenExpiredError, TokenInvalidError
from ostnode.identity.claims import ClaimReader
from ostnode.identity.cose import TOKEN_BYTES_MAX, parse_sign1, sign1
from ostnode.identity.keys import KeyPair
from ostnode.ids import Principal

CTI_BYTES: Final = 16
"""What is minted here; others may choose within the limits."""
CTI_BYTES_MIN: Final = 8
CTI_BYTES_MAX: Final = 32
ORIGIN_CHARS_MAX: Final = 255
TOKEN_CHARS_MAX: Final = (TOKEN_BYTES_MAX * 4 + 2) // 3


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """How long statements may live and how far apart clocks may be, in seconds."""

    read_token_ttl_max_s: int = 3600
    delete_token_ttl_max_s: int = 60
    session_ttl_s: int = 900
    login_ttl_s: int = 60
    skew_s: int = 60


def encode_text(token: bytes) -> str:
    """A token for a URL, header or JSON: base64url without padding."""
    return encode_base64url(token)


def decode_text(text: str) -> bytes:
    """The token of its one text form; raises TokenInvalidError for any other text."""
    if len(text) > TOKEN_CHARS_MAX:
        raise TokenInvalidError(f"a token has at most {TOKEN_CHARS_MAX} characters")
    try:
        return decode_base64url(text)
    except InvalidArgumentError:
        raise TokenInvalidError("a token is base64url without padding, in its one form") from None


def mint(key: KeyPair, signer: Principal, typ: str, payload: bytes) -> bytes:
    """Sign claims; raises InvalidArgumentError if the key is not the signer's."""
    if key.principal != signer:
        raise InvalidArgumentError("the statement names another signer than this key")
    return sign1(key, typ, payload)


def open_claims(
    data: bytes, typ: str, signer: Principal | Collection[Principal] | None
) -> tuple[Principal, ClaimReader]:
    """The signer and the claims of a statement of this type that its signer did sign.

    Checks in this order: size, form, signer (one of these; None: whoever it names), signature,
    type. Raises TokenInvalidError.
    """
    statement = parse_sign1(data)
    signers = (signer,) if isinstance(signer, Principal) else signer
    if signers is not None and statement.kid not in signers:
        raise TokenInvalidError("it is signed by another key")
    if not statement.verified():
        raise TokenInvalidError("its signature is wrong")
    if statement.typ != typ:
        raise TokenInvalidError(f"it is no {typ}")
    return statement.kid, ClaimReader(statement.payload)


def check_times(
    issued_at: int, expires_at: int, *, ttl_max_s: int, now: float, skew_s: int
) -> None:
    """Raise TokenInvalidError for times no honest signer writes, TokenExpiredError when over."""
    if not 0 < expires_at - issued_at <= ttl_max_s:
        raise TokenInvalidError(f"it must live between 1 and {ttl_max_s} seconds")
    if issued_at > now + skew_s:
        raise TokenInvalidError("it is issued in the future: is a clock wrong?")
    if now >= expires_at + skew_s:
        raise TokenExpiredError("its time is over")
