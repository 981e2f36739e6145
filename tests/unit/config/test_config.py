"""B52: every mistake is named with its key and a hint, and nothing is created."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from pydantic import ValidationError

from ostnode.config import (
    BucketConfig,
    Config,
    ConfigError,
    HttpLimits,
    IndexConfig,
    LogConfig,
    Mistake,
    NodeConfig,
    TokensConfig,
    load_config,
    parse_config,
)
from ostnode.ids import ClusterId, Principal, PrincipalKind
from ostnode.wire.membership import MEMBERS_MAX

APP = Principal(b"\xa1" * 32)
BUCKET = Principal(b"\xb1" * 32)
INDEX = Principal(b"\xc1" * 32)
BASE = Path("/etc/ost")
SAMPLES = Path(__file__).parents[3] / "config"

Document = dict[str, object]


def document() -> Document:
    """An index and two buckets with only the keys that are required."""
    return {
        "cluster_id": "00112233445566778899aabbccddeeff",
        "index": {
            "key_file": "index.key",
            "data_dir": "index",
            "http": "127.0.0.1:7100",
            "peer": "127.0.0.1:7101",
            "admin": "127.0.0.1:7102",
            "apps": [APP.text(PrincipalKind.APP)],
            "buckets": [BUCKET.text(PrincipalKind.BUCKET)],
        },
        "bucket": [bucket_table(0), bucket_table(1)],
    }


def bucket_table(number: int) -> Document:
    return {
        "key_file": f"bucket-{number}.key",
        "data_dir": f"/data/bucket-{number}",
        "http": f"127.0.0.1:71{number + 1}0",
        "peer": f"127.0.0.1:71{number + 1}1",
        "admin": f"127.0.0.1:71{number + 1}2",
        "index": INDEX.text(PrincipalKind.INDEX),
        "index_peer": "127.0.0.1:7101",
    }


def index_of(config_document: Document) -> Document:
    table = config_document["index"]
    assert isinstance(table, dict)
    return table


def bucket_of(config_document: Document, number: int = 0) -> Document:
    tables = config_document["bucket"]
    assert isinstance(tables, list)
    table = tables[number]
    assert isinstance(table, dict)
    return table


def parsed(config_document: Document, **environ: str) -> Config:
    return parse_config(config_document, environ, base=BASE)


def mistakes_in(config_document: Document, **environ: str) -> tuple[Mistake, ...]:
    with pytest.raises(ConfigError) as caught:
        parsed(config_document, **environ)
    mistakes = caught.value.mistakes
    assert all(mistake.problem and mistake.hint for mistake in mistakes)
    assert str(caught.value) == "\n".join(str(mistake) for mistake in mistakes)
    return mistakes


def keys_of(mistakes: tuple[Mistake, ...]) -> list[str]:
    return [mistake.key for mistake in mistakes]


def test_the_required_keys_are_enough() -> None:
    config = parsed(document())
    assert config.cluster_id == ClusterId.from_hex("00112233445566778899aabbccddeeff")
    assert config.index is not None
    assert config.index.apps == (APP,)
    assert config.index.buckets == (BUCKET,)
    assert config.index.chunk_bytes == 1 << 20
    assert config.index.blob_bytes_max == 16 << 30
    assert [bucket.index for bucket in config.bucket] == [INDEX, INDEX]
    assert config.bucket[0].public_url == "http://127.0.0.1:7110"
    assert (config.log, config.node) == (LogConfig(), NodeConfig())
    assert (config.http, config.tokens) == (HttpLimits(), TokensConfig())


def test_relative_paths_start_at_the_config_file() -> None:
    config = parsed(document())
    assert config.index is not None
    assert config.index.data_dir == BASE / "index"
    assert config.index.key_file == BASE / "index.key"
    assert config.bucket[0].data_dir == Path("/data/bucket-0")


def test_an_index_alone_and_buckets_alone_are_nodes() -> None:
    index_only, buckets_only = document(), document()
    del index_only["bucket"], buckets_only["index"]
    assert parsed(index_only).bucket == ()
    assert parsed(buckets_only).index is None


def test_a_config_cannot_be_changed() -> None:
    config = parsed(document())
    with pytest.raises(ValidationError):
        config.log.level = "debug"  # type: ignore[misc]


def test_a_config_shows_itself_as_plain_values() -> None:
    shown = parsed(document()).model_dump(mode="json")
    assert shown["cluster_id"] == "00112233445566778899aabbccddeeff"
    assert shown["index"]["apps"] == [APP.text(PrincipalKind.APP)]
    assert shown["bucket"][0]["index"] == INDEX.text(PrincipalKind.INDEX)
    assert shown["index"]["data_dir"] == "/etc/ost/index"


def test_a_config_can_be_made_in_code() -> None:
    made = Config(
        cluster_id=ClusterId.from_hex("00112233445566778899aabbccddeeff"),
        bucket=(
            BucketConfig(
                key_file=Path("/k"),
                data_dir=Path("/d"),
                http="127.0.0.1:0",
                peer="127.0.0.1:0",
                admin="127.0.0.1:0",
                index=INDEX,
                index_peer="127.0.0.1:7101",
            ),
        ),
    )
    assert made.bucket[0].index == INDEX
    assert parse_config(made.model_dump(), {}, base=BASE) == made


def test_limits_can_be_made_in_code_with_numbers() -> None:
    assert HttpLimits(header_timeout=0.25, request_body_max=4096).header_timeout == 0.25


# --- B52 ----------------------------------------------------------------------------------------


def test_b52_every_mistake_is_told_at_once() -> None:
    broken = document()
    broken["cluster_id"] = "xyz"
    broken["surprise"] = {}
    broken["log"] = {"format": "xml", "level": "info"}
    broken["node"] = {"shutdown_deadline": "soon"}
    index, bucket = index_of(broken), bucket_of(broken, 1)
    index["chunk_bytes"] = "2MiB"
    index["bucket_back_at"] = 0.99
    index["apps"] = [BUCKET.text(PrincipalKind.BUCKET)]
    index["htp"] = index.pop("http")
    bucket["segment_bytes"] = "1GB"
    bucket["verify_reads"] = "perhaps"
    bucket["admin"] = bucket["peer"]
    bucket["data_dir"] = "/data/../data/bucket-0"
    mistakes = mistakes_in(broken, OST_INDEX_GRANT_TTL="1y", OST_BUCKET_2_HTTP="host:1")
    assert sorted(keys_of(mistakes)) == sorted([
        "OST_BUCKET_2_HTTP",
        "cluster_id",
        "surprise",
        "log.format",
        "node.shutdown_deadline",
        "index.chunk_bytes",
        "index.grant_ttl",
        "index.bucket_back_at",
        "index.apps[0]",
        "index.http",
        "index.htp",
        "bucket[1].segment_bytes",
        "bucket[1].verify_reads",
        "bucket[1].admin",
        "bucket[1].data_dir",
    ])


def test_b52_nothing_is_created_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text((SAMPLES / "dev.toml").read_text("utf-8"), "utf-8")
    load_config(path, {})
    path.write_text("[index]\ndata_dir = 'data'\n", "utf-8")
    with pytest.raises(ConfigError):
        load_config(path, {})
    assert list(tmp_path.iterdir()) == [path]
    assert not (tmp_path.parent / "ost-data").exists()


def _change(config_document: Document, key: str, value: object) -> None:
    """Set or, for None, remove a key like `index.http` or `bucket.http` (the first bucket's)."""
    table_name, _, name = key.rpartition(".")
    table: object = config_document
    if table_name == "bucket":
        table = bucket_of(config_document)
    elif table_name:
        table = config_document.setdefault(table_name, {})
    assert isinstance(table, dict)
    table.pop(name, None)
    if value is not None:
        table[name] = value


@pytest.mark.parametrize(
    ("key", "value", "problem", "hint"),
    [
        ("cluster_id", None, "is missing", "show every key"),
        ("cluster_id", 5, "is a text", "copy it"),
        ("cluster_id", "00", "32 lower-case hex", "copy it"),
        ("log.level", "loud", "'debug', 'info'", "write one of"),
        ("log.levle", "info", "is not a known key", "did you mean level?"),
        ("log.colour", True, "is not a known key", "known here: format, level"),
        ("node.shutdown_deadline", "10", "not a duration", "15m"),
        ("node.shutdown_deadline", "0s", "greater than 0", "raise it"),
        ("node.shutdown_deadline", float("nan"), "greater than 0", "raise it"),
        ("node.shutdown_deadline", float("inf"), "less than or equal", "lower it"),
        ("http.connections_max", 0, "greater than or equal to 1", "raise it"),
        ("http.connections_max", "many", "integer", "whole number"),
        ("http.connections_max", 1.5, "integer", "whole number"),
        ("http.request_body_max", "1GiB", "less than or equal to", "lower it"),
        ("http.body_rate_min", 0, "greater than or equal to 1", "raise it"),
        ("tokens.read_ttl_max", "1500ms", "whole number of seconds", "round it up"),
        ("tokens.session_ttl", "99999d", "less than or equal to", "lower it"),
        ("tokens.skew", "2h", "less than or equal to 3600", "lower it"),
        ("index.key_file", None, "is missing", "show every key"),
        ("index.key_file", "", "a path is a text", "path of a file"),
        ("index.data_dir", 7, "a path is a text", "path of a file"),
        ("index.http", "7100", "not an address", "127.0.0.1:7100"),
        ("index.peer", "127.0.0.1:70000", "over 65535", "127.0.0.1:7100"),
        ("index.peer", "7101", "not an address", "127.0.0.1:7100"),
        ("node.peer_links_max", 15, "greater than or equal to 16", "raise it"),
        ("node.peer_tls", "perhaps", "boolean", "true or false"),
        ("index.chunk_bytes", "1KiB", "greater than or equal to 4096", "raise it"),
        ("index.bucket_full_at", 1.5, "less than or equal to 1", "lower it"),
        ("bucket.public_url", "example.org", "not an http", "scheme and host"),
        ("bucket.index", APP.text(PrincipalKind.APP), "expected a principal of kind idx", "idx1q"),
        ("bucket.index", 5, "is a text", "idx1q"),
        ("bucket.segment_bytes", "1MiB", "greater than or equal to 8388608", "raise it"),
        ("bucket.batch_bytes_max", "1MiB", "greater than or equal to", "raise it"),
        ("bucket.upload_ttl", True, "a duration is", "15m"),
        ("bucket.verify_reads", 5, "boolean", "true or false"),
    ],
)
def test_b52_each_mistake_has_its_key_and_a_hint(
    key: str, value: object, problem: str, hint: str
) -> None:
    broken = document()
    _change(broken, key, value)
    (mistake,) = mistakes_in(broken)
    assert mistake.key == key.replace("bucket.", "bucket[0].")
    assert problem in mistake.problem
    assert hint in mistake.hint
    assert str(mistake).startswith(f"{mistake.key}: ")


def test_every_bucket_of_a_full_cluster_has_a_link_and_others_too() -> None:
    assert NodeConfig().peer_links_max >= MEMBERS_MAX + 64


def test_b52_peer_links_leave_loopback_over_tls_only() -> None:
    open_to_all = document()
    index_of(open_to_all)["peer"] = "0.0.0.0:7101"
    bucket_of(open_to_all)["index_peer"] = "index.example:7101"
    assert parse_config(open_to_all, {}, base=BASE).node.peer_tls
    open_to_all["node"] = {"peer_tls": False}
    for mistakes in (
        mistakes_in(open_to_all),
        mistakes_in(open_to_all | {"node": {}}, OST_NODE_PEER_TLS="off"),
    ):
        assert [mistake.key for mistake in mistakes] == ["index.peer", "bucket[0].index_peer"]
        assert all("not on loopback" in mistake.problem for mistake in mistakes)
        assert all("peer_tls" in mistake.hint for mistake in mistakes)
    index_of(open_to_all)["peer"] = "127.0.0.1:7101"
    bucket_of(open_to_all)["index_peer"] = "[::1]:7101"
    assert not parse_config(open_to_all, {}, base=BASE).node.peer_tls


def test_b52_a_default_that_another_key_makes_wrong_is_told() -> None:
    broken = document()
    index_of(broken)["bucket_full_at"] = 0.9
    (mistake,) = mistakes_in(broken)
    assert mistake.key == "index.bucket_back_at"
    assert "flap" in mistake.hint


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [
        ({"provisioner": "local"}, "provision_dir"),
        ({"provisioner": "command"}, "provision_command"),
        ({"provisioner": "cloud"}, "provisioner"),
        ({"provisioner": "local", "provision_dir": "b", "peer": "127.0.0.1:0"}, "provisioner"),
        ({"lost_after": "29s"}, "lost_after"),
        ({"target_active": -1}, "target_active"),
        ({"target_active": 257}, "target_active"),
        ({"headroom": "plenty"}, "headroom"),
        ({"provision_retry": "2d"}, "provision_retry"),
        ({"provision_host": ""}, "provision_host"),
    ],
)
def test_b52_keys_about_having_enough_buckets(keys: Document, wrong: str) -> None:
    broken = document()
    index_of(broken).update(keys)
    (mistake,) = mistakes_in(broken)
    assert mistake.key == f"index.{wrong}"


def test_provisioners_that_are_whole() -> None:
    made = document()
    index_of(made).update(provisioner="local", provision_dir="more")
    index = parsed(made).index
    assert index is not None
    assert index.provision_dir == BASE / "more"
    index_of(made).update(provisioner="command", provision_command=["a", "b c"])
    index = parsed(made).index
    assert index is not None
    assert index.provision_command == ("a", "b c")


def test_b52_zones_are_short_and_weights_are_sizes() -> None:
    broken = document()
    bucket_of(broken).update(zone="z" * 33, weight=-1)
    assert [each.key for each in mistakes_in(broken)] == ["bucket[0].zone", "bucket[0].weight"]


def test_b52_lists_of_principals() -> None:
    bucket = BUCKET.text(PrincipalKind.BUCKET)
    for value, key, problem in (
        ([bucket, bucket], "index.buckets", "named twice"),
        ([bucket, bucket[:-1] + "q"], "index.buckets[1]", "checksum"),
        ([5], "index.buckets[0]", "is a text"),
        (5, "index.buckets", "must be a list"),
    ):
        broken = document()
        index_of(broken)["buckets"] = value
        (mistake,) = mistakes_in(broken)
        assert mistake.key == key
        assert problem in mistake.problem


def test_b52_tables_of_another_shape() -> None:
    for key, value, where, hint in (
        ("bucket", {"http": "127.0.0.1:1"}, "bucket", "[[bucket]]"),
        ("bucket", [5], "bucket[0]", "[[bucket]]"),
        ("bucket", 5, "bucket", "[[bucket]]"),
        ("index", 5, "index", "[index]"),
        ("log", "info", "log", "[log]"),
    ):
        broken = {**document(), key: value}
        (mistake,) = mistakes_in(broken)
        assert (mistake.key, hint in mistake.hint) == (where, True)


def test_b52_a_config_without_a_role_is_refused() -> None:
    mistakes = mistakes_in({})
    assert keys_of(mistakes) == ["cluster_id", ""]
    assert "[[bucket]]" in mistakes[1].hint
    assert str(mistakes[1]).startswith("the config names no role")


def test_b52_batches_fit_their_segment() -> None:
    broken = document()
    bucket_of(broken).update(segment_bytes="8MiB", batch_bytes_max="8MiB")
    (mistake,) = mistakes_in(broken)
    assert mistake.key == "bucket[0].batch_bytes_max"
    assert "do not fit" in mistake.problem


def test_b52_a_public_url_that_cannot_be_guessed_must_be_given() -> None:
    for http in ("0.0.0.0:7110", "[::]:7110"):
        wide = document()
        bucket_of(wide)["http"] = http
        (mistake,) = mistakes_in(wide)
        assert mistake.key == "bucket[0].public_url"
        bucket_of(wide)["public_url"] = "https://bucket.example.org/"
        assert parsed(wide).bucket[0].public_url == "https://bucket.example.org"


def test_a_public_url_is_left_open_with_the_port() -> None:
    open_port = document()
    bucket_of(open_port)["http"] = "127.0.0.1:0"
    assert not parsed(open_port).bucket[0].public_url


def test_b52_two_listeners_do_not_share_an_address() -> None:
    broken = document()
    bucket_of(broken)["peer"] = "127.0.0.1:07100"
    (mistake,) = mistakes_in(broken)
    assert mistake.key == "bucket[0].peer"
    assert "index.http" in mistake.problem


def test_ports_chosen_by_the_system_may_repeat() -> None:
    free = document()
    index_of(free).update(http="127.0.0.1:0", peer="127.0.0.1:0", admin="127.0.0.1:0")
    parsed(free)


def test_b52_roles_do_not_share_keys_or_directories() -> None:
    for name, value in (("data_dir", "./index"), ("key_file", "/etc/ost/index.key")):
        broken = document()
        bucket_of(broken, 1)[name] = value
        (mistake,) = mistakes_in(broken)
        assert mistake.key == f"bucket[1].{name}"
        assert f"index.{name}" in mistake.problem


# --- The environment ----------------------------------------------------------------------------


def test_the_environment_replaces_keys() -> None:
    config = parsed(
        document(),
        OST_CLUSTER_ID="ff" * 16,
        OST_LOG_FORMAT="json",
        OST_HTTP_CORS_ORIGINS="https://a.example, https://b.example,",
        OST_INDEX_DATA_DIR="/srv/index",
        OST_INDEX_USER_GRANTS_MAX="7",
        OST_BUCKET_1_HTTP="127.0.0.1:9000",
        OST_BUCKET_1_VERIFY_READS="false",
        HOME="/root",
    )
    assert config.cluster_id == ClusterId(b"\xff" * 16)
    assert config.log.format == "json"
    assert config.http.cors_origins == ("https://a.example", "https://b.example")
    assert config.index is not None
    assert config.index.data_dir == Path("/srv/index")
    assert config.index.user_grants_max == 7
    assert config.bucket[0].http == "127.0.0.1:7110"
    assert config.bucket[1].public_url == "http://127.0.0.1:9000"
    assert config.bucket[1].verify_reads is False


def test_the_environment_leaves_the_callers_document_alone() -> None:
    given = document()
    before = copy.deepcopy(given)
    parsed(given, OST_BUCKET_0_HTTP="127.0.0.1:9000", OST_INDEX_HTTP="127.0.0.1:9001")
    assert given == before


def test_b52_a_mistake_in_the_environment_is_named_by_its_key() -> None:
    (mistake,) = mistakes_in(document(), OST_LOG_LEVEL="loud")
    assert mistake.key == "log.level"
    (mistake,) = mistakes_in(document(), OST_INDEX_DATADIR="x")
    assert mistake.key == "index.datadir"
    assert "data_dir" in mistake.hint


def test_b52_the_environment_makes_no_roles() -> None:
    index_only = document()
    del index_only["bucket"]
    (mistake,) = mistakes_in(index_only, OST_BUCKET_0_HTTP="127.0.0.1:9000")
    assert mistake.key == "OST_BUCKET_0_HTTP"
    buckets_only = document()
    del buckets_only["index"]
    (mistake,) = mistakes_in(buckets_only, OST_INDEX_HTTP="127.0.0.1:9000")
    assert mistake.key == "OST_INDEX_HTTP"


def test_variables_of_other_commands_are_left_alone() -> None:
    parsed(document(), OST_KEY="x", OST_URL="y", OSTRICH="z", OST_BUCKET_X_HTTP="w", OST_="")


# --- Files --------------------------------------------------------------------------------------


def test_b52_a_file_that_cannot_be_read_or_is_no_toml(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("cluster_id = \n", "utf-8")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path, problem in (
        (tmp_path / "absent.toml", "No such file"),
        (tmp_path, "directory"),
        (broken, "line 1"),
        (binary, "is not TOML"),
    ):
        with pytest.raises(ConfigError, match=problem) as caught:
            load_config(path, {})
        assert len(caught.value.mistakes) == 1


@pytest.mark.parametrize("name", ["index.toml", "bucket.toml", "dev.toml"])
def test_the_samples_load(name: str) -> None:
    config = load_config(SAMPLES / name, {})
    assert config.index is not None or config.bucket


OF_THE_PLACE = {"public_url", "public_peer", "operators", "buckets", "index", "index_peer"}


def test_the_samples_show_every_key_at_its_default() -> None:
    index = load_config(SAMPLES / "index.toml", {})
    bucket = load_config(SAMPLES / "bucket.toml", {})
    shown = (
        *((sample.log, LogConfig) for sample in (index, bucket)),
        *((sample.node, NodeConfig) for sample in (index, bucket)),
        *((sample.http, HttpLimits) for sample in (index, bucket)),
        *((sample.tokens, TokensConfig) for sample in (index, bucket)),
        (index.index, IndexConfig),
        (bucket.bucket[0], BucketConfig),
    )
    for table, model in shown:
        assert table is not None
        assert table.model_fields_set == set(model.model_fields)
        for name, field in model.model_fields.items():
            if not field.is_required() and name not in OF_THE_PLACE:
                assert getattr(table, name) == field.default, name


def test_the_samples_belong_to_one_cluster() -> None:
    samples = [load_config(SAMPLES / name, {}) for name in ("index.toml", "bucket.toml")]
    assert samples[0].cluster_id == samples[1].cluster_id
    assert samples[0].index is not None
    assert samples[1].bucket[0].index_peer == samples[0].index.peer
