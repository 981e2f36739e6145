"""Grants as a bucket takes them while its index changes the key."""

from __future__ import annotations

import pytest

from ostnode.errors import GrantExpiredError, GrantInvalidError, WrongBucketError
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import Grant, mint_grant
from ostnode.ids import BlobId, ClusterId, GrantId, Principal, PrincipalKind, Uid
from ostnode.roles.bucket.options import BucketOptions
from ostnode.roles.bucket.statements import Statements

OLD, NEW, OTHER = (KeyPair.from_seed(bytes([number]) * 32) for number in range(3))
BUCKET = Principal(b"b" * 32)
NOW = 1_700_000_000


def granted(by: KeyPair, bucket: Principal = BUCKET) -> bytes:
    grant = Grant(
        grant_id=GrantId(bytes(16)),
        index=by.principal,
        bucket=bucket,
        bucket_incarnation=1,
        user=OTHER.principal,
        uid=Uid(bytes(8)),
        blob_id=BlobId(bytes(32)),
        size=1,
        chunk_bytes=1,
        reserved=1,
        issued_at=NOW,
        expires_at=NOW + 3600,
    )
    return mint_grant(by, grant)


def test_every_key_that_counts_signs_grants_and_none_that_is_over() -> None:
    keys = [OLD.principal]
    options = BucketOptions(
        principal=BUCKET,
        index=OLD.principal,
        cluster_id=ClusterId(bytes(16)),
        index_keys=lambda: keys,
    )
    statements = Statements(options, lambda: 1)
    by_old, by_new = granted(OLD), granted(NEW)
    assert statements.grant(by_old, OTHER.principal, NOW).index == OLD.principal
    with pytest.raises(GrantInvalidError, match="another key"):
        statements.grant(by_new, OTHER.principal, NOW)
    keys[:] = [NEW.principal, OLD.principal]
    for data in (by_old, by_new, granted(NEW)):
        assert statements.grant(data, OTHER.principal, NOW).bucket == BUCKET
    with pytest.raises(GrantInvalidError, match="another key"):
        statements.grant(granted(OTHER), OTHER.principal, NOW)
    # Though it was verified before, and is remembered.
    keys[:] = [NEW.principal]
    with pytest.raises(GrantInvalidError, match="another key"):
        statements.grant(by_old, OTHER.principal, NOW)


def test_without_a_roster_the_index_has_the_key_it_was_known_by() -> None:
    options = BucketOptions(principal=BUCKET, index=OLD.principal, cluster_id=ClusterId(bytes(16)))
    assert (
        Statements(options, lambda: 1).grant(granted(OLD), OTHER.principal, NOW).index
        == OLD.principal
    )


def test_b33_a_grant_of_another_bucket_is_told_where_it_belongs() -> None:
    elsewhere, unknown = Principal(b"e" * 32), Principal(b"u" * 32)
    places = {elsewhere: "http://elsewhere.test"}
    options = BucketOptions(
        principal=BUCKET,
        index=OLD.principal,
        cluster_id=ClusterId(bytes(16)),
        address_of=lambda bucket: places.get(bucket, ""),
    )
    statements = Statements(options, lambda: 1)
    for bucket in (elsewhere, unknown):
        with pytest.raises(WrongBucketError) as caught:
            statements.grant(granted(OLD, bucket), OTHER.principal, NOW)
        assert caught.value.details == {
            "bucket": bucket.text(PrincipalKind.BUCKET),
            "http": places.get(bucket, ""),
        }
    # It is nobody else's to know.
    with pytest.raises(GrantInvalidError, match="another user"):
        statements.grant(granted(OLD, elsewhere), NEW.principal, NOW)
    with pytest.raises(GrantInvalidError, match="another key"):
        statements.grant(granted(NEW, elsewhere), OTHER.principal, NOW)
    with pytest.raises(GrantExpiredError):
        statements.grant(granted(OLD, elsewhere), OTHER.principal, NOW + 7200)
