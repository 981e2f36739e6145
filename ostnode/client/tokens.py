"""Tokens an app's backend gives out: the accessor's key signs what one caller may do."""

from __future__ import annotations

from typing import Final

from ostnode.env import Clock, Rng, SystemClock, SystemRng
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import AccessToken, Scope, TokenLimits, mint_access
from ostnode.ids import BlobId, ClusterId, Principal, Uid

_CLOCK: Final = SystemClock()
_RNG: Final = SystemRng()
_LIMITS: Final = TokenLimits()
_CTI_BYTES: Final = 16


def mint_read(
    accessor: KeyPair,
    caller: Principal,
    *,
    cluster_id: ClusterId,
    blob_id: BlobId | None = None,
    ttl_s: int = _LIMITS.read_token_ttl_max_s,
    clock: Clock = _CLOCK,
    rng: Rng = _RNG,
) -> bytes:
    """A token with which `caller` may read one blob, or with None all blobs, of a chat."""
    now = int(clock.now())
    return mint_access(
        accessor,
        AccessToken(
            accessor=accessor.principal,
            cluster=cluster_id,
            caller=caller,
            scope=Scope.READ,
            issued_at=now,
            expires_at=now + ttl_s,
            cti=rng.token(_CTI_BYTES),
            blob=blob_id,
        ),
    )


def mint_ref_delete(
    accessor: KeyPair,
    caller: Principal,
    *,
    cluster_id: ClusterId,
    blob_id: BlobId,
    owner: Uid,
    ref_id: bytes = b"",
    ttl_s: int = _LIMITS.delete_token_ttl_max_s,
    clock: Clock = _CLOCK,
    rng: Rng = _RNG,
) -> bytes:
    """A token with which `caller` may delete one message's reference, whoever owns it; one use."""
    now = int(clock.now())
    return mint_access(
        accessor,
        AccessToken(
            accessor=accessor.principal,
            cluster=cluster_id,
            caller=caller,
            scope=Scope.REF_DEL,
            issued_at=now,
            expires_at=now + ttl_s,
            cti=rng.token(_CTI_BYTES),
            blob=blob_id,
            owner=owner,
            ref_id=ref_id,
        ),
    )


def mint_accessor_delete(
    accessor: KeyPair,
    caller: Principal,
    *,
    cluster_id: ClusterId,
    ttl_s: int = _LIMITS.delete_token_ttl_max_s,
    clock: Clock = _CLOCK,
    rng: Rng = _RNG,
) -> bytes:
    """A token with which `caller` may delete the whole chat, for ever; one use."""
    now = int(clock.now())
    return mint_access(
        accessor,
        AccessToken(
            accessor=accessor.principal,
            cluster=cluster_id,
            caller=caller,
            scope=Scope.ACC_DEL,
            issued_at=now,
            expires_at=now + ttl_s,
            cti=rng.token(_CTI_BYTES),
        ),
    )
