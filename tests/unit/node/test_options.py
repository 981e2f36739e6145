"""Every config key reaches the part that it is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostnode.config import Config, TokensConfig, parse_config
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, PrincipalKind
from ostnode.keyfiles import KeyFileError
from ostnode.node.bucket import bucket_options
from ostnode.node.index import index_options
from ostnode.node.role import kinds_from, token_limits
from ostnode.roles.bucket.options import UpkeepOptions
from ostnode.wire.calls import Kind

KEYS = {name: KeyPair.from_seed(name.encode().ljust(32, b".")) for name in ("a", "b", "c", "d")}
APP, OPERATOR, INDEX, BUCKET = KEYS.values()


def config() -> Config:
    listeners = {"http": "127.0.0.1:1", "peer": "127.0.0.1:2", "admin": "127.0.0.1:3"}
    index = {
        **listeners,
        "key_file": "index.key",
        "data_dir": "index",
        "apps": [APP.principal.text(PrincipalKind.APP)],
        "operators": [OPERATOR.principal.text(PrincipalKind.OPERATOR)],
        "buckets": [BUCKET.principal.text(PrincipalKind.BUCKET)],
        "chunk_bytes": "8KiB",
        "blob_bytes_max": "2GiB",
        "grant_ttl": "7m",
        "user_grants_max": 11,
        "user_blobs_max": 12,
        "accessor_deletions_per_day": 13,
        "bucket_full_at": 0.8,
        "bucket_back_at": 0.7,
        "push_interval": "250ms",
        "target_active": 16,
        "headroom": "17MiB",
        "lost_after": "31s",
        "provision_retry": "18s",
    }
    bucket = {
        "http": "127.0.0.1:4",
        "peer": "127.0.0.1:5",
        "admin": "127.0.0.1:6",
        "key_file": "bucket.key",
        "data_dir": "bucket",
        "index": INDEX.principal.text(PrincipalKind.INDEX),
        "index_peer": "127.0.0.1:2",
        "segment_bytes": "16MiB",
        "batch_bytes_max": "3MiB",
        "upload_ttl": "2h",
        "floor_interval": "9s",
        "user_uploads_max": 14,
        "user_references_max": 15,
        "verify_reads": False,
        "compact_below": 0.25,
        "compaction_rate": "7MiB",
        "compaction_interval": "8s",
        "scrub_period": "3d",
        "scrub_rate_max": "9MiB",
        "zone": "rack 7",
        "weight": "19GiB",
    }
    tokens = {
        "read_ttl_max": "21s",
        "delete_ttl_max": "22s",
        "session_ttl": "23s",
        "login_ttl": "24s",
        "skew": "25s",
    }
    document = {
        "cluster_id": str(ClusterId(b"cluster-cluster-")),
        "index": index,
        "bucket": [bucket],
        "tokens": tokens,
    }
    return parse_config(document, {}, base=Path("/base"))


def test_the_indexs_options() -> None:
    made = config()
    assert made.index is not None
    options = index_options(made, made.index)
    assert options.cluster_id == b"cluster-cluster-"
    assert options.buckets == (BUCKET.principal,)
    assert options.data_dir == Path("/base/index")
    assert options.push_interval_s == 0.25
    assert options.operators == {OPERATOR.principal}
    rules = options.rules
    assert (rules.chunk_bytes, rules.blob_bytes_max) == (8 << 10, 2 << 30)
    assert (rules.grant_ttl_s, rules.user_grants_max, rules.user_blobs_max) == (420, 11, 12)
    assert rules.accessor_deletions_per_day == 13
    assert (rules.bucket_full_at, rules.bucket_back_at) == (0.8, 0.7)
    assert (rules.target_active, rules.headroom_bytes) == (16, 17 << 20)
    assert (options.lost_after_s, options.provision_retry_s) == (31.0, 18)
    assert options.tokens == token_limits(made.tokens)


def test_a_key_to_come_that_is_not_there_says_which_config_key_names_it(tmp_path: Path) -> None:
    made = config()
    assert made.index is not None
    index = made.index.model_copy(update={"next_key_file": tmp_path / "index-2.key"})
    with pytest.raises(KeyFileError) as refused:
        index_options(made, index)
    assert "ostnode key gen" in refused.value.hint
    assert "next_key_file" in refused.value.hint


def test_a_buckets_options() -> None:
    made = config()
    options = bucket_options(made, made.bucket[0], BUCKET.principal, INDEX.principal)
    assert (options.principal, options.index) == (BUCKET.principal, INDEX.principal)
    assert options.cluster_id == b"cluster-cluster-"
    assert (options.user_uploads_max, options.user_references_max) == (14, 15)
    assert (options.upload_ttl_s, options.floor_interval_s) == (7200, 9.0)
    assert (options.store.segment_bytes, options.store.batch_bytes_max) == (16 << 20, 3 << 20)
    assert options.store.verify_reads is False
    assert (options.zone, options.weight) == ("rack 7", 19 << 30)
    assert options.upkeep == UpkeepOptions(
        compact_below=0.25,
        compaction_rate=7 << 20,
        compaction_interval_s=8.0,
        scrub_period_s=259_200.0,
        scrub_rate_max=9 << 20,
    )
    assert options.tokens == token_limits(made.tokens)


def test_token_limits() -> None:
    limits = token_limits(config().tokens)
    assert (limits.read_token_ttl_max_s, limits.delete_token_ttl_max_s) == (21, 22)
    assert (limits.session_ttl_s, limits.login_ttl_s, limits.skew_s) == (23, 24, 25)
    assert len(TokensConfig.model_fields) == 5


def test_what_a_principal_is() -> None:
    kinds_of = kinds_from({Kind.APP: (APP.principal,), Kind.OPERATOR: (APP.principal,)})
    assert kinds_of(APP.principal) == {Kind.APP, Kind.OPERATOR}
    assert kinds_of(BUCKET.principal) == frozenset()
