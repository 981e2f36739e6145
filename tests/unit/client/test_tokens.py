from __future__ import annotations

import pytest

from ostnode.client import mint_accessor_delete, mint_read, mint_ref_delete
from ostnode.errors import TokenExpiredError
from ostnode.identity.tokens import AccessToken, TokenLimits, open_access
from ostnode.ids import BlobId, ClusterId, Uid
from tests.support.client_fakes import ALICE, CLUSTER, GENERAL, START, FakeRng

BLOB = BlobId(bytes(32))
OWNER = Uid(bytes(8))
CALLER = ALICE.principal


class Clock:
    def now(self) -> float:
        return START + 0.9


WITH = {"cluster_id": CLUSTER, "clock": Clock(), "rng": FakeRng()}


def _open(data: bytes, cluster: ClusterId = CLUSTER, now: float = START) -> AccessToken:
    return open_access(
        data, accessor=GENERAL.principal, cluster=cluster, now=now, limits=TokenLimits()
    )


def test_a_read_token_lives_as_long_as_nodes_take_it() -> None:
    token = _open(mint_read(GENERAL, CALLER, blob_id=BLOB, **WITH))
    token.require_read(BLOB, CALLER)
    assert token.expires_at - token.issued_at == TokenLimits().read_token_ttl_max_s
    _open(mint_read(GENERAL, CALLER, **WITH)).require_read(BlobId(b"\x01" * 32), CALLER)


def test_a_token_ends_when_it_was_told_to() -> None:
    data = mint_read(GENERAL, CALLER, ttl_s=5, **WITH)
    assert _open(data).expires_at == START + 5
    with pytest.raises(TokenExpiredError):
        _open(data, now=START + 65)


def test_a_reference_token_names_the_reference() -> None:
    data = mint_ref_delete(GENERAL, CALLER, blob_id=BLOB, owner=OWNER, ref_id=b"m", **WITH)
    _open(data).require_reference_deletion(BLOB, OWNER, b"m", CALLER)


def test_an_accessor_token_deletes_the_accessor() -> None:
    _open(mint_accessor_delete(GENERAL, CALLER, **WITH)).require_accessor_deletion(CALLER)


def test_every_token_is_another() -> None:
    assert len({mint_accessor_delete(GENERAL, CALLER, **WITH) for _ in range(3)}) == 3
