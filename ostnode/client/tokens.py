"""Tokens an app's backend gives out: the accessor's key signs what one caller may do."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ostnode.env import Clock, Rng, SystemClock, SystemRng
from ostnode.identity.keys import KeyPair
from ostnode.identity.statements import CTI_BYTES
from ostnode.identity.tokens import AccessToken, Scope, TokenLimits, mint_access
from ostnode.ids import BlobId, ClusterId, Principal, Uid

_CLOCK: Final = SystemClock()
_RNG: Final = SystemRng()
_LIMITS: Final = TokenLimits()


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
    token = _token(accessor, caller, Scope.READ, cluster_id, ttl_s, clock, rng)
    return mint_access(accessor, replace(token, blob=blob_id))


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
    token = _token(accessor, caller, Scope.REF_DEL, cluster_id, ttl_s, clock, rng)
    return mint_access(accessor, replace(token, blob=blob_id, owner=owner, ref_id=ref_id))


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
    token = _token(accessor, caller, Scope.ACC_DEL, cluster_id, ttl_s, clock, rng)
    return mint_access(accessor, token)


def _token(
    accessor: KeyPair,
    caller: Principal,
    scope: Scope,
    cluster_id: ClusterId,
    ttl_s: int,
    clock: Clock,
    rng: Rng,
) -> AccessToken:
    """A token that names nothing of the chat yet."""
    now = int(clock.now())
    return AccessToken(
        accessor=accessor.principal,
        cluster=cluster_id,
        caller=caller,
        scope=scope,
        issued_at=now,
        expires_at=now + ttl_s,
        cti=rng.token(CTI_BYTES),
    )
