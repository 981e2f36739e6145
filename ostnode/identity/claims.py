"""The claim keys of our CWTs (RFC 8392), and strict reading of a set of claims.

Registered claims keep their registered types: `aud` and `sub` are text, here the lower-case hex
digits of the 32 (a principal) or 16 (a cluster) bytes; times are whole seconds. Private claims
use the private-use range below -65536 and are listed here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, TypeVar

from ostnode.codec import CoseValue, decode_cose, encode_cose
from ostnode.errors import InvalidArgumentError, TokenInvalidError
from ostnode.ids import SIZE_MAX, BlobId, ClusterId, GrantId, Principal, Uid


class Claim(IntEnum):
    """Claim keys: IANA's CWT registry, then ours."""

    SUB = 2
    AUD = 3
    EXP = 4
    IAT = 6
    CTI = 7
    CNF = 8
    SCOPE = 9
    BLOB = -65537
    UID = -65538
    SIZE = -65539
    CHUNK_BYTES = -65540
    OWNER = -65541
    REF_ID = -65542
    ACCESSOR = -65543
    RESERVED = -65544
    BUCKET_INCARNATION = -65545
    ORIGIN = -65546


IdT = TypeVar("IdT", BlobId, ClusterId, GrantId, Principal, Uid)

_COSE_KEY: Final = 1
"""The member of cnf that holds a COSE_Key (RFC 8747 section 3.1)."""
_KTY, _CRV, _X = 1, -1, -2
_OKP, _ED25519 = 1, 6


def encode_claims(claims: Mapping[Claim, object]) -> bytes:
    """The CWT claims set, without the claims whose value is None."""
    return encode_cose({int(key): value for key, value in claims.items() if value is not None})


def confirmation(caller: Principal) -> dict[int, dict[int, object]]:
    """The value of cnf: whoever shows this must be the holder of that key (RFC 8747)."""
    return {_COSE_KEY: {_KTY: _OKP, _CRV: _ED25519, _X: bytes(caller)}}


class ClaimReader:
    """Takes claims out one by one, each with its exact type and limits.

    Every method raises TokenInvalidError; `finish` does so when a claim was not asked for.
    """

    def __init__(self, payload: bytes) -> None:
        try:
            claims = decode_cose(payload)
        except InvalidArgumentError as error:
            raise TokenInvalidError(f"the claims are malformed: {error.message}") from None
        if not isinstance(claims, dict):
            raise TokenInvalidError("the claims are not a map")
        self._claims = claims

    def has(self, claim: Claim) -> bool:
        """Whether the claim is there and not yet taken."""
        return claim in self._claims

    def integer(self, claim: Claim) -> int:
        """An integer that fits a signed 64-bit column and is not negative."""
        value = self._take(claim)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= SIZE_MAX:
            raise _wrong(claim)
        return value

    def text(self, claim: Claim, *, chars_max: int) -> str:
        """A text of at most that many characters."""
        value = self._take(claim)
        if not isinstance(value, str) or len(value) > chars_max:
            raise _wrong(claim)
        return value

    def data(self, claim: Claim, *, low: int, high: int) -> bytes:
        """Bytes of a length within the limits."""
        value = self._take(claim)
        if not isinstance(value, bytes) or not low <= len(value) <= high:
            raise _wrong(claim)
        return value

    def identifier(self, claim: Claim, kind: type[IdT]) -> IdT:
        """An id, as bytes."""
        return kind(self.data(claim, low=kind.length, high=kind.length))

    def party(self, claim: Claim, kind: type[IdT]) -> IdT:
        """An id, as hex text: who a registered claim (aud, sub) speaks of."""
        try:
            return kind.from_hex(self.text(claim, chars_max=2 * kind.length))
        except InvalidArgumentError:
            raise _wrong(claim) from None

    def holder(self) -> Principal:
        """The key in cnf."""
        match self._take(Claim.CNF):
            case {1: {1: 1 as kty, -1: 6, -2: bytes(key), **others}, **more}:
                # True == 1 in Python, but not in CBOR.
                exact = not others and not more and kty is not True
                if exact and len(key) == Principal.length:
                    return Principal(key)
            case _:
                pass
        raise _wrong(Claim.CNF)

    def finish(self) -> None:
        """Refuse claims that this kind of statement does not have."""
        if self._claims:
            raise TokenInvalidError("it makes a claim that does not belong here")

    def _take(self, claim: Claim) -> CoseValue:
        if claim not in self._claims:
            raise TokenInvalidError(f"it lacks the claim {claim.name.lower()}")
        return self._claims.pop(claim)


def _wrong(claim: Claim) -> TokenInvalidError:
    return TokenInvalidError(f"the claim {claim.name.lower()} is not what it should be")
