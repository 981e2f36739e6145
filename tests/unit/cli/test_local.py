"""Commands that need no cluster: keys, accessors, configs, tokens."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import (
    Login,
    Scope,
    TokenLimits,
    decode_text,
    encode_text,
    mint_login,
    open_access,
)
from ostnode.ids import ClusterId, Principal, PrincipalKind
from ostnode.keyfiles import load_seed
from tests.support.cli import BLOB, UID, Cli, acc, usr

CONFIGS = Path(__file__).parents[3] / "config"
CLUSTER = ClusterId(b"cluster-cluster-")


def test_key_gen_makes_a_private_file_and_prints_its_principal(cli: Cli) -> None:
    result = cli("key", "gen", "new.key", "--json")
    key = KeyPair.from_seed(load_seed(Path("new.key")))
    assert result.json == {"principal": usr(key), "file": "new.key"}
    assert Path("new.key").stat().st_mode & 0o777 == 0o600
    assert load_seed(Path("new.key")).hex() not in result.out + result.err


def test_key_gen_never_overwrites(cli: Cli) -> None:
    before = Path("caller.key").read_bytes()
    result = cli("key", "gen", "caller.key")
    assert result.code == 2
    assert "exists already" in result.err
    assert Path("caller.key").read_bytes() == before


def test_an_index_key_comes_with_a_cluster_id(cli: Cli) -> None:
    made = cli("key", "gen", "index.key", "--kind", "idx", "--json").json
    assert Principal.parse(made["principal"], PrincipalKind.INDEX)
    assert ClusterId.from_hex(made["cluster_id"])


def test_key_show_prints_the_principal_as_asked(cli: Cli) -> None:
    assert cli("key", "show", "caller.key", "--kind", "app").out.split()[1] == (
        cli.key.principal.text(PrincipalKind.APP)
    )


def test_a_key_others_can_read_is_refused_with_the_cure(cli: Cli) -> None:
    Path("caller.key").chmod(0o640)
    result = cli("key", "show", "caller.key")
    assert result.code == 2
    assert "hint: chmod 600 caller.key" in result.err


def test_accessor_new_makes_a_chats_key(cli: Cli) -> None:
    made = cli("accessor", "new", "general.key", "--json").json
    assert made["accessor"] == acc(KeyPair.from_seed(load_seed(Path("general.key"))))


@pytest.mark.parametrize("name", ["index.toml", "bucket.toml", "dev.toml"])
def test_the_sample_configs_are_valid(cli: Cli, name: str) -> None:
    assert cli("config", "validate", CONFIGS / name).code == 0


def test_b52_every_mistake_is_told_and_nothing_is_created(cli: Cli) -> None:
    Path("bad.toml").write_text('cluster_id = "x"\n[log]\nlevle = "info"\n[[bucket]]\nhttp = 3\n')
    before = sorted(Path().iterdir())
    for command in (("config", "validate"), ("run",), ("config", "show")):
        result = cli(*command, "bad.toml")
        assert result.code == 2
        for key in ("cluster_id", "log.levle", "bucket[0].http", "bucket[0].key_file"):
            assert f"{key}: " in result.err
        assert "did you mean level?" in result.err
    assert sorted(Path().iterdir()) == before


def test_b52_as_json(cli: Cli) -> None:
    Path("bad.toml").write_text("[log]\nlevel = 7\n")
    result = cli("config", "validate", "bad.toml", "--json")
    assert result.code == 2
    assert result.json["valid"] is False
    assert {mistake["key"] for mistake in result.json["mistakes"]} >= {"cluster_id", "log.level"}
    assert all(mistake["hint"] for mistake in result.json["mistakes"])


def test_config_show_fills_in_defaults_and_the_environment(cli: Cli, monkeypatch) -> None:
    monkeypatch.setenv("OST_BUCKET_0_UPLOAD_TTL", "5m")
    shown = cli("config", "show", CONFIGS / "bucket.toml", "--json").json
    assert shown["bucket"][0]["upload_ttl"] == 300
    assert shown["http"]["connections_max"] == 1000
    lines = cli("config", "show", CONFIGS / "bucket.toml").out
    assert "bucket[0].upload_ttl" in lines
    assert " 300\n" in lines


def test_token_mint_signs_what_was_asked(cli: Cli) -> None:
    chat = cli.new_key("general.key")
    minted = cli(
        "token", "mint", "general.key", usr(cli.key), "--cluster", CLUSTER, "--blob", BLOB,
        "--ttl", "5m",
    )  # fmt: skip
    token = open_access(
        decode_text(minted.out.strip()),
        accessor=chat.principal,
        cluster=CLUSTER,
        now=time.time(),
        limits=TokenLimits(),
    )
    assert (token.scope, token.blob, token.caller) == (Scope.READ, BLOB, cli.key.principal)
    assert token.expires_at - token.issued_at == 300


def test_token_mint_for_one_reference(cli: Cli) -> None:
    cli.new_key("general.key")
    minted = cli(
        "token", "mint", "general.key", usr(cli.key), "--cluster", CLUSTER, "--scope", "ref.del",
        "--blob", BLOB, "--owner", UID, "--ref", "0102", "--json",
    )  # fmt: skip
    shown = cli("token", "inspect", minted.json["token"], "--json").json
    assert (shown["blob"], shown["owner"], shown["ref_id"]) == (str(BLOB), str(UID), "0102")
    assert shown["exp"] - shown["iat"] == 60


def test_token_mint_refuses_what_could_never_be_opened(cli: Cli) -> None:
    cli.new_key("general.key")
    result = cli(
        "token", "mint", "general.key", usr(cli.key), "--cluster", CLUSTER, "--scope", "ref.del"
    )
    assert result.code == 2
    assert "names blob, owner and ref_id" in result.err


def test_token_inspect_says_who_signed_and_for_whom(cli: Cli) -> None:
    chat = cli.new_key("general.key")
    text = cli("token", "mint", "general.key", usr(cli.key), "--cluster", CLUSTER).out.strip()
    shown = cli("token", "inspect", text, "--json").json
    assert (shown["type"], shown["signature"]) == ("ost-at+cwt", "valid")
    assert (shown["signed_by"], shown["cnf"]) == (acc(chat), usr(cli.key))
    assert (shown["aud"], shown["scope"]) == (str(CLUSTER), "read")


def test_token_inspect_shows_a_forgery(cli: Cli) -> None:
    login = Login(cli.key.principal, cli.key.principal, "", 1_700_000_000, b"12345678")
    data = bytearray(mint_login(cli.key, login))
    data[-1] ^= 1
    shown = cli("token", "inspect", encode_text(bytes(data)), "--json").json
    assert (shown["type"], shown["signature"]) == ("ost-login+cwt", "WRONG")
    assert shown["signed_by"] == usr(cli.key)


@pytest.mark.parametrize("text", ["", "!!", encode_text(b"no cbor")])
def test_token_inspect_refuses_what_is_no_token(cli: Cli, text: str) -> None:
    assert cli("token", "inspect", text).code in {2, 4}
