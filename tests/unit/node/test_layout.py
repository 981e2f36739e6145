from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from ostnode.config import load_config
from ostnode.ids import PrincipalKind
from ostnode.keyfiles import KeyFileError
from ostnode.node.dev import prepare_dev
from ostnode.node.errors import StartError
from ostnode.node.layout import DevLayout, key_at, lay_out_bucket
from ostnode.node.ports import free_addresses
from tests.support.index_cluster import SeededRng

ROOT = Path(__file__).parents[3]


def test_the_generated_dev_config_is_valid_and_names_its_own_keys(tmp_path: Path) -> None:
    layout = DevLayout(tmp_path / "ost-data")
    prepare_dev(layout, SeededRng())
    config = load_config(layout.config_file, {})
    assert config.index is not None
    developer = key_at(layout.key_file, SeededRng()).principal
    assert config.index.apps == config.index.operators == (developer,)
    buckets = [key_at(table.key_file, SeededRng()).principal for table in config.bucket]
    assert list(config.index.buckets) == buckets
    index = key_at(config.index.key_file, SeededRng()).principal
    assert {table.index for table in config.bucket} == {index}


def test_preparing_again_changes_nothing(tmp_path: Path) -> None:
    layout = DevLayout(tmp_path / "ost-data")
    prepare_dev(layout, SeededRng(1))
    before = {path.name: path.read_bytes() for path in layout.root.iterdir()}
    prepare_dev(layout, SeededRng(2))
    assert {path.name: path.read_bytes() for path in layout.root.iterdir()} == before


def test_an_interrupted_preparation_is_taken_up_with_the_keys_it_made(tmp_path: Path) -> None:
    layout = DevLayout(tmp_path / "ost-data")
    prepare_dev(layout, SeededRng(1))
    developer = key_at(layout.key_file, SeededRng()).principal
    layout.config_file.unlink()
    (layout.root / "bucket-1.key").unlink()
    prepare_dev(layout, SeededRng(2))
    config = load_config(layout.config_file, {})
    assert config.index is not None
    assert config.index.apps == (developer,)


def test_keys_are_private(tmp_path: Path) -> None:
    layout = DevLayout(tmp_path / "ost-data")
    prepare_dev(layout, SeededRng())
    assert layout.root.stat().st_mode & 0o077 == 0
    assert {path.stat().st_mode & 0o777 for path in layout.root.glob("*.key")} == {0o600}


def test_a_key_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.key"
    key_at(path, SeededRng())
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="others may use it"):
        key_at(path, SeededRng())


def test_dev_mode_listens_where_the_sample_config_says(tmp_path: Path) -> None:
    layout = DevLayout(tmp_path / "ost-data")
    prepare_dev(layout, SeededRng())
    made = tomllib.loads(layout.config_file.read_text())
    sample = tomllib.loads((ROOT / "config" / "dev.toml").read_text())
    for key in ("http", "peer", "admin"):
        assert made["index"][key] == sample["index"][key]
        assert [table[key] for table in made["bucket"]] == [
            table[key] for table in sample["bucket"]
        ]


def test_texts_of_principals_fit_their_tables(tmp_path: Path) -> None:
    layout = DevLayout(tmp_path / "ost-data")
    prepare_dev(layout, SeededRng())
    made = tomllib.loads(layout.config_file.read_text())
    assert made["index"]["apps"][0].startswith(PrincipalKind.APP)
    assert made["index"]["operators"][0].startswith(PrincipalKind.OPERATOR)


def test_a_bucket_beside_an_index_shares_what_nodes_have_in_common(tmp_path: Path) -> None:
    layout = DevLayout(tmp_path / "ost-data")
    prepare_dev(layout, SeededRng())
    environment = {"OST_TOKENS_SKEW": "7s", "OST_HTTP_CORS_ORIGINS": "https://chat.test"}
    made = load_config(layout.config_file, environment)
    assert made.index is not None
    file = lay_out_bucket(made, made.index, tmp_path / "more", 3, SeededRng())
    assert file == tmp_path / "more" / "bucket-3" / "bucket.toml"
    config = load_config(file, {})
    shared = ("cluster_id", "log", "node", "http", "tokens")
    assert all(getattr(config, name) == getattr(made, name) for name in shared)
    (bucket,) = config.bucket
    assert (bucket.apps, bucket.operators) == (made.index.apps, made.index.operators)
    assert bucket.index is bucket.join is None
    addresses = {bucket.http, bucket.peer, bucket.admin}
    assert len(addresses) == 3
    assert key_at(bucket.key_file, SeededRng()).principal not in made.index.buckets
    # Again, and it is as it was, changes of ours included.
    file.write_text(file.read_text() + "zone = 'here'\n")
    assert lay_out_bucket(made, made.index, tmp_path / "more", 3, SeededRng(9)) == file
    (again,) = load_config(file, {}).bucket
    assert {again.http, again.peer, again.admin} == addresses
    assert again.zone == "here"


def test_no_ports_of_a_strange_host() -> None:
    with pytest.raises(StartError, match="free ports"):
        free_addresses(1, "192.0.2.1")
