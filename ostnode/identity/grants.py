"""Grants: the index's word that one uid may put one blob of one size into one bucket, once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from ostnode.errors import (
    GrantExpiredError,
    GrantInvalidError,
    TokenExpiredError,
    TokenInvalidError,
)
from ostnode.identity.claims import Claim, ClaimReader, encode_claims
from ostnode.identity.keys import KeyPair
from ostnode.identity.statements import check_times, mint, open_claims
from ostnode.ids import SIZE_MAX, BlobId, GrantId, Principal, Uid

GRANT_TYP: Final = "ost-grant+cwt"


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant's claims: sizes in bytes, times in seconds since 1970.

    `reserved` is what the index holds back for it: 0 or `size`. The index incarnation is in
    `grant_id`; a bucket compares it with the one it is fed by.
    """

    grant_id: GrantId
    index: Principal
    bucket: Principal
    bucket_incarnation: int
    user: Principal
    uid: Uid
    blob_id: BlobId
    size: int
    chunk_bytes: int
    reserved: int
    issued_at: int
    expires_at: int


def mint_grant(key: KeyPair, grant: Grant) -> bytes:
    """Sign a grant with its index's key."""
    claims = {
        Claim.SUB: str(grant.user),
        Claim.AUD: str(grant.bucket),
        Claim.EXP: grant.expires_at,
        Claim.IAT: grant.issued_at,
        Claim.CTI: grant.grant_id,
        Claim.BLOB: grant.blob_id,
        Claim.UID: grant.uid,
        Claim.SIZE: grant.size,
        Claim.CHUNK_BYTES: grant.chunk_bytes,
        Claim.RESERVED: grant.reserved,
        Claim.BUCKET_INCARNATION: grant.bucket_incarnation,
    }
    return mint(key, grant.index, GRANT_TYP, encode_claims(claims))


def open_grant(
    data: bytes,
    *,
    index: Principal | Collection[Principal],
    bucket: Principal,
    bucket_incarnation: int,
    now: float,
    skew: int,
) -> Grant:
    """The claims of a grant that this index gave for this bucket, as it is now.

    Left to the caller: what `read_grant` leaves to it, but the bucket. Raises GrantInvalidError or
    GrantExpiredError.
    """
    grant = read_grant(data, index=index, now=now, skew=skew)
    if grant.bucket != bucket:
        raise GrantInvalidError("the grant: it is for another bucket")
    if grant.bucket_incarnation != bucket_incarnation:
        raise GrantInvalidError("the grant: it is for this bucket before it was restored")
    return grant


def read_grant(
    data: bytes, *, index: Principal | Collection[Principal], now: float, skew: int
) -> Grant:
    """The claims of a grant that this index gave for some bucket.

    While its keys change an index has more than one.

    Left to the caller: the bucket and its incarnation, the index's incarnation, that the user is
    the caller, the floor, and that the grant is not closed. Raises GrantInvalidError or
    GrantExpiredError.
    """
    try:
        grant = _read(*open_claims(data, GRANT_TYP, index))
        # How long a grant lives is the index's own affair.
        check_times(grant.issued_at, grant.expires_at, ttl_max_s=SIZE_MAX, now=now, skew_s=skew)
    except TokenExpiredError as error:
        raise GrantExpiredError(f"the grant: {error.message}; allocate again") from None
    except TokenInvalidError as error:
        raise GrantInvalidError(f"the grant: {error.message}") from None
    return grant


def _read(index: Principal, claims: ClaimReader) -> Grant:
    grant = Grant(
        grant_id=claims.identifier(Claim.CTI, GrantId),
        index=index,
        bucket=claims.party(Claim.AUD, Principal),
        bucket_incarnation=claims.integer(Claim.BUCKET_INCARNATION),
        user=claims.party(Claim.SUB, Principal),
        uid=claims.identifier(Claim.UID, Uid),
        blob_id=claims.identifier(Claim.BLOB, BlobId),
        size=claims.integer(Claim.SIZE),
        chunk_bytes=claims.integer(Claim.CHUNK_BYTES),
        reserved=claims.integer(Claim.RESERVED),
        issued_at=claims.integer(Claim.IAT),
        expires_at=claims.integer(Claim.EXP),
    )
    claims.finish()
    if grant.chunk_bytes == 0 or grant.reserved not in {0, grant.size}:
        raise TokenInvalidError("its sizes do not go together")
    return grant
