"""COSE_Sign1 (RFC 9052 section 4.2) with one algorithm: Ed25519 (alg -19, RFC 9864).

    18([ << {1: -19, 4: kid, 16: typ} >>, {}, << payload >>, signature ])

The protected header has exactly these three parameters, the unprotected header none: what is not
signed cannot be told apart from what an attacker added. `kid` is the signer's 32-byte key itself,
`typ` (RFC 9596) says what the statement is for, so that none can be shown as another. Encodings
are deterministic (RFC 8949 section 4.2.1) and nothing else is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ostnode.codec import (
    COSE_SIGN1_TAG,
    array_head,
    decode_cose,
    encode_cose,
    encoded_bytes,
    encoded_text,
)
from ostnode.errors import InvalidArgumentError, TokenInvalidError
from ostnode.identity.keys import SIGNATURE_BYTES, KeyPair, verify
from ostnode.ids import Principal

TOKEN_BYTES_MAX: Final = 1024
"""The largest of ours, a grant, has about 350 bytes."""
ALG_ED25519: Final = -19
_SIG_STRUCTURE_FRONT: Final = array_head(4) + encoded_text("Signature1")
_NO_EXTERNAL_DATA: Final = b""
_ALG, _KID, _TYP = 1, 4, 16
_HEADERS_REMEMBERED_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Sign1:
    """A decoded COSE_Sign1. Nothing in it is true before `verified`."""

    typ: str
    kid: Principal
    protected: bytes
    payload: bytes
    signature: bytes

    def verified(self) -> bool:
        """Whether the key named by `kid` signed this."""
        return verify(self.kid, _to_be_signed(self.protected, self.payload), self.signature)


def sign1(key: KeyPair, typ: str, payload: bytes) -> bytes:
    """The payload signed by the key, as tagged COSE_Sign1."""
    protected = _protected(key.principal, typ)
    signature = key.sign(_to_be_signed(protected, payload))
    return encode_cose([protected, {}, payload, signature], tag=COSE_SIGN1_TAG)


def parse_sign1(data: bytes, *, bytes_max: int = TOKEN_BYTES_MAX) -> Sign1:
    """Decode without believing; raises TokenInvalidError for anything but the one form above."""
    if len(data) > bytes_max:
        raise TokenInvalidError(f"a token has at most {bytes_max} bytes")
    try:
        return _parsed(data)
    except InvalidArgumentError as error:
        raise TokenInvalidError(f"not a token: {error.message}") from None


def _parsed(data: bytes) -> Sign1:
    match decode_cose(data, tag=COSE_SIGN1_TAG):
        case [bytes(protected), {**unprotected}, bytes(payload), bytes(signature)]:
            pass
        case _:
            raise InvalidArgumentError("it is no COSE_Sign1")
    if unprotected or len(signature) != SIGNATURE_BYTES:
        raise InvalidArgumentError("it has unsigned headers or a signature of another length")
    match decode_cose(protected):
        case {1: -19, 4: bytes(kid), 16: str(typ), **others} if not others:
            return Sign1(typ, Principal(kid), protected, payload, signature)
        case _:
            raise InvalidArgumentError("its header is not exactly Ed25519, kid and typ")


@lru_cache(maxsize=_HEADERS_REMEMBERED_MAX)
def _protected(kid: Principal, typ: str) -> bytes:
    """The protected header; an index signs thousands of grants a second under one."""
    return encode_cose({_ALG: ALG_ED25519, _KID: bytes(kid), _TYP: typ})


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    """Sig_structure (RFC 9052 section 4.4)."""
    parts = (encoded_bytes(protected), encoded_bytes(_NO_EXTERNAL_DATA), encoded_bytes(payload))
    return _SIG_STRUCTURE_FRONT + b"".join(parts)
