"""Access tokens: an accessor's word that one caller may read, or delete, something of its chat."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ostnode.errors import InvalidArgumentError, TokenInvalidError
from ostnode.identity.claims import Claim, ClaimReader, confirmation, encode_claims
from ostnode.identity.keys import KeyPair
from ostnode.identity.statements import (
    CTI_BYTES_MAX,
    CTI_BYTES_MIN,
    TokenLimits,
    check_times,
    mint,
    open_claims,
)
from ostnode.ids import REF_ID_BYTES_MAX, BlobId, ClusterId, Principal, Uid

ACCESS_TYP: Final = "ost-at+cwt"
_SCOPE_CHARS_MAX: Final = 16


class Scope(StrEnum):
    """What a token allows. The deleting ones are single use."""

    READ = "read"
    REF_DEL = "ref.del"
    ACC_DEL = "acc.del"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token's claims. `caller` is the key in cnf: nobody else may use the token.

    read may be bound to a blob; ref.del names blob, owner and ref_id; acc.del names none of them.
    `cti` is unique among this accessor's tokens only: remember single uses under both.
    """

    accessor: Principal
    cluster: ClusterId
    caller: Principal
    scope: Scope
    issued_at: int
    expires_at: int
    cti: bytes
    blob: BlobId | None = None
    owner: Uid | None = None
    ref_id: bytes | None = None

    def require_read(self, blob_id: BlobId, caller: Principal) -> None:
        """Scope, blob, then caller; raises TokenInvalidError."""
        self._require_scope(Scope.READ)
        if self.blob not in {None, blob_id}:
            raise TokenInvalidError("the token is for another blob")
        self._require_caller(caller)

    def require_reference_deletion(
        self, blob_id: BlobId, owner: Uid, ref_id: bytes, caller: Principal
    ) -> None:
        """Scope, the reference named, then caller; raises TokenInvalidError."""
        self._require_scope(Scope.REF_DEL)
        if (self.blob, self.owner, self.ref_id) != (blob_id, owner, ref_id):
            raise TokenInvalidError("the token is for another reference")
        self._require_caller(caller)

    def require_accessor_deletion(self, caller: Principal) -> None:
        """Scope, then caller; raises TokenInvalidError."""
        self._require_scope(Scope.ACC_DEL)
        self._require_caller(caller)

    def _require_scope(self, scope: Scope) -> None:
        if self.scope is not scope:
            raise TokenInvalidError(f"the token's scope is {self.scope}, not {scope}")

    def _require_caller(self, caller: Principal) -> None:
        if self.caller != caller:
            raise TokenInvalidError("the token is for another caller")


def mint_access(key: KeyPair, token: AccessToken) -> bytes:
    """Sign a token with its accessor's key; InvalidArgumentError if it could never be opened."""
    problem = _target_problem(token)
    if problem:
        raise InvalidArgumentError(problem)
    claims = {
        Claim.AUD: str(token.cluster),
        Claim.EXP: token.expires_at,
        Claim.IAT: token.issued_at,
        Claim.CTI: token.cti,
        Claim.CNF: confirmation(token.caller),
        Claim.SCOPE: str(token.scope),
        Claim.BLOB: token.blob,
        Claim.OWNER: token.owner,
        Claim.REF_ID: token.ref_id,
    }
    return mint(key, token.accessor, ACCESS_TYP, encode_claims(claims))


def open_access(
    data: bytes, *, accessor: Principal, cluster: ClusterId, now: float, limits: TokenLimits
) -> AccessToken:
    """The token's claims, once everything that the request does not decide is checked.

    In this order: size, form, signed by this accessor, signature, type, cluster, times. What is
    left to the caller: the token's `require_…` for the request, then the accessor not burned and
    the reference present. Raises TokenInvalidError or TokenExpiredError.
    """
    signer, claims = open_claims(data, ACCESS_TYP, accessor)
    token = _read(signer, claims)
    if token.cluster != cluster:
        raise TokenInvalidError("it is for another cluster")
    reading = token.scope is Scope.READ
    check_times(
        token.issued_at,
        token.expires_at,
        ttl_max_s=limits.read_token_ttl_max_s if reading else limits.delete_token_ttl_max_s,
        now=now,
        skew_s=limits.skew_s,
    )
    problem = _target_problem(token)
    if problem:
        raise TokenInvalidError(problem)
    return token


def _read(accessor: Principal, claims: ClaimReader) -> AccessToken:
    blob, owner, ref_id = None, None, None
    if claims.has(Claim.BLOB):
        blob = claims.identifier(Claim.BLOB, BlobId)
    if claims.has(Claim.OWNER):
        owner = claims.identifier(Claim.OWNER, Uid)
    if claims.has(Claim.REF_ID):
        ref_id = claims.data(Claim.REF_ID, low=0, high=REF_ID_BYTES_MAX)
    token = AccessToken(
        accessor=accessor,
        cluster=claims.party(Claim.AUD, ClusterId),
        caller=claims.holder(),
        scope=_scope(claims),
        issued_at=claims.integer(Claim.IAT),
        expires_at=claims.integer(Claim.EXP),
        cti=claims.data(Claim.CTI, low=CTI_BYTES_MIN, high=CTI_BYTES_MAX),
        blob=blob,
        owner=owner,
        ref_id=ref_id,
    )
    claims.finish()
    return token


def _scope(claims: ClaimReader) -> Scope:
    text = claims.text(Claim.SCOPE, chars_max=_SCOPE_CHARS_MAX)
    try:
        return Scope(text)
    except ValueError:
        raise TokenInvalidError("the token's scope is unknown") from None


def _target_problem(token: AccessToken) -> str:
    """Why the scope and what the token names do not go together; empty if they do."""
    whole = (token.blob is not None, token.owner is not None, token.ref_id is not None)
    if token.ref_id is not None and len(token.ref_id) > REF_ID_BYTES_MAX:
        return f"a ref_id has at most {REF_ID_BYTES_MAX} bytes"
    if token.scope is Scope.REF_DEL:
        return "" if all(whole) else "a ref.del token names blob, owner and ref_id"
    if token.scope is Scope.ACC_DEL:
        return "an acc.del token names nothing but the accessor" if any(whole) else ""
    return "a read token names at most a blob" if any(whole[1:]) else ""
