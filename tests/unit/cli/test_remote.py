"""Commands that call a cluster, against a scripted client."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from ostnode.errors import UserUnknownError
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import TokenLimits, open_access
from ostnode.ids import NULL_ACCESSOR, BlobId, ClusterId, PrincipalKind
from ostnode.node.dev import prepare_dev
from ostnode.node.layout import DevLayout, key_at
from ostnode.wire.messages import ReferenceKey
from tests.support.cli import ADDRESS, BLOB, BUCKET, INDEX, UID, Cli, acc, usr
from tests.support.index_cluster import SeededRng

ALICE = KeyPair.from_seed(b"alice".ljust(32, b"."))
BUCKET_TEXT = f"{BUCKET.principal.text(PrincipalKind.BUCKET)}@http://bucket.test"


def test_the_index_is_named_by_principal_and_url(cli: Cli) -> None:
    cli.as_caller("user", "show")
    assert cli.connected == [("http://index.test:7100", cli.key.principal, INDEX.principal)]


def test_index_and_key_come_from_the_environment(cli: Cli, monkeypatch) -> None:
    index = INDEX.principal.text(PrincipalKind.INDEX)
    monkeypatch.setenv("OST_INDEX", f"{index}@http://elsewhere.test")
    monkeypatch.setenv("OST_KEY", str(cli.root / "caller.key"))
    assert cli("user", "show").code == 0
    assert cli.connected == [("http://elsewhere.test", cli.key.principal, INDEX.principal)]


def test_beside_ost_data_neither_is_needed(cli: Cli) -> None:
    layout = DevLayout(Path("ost-data"))
    prepare_dev(layout, SeededRng())
    assert cli("user", "show").code == 0
    developer = key_at(layout.key_file, SeededRng()).principal
    index = key_at(layout.root / "index.key", SeededRng()).principal
    assert cli.connected == [("http://127.0.0.1:7100", developer, index)]


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [(("user", "show"), "--index"), (("accessor", "rm", acc(ALICE)), "--index")],
)
def test_without_any_it_says_how_to_name_them(cli: Cli, arguments, missing: str) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert f"{missing} is missing" in result.err
    assert "OST_INDEX" in result.err


def test_an_index_without_its_principal_is_a_usage_error(cli: Cli) -> None:
    result = cli("user", "show", "--index", "http://index.test", "--key", "caller.key")
    assert result.code == 2
    assert "idx1q…@" in result.err


def test_user_add(cli: Cli) -> None:
    result = cli.as_caller("user", "add", usr(ALICE), "--limit", "10GiB", "--json")
    assert cli.client.calls[0] == ("register_user", ALICE.principal, 10 << 30, "refuse")
    assert result.json["principal"] == usr(ALICE)
    assert (result.json["limit"], result.json["used"]) == (1 << 20, 2048)


def test_nobody_but_a_user_is_registered_by_mistake(cli: Cli) -> None:
    told = cli.as_caller("user", "add", BUCKET.principal.text(PrincipalKind.BUCKET), "--limit", "1")
    assert told.code == 2
    assert "expected a principal of kind usr, got bkt" in told.err
    assert not cli.client.calls


def test_user_show_is_readable(cli: Cli) -> None:
    lines = cli.as_caller("user", "show").out.splitlines()
    assert "limit      1.0 MiB (1048576 B)" in lines
    assert "used       2.0 KiB (2048 B)" in lines
    assert "reserved   7 B" in lines
    assert cli.client.calls == [("user", None)]


def test_user_set_changes_only_what_is_named(cli: Cli) -> None:
    cli.as_caller("user", "set", usr(ALICE), "--limit", "1MiB")
    names = [call[0] for call in cli.client.calls]
    assert names == ["user", "register_user", "user"]


def test_user_set_blocks_and_moves(cli: Cli) -> None:
    new = KeyPair.from_seed(bytes(32))
    cli.as_caller("user", "set", usr(ALICE), "--block", "--move-to", usr(new))
    assert cli.client.calls == [
        ("block_principal", ALICE.principal, True),
        ("change_user_principal", ALICE.principal, new.principal),
        ("user", new.principal),
    ]


def test_user_set_blocks_somebody_who_is_not_registered(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(principal=None):
        await trio.lowlevel.checkpoint()
        raise UserUnknownError("no user is registered under this principal")

    monkeypatch.setattr(cli.client, "user", unknown)
    told = cli.as_caller("user", "set", usr(ALICE), "--block", "--json")
    assert told.json == {"principal": usr(ALICE), "uid": None, "blocked": True}
    assert cli.client.calls == [("block_principal", ALICE.principal, True)]
    assert cli.as_caller("user", "set", usr(ALICE), "--block", "--limit", "1KiB").code == 4


def test_user_set_keeps_what_a_full_allowance_means_unless_it_is_named(cli: Cli) -> None:
    cli.as_caller("user", "set", usr(ALICE), "--on-full", "evict_oldest")
    cli.as_caller("user", "set", usr(ALICE), "--limit", "1KiB")
    registered = [call[1:] for call in cli.client.calls if call[0] == "register_user"]
    assert registered == [
        (ALICE.principal, 1 << 20, "evict_oldest"),
        (ALICE.principal, 1 << 10, "refuse"),
    ]
    assert cli.as_caller("user", "set", usr(ALICE), "--on-full", "explode").code == 2


def test_blobs_are_blocked_and_unblocked(cli: Cli) -> None:
    blob_id = BlobId(bytes(range(32)))
    assert cli.as_caller("blob", "block", str(blob_id), "--json").json == {
        "blob_id": str(blob_id),
        "blocked": True,
    }
    assert cli.as_caller("blob", "unblock", str(blob_id)).code == 0
    assert cli.client.calls == [("block_blob", blob_id, True), ("block_blob", blob_id, False)]


def test_blocked_blobs_are_listed_page_by_page(cli: Cli) -> None:
    assert "no blob is blocked" in cli.as_caller("blob", "blocked").out
    cli.client.blocked_blobs = 700
    told = cli.as_caller("blob", "blocked", "--json").json["blobs"]
    assert [int(each, 16) for each in told] == list(range(1, 701))


def test_user_set_of_nothing_is_a_usage_error(cli: Cli) -> None:
    assert cli.as_caller("user", "set", usr(ALICE)).code == 2
    assert not cli.client.calls


def test_user_rm(cli: Cli) -> None:
    assert cli.as_caller("user", "rm", usr(ALICE)).code == 0
    assert cli.client.calls == [("delete_user", ALICE.principal)]


def test_accessor_rm_by_the_app_needs_no_token(cli: Cli) -> None:
    cli.as_caller("accessor", "rm", acc(ALICE))
    assert cli.client.calls == [("delete_accessor", ALICE.principal, b"")]


def test_accessor_rm_with_the_chats_key_shows_its_word(cli: Cli) -> None:
    chat = cli.new_key("general.key")
    cluster = "00112233445566778899aabbccddeeff"
    cli.as_caller(
        "accessor", "rm", acc(chat), "--accessor-key", "general.key", "--cluster", cluster
    )
    ((_, accessor, token),) = cli.client.calls
    opened = open_access(
        token,
        accessor=accessor,
        cluster=ClusterId.from_hex(cluster),
        now=time.time(),
        limits=TokenLimits(),
    )
    opened.require_accessor_deletion(cli.key.principal)


def test_accessor_rm_with_another_chats_key_is_refused_here(cli: Cli) -> None:
    cli.new_key("general.key")
    result = cli.as_caller("accessor", "rm", acc(ALICE), "--accessor-key", "general.key")
    assert result.code == 2
    assert not cli.client.calls


def test_blob_put_names_type_file_and_message(cli: Cli) -> None:
    Path("cat.png").write_bytes(b"png")
    result = cli.as_caller(
        "blob", "put", "cat.png", "--accessor", acc(ALICE), "--ref", "0a0b", "--json"
    )
    ((_, source, options),) = cli.client.calls
    assert source == Path("cat.png")
    assert options["accessors"] == (ALICE.principal,)
    assert (options["content_type"], options["filename"]) == ("image/png", "cat.png")
    assert (options["ref_id"], options["expires_at"]) == (b"\x0a\x0b", 0)
    assert result.json["blob_id"] == str(BLOB)
    assert result.json["bucket"] == BUCKET_TEXT
    assert result.json["owner"] == str(UID)
    assert result.json["ref_id"] == "0a0b"


def test_blob_put_shows_its_progress_only_to_people(cli: Cli) -> None:
    Path("a").write_bytes(b"x")
    assert cli.as_caller("blob", "put", "a", "--json").err == ""


def test_blob_get_reads_ones_own_unless_a_chat_is_named(cli: Cli) -> None:
    cli.as_caller("blob", "get", BLOB)
    cli.as_caller(
        "blob", "get", BLOB, "--accessor", acc(ALICE), "--out", "copy", "--bucket", BUCKET_TEXT
    )
    own, through = cli.client.calls
    assert own[1:4] == (cli.key.principal, BLOB, Path(str(BLOB)))
    assert own[4]["bucket"] is None
    assert through[1:4] == (ALICE.principal, BLOB, Path("copy"))
    assert through[4]["bucket"] == ADDRESS


def test_blob_stat(cli: Cli) -> None:
    result = cli.as_caller("blob", "stat", BLOB, "--json")
    assert result.json == {
        "blob_id": str(BLOB),
        "size": 3,
        "content_type": "text/plain",
        "filename": "a.txt",
        "created_at": 1_700_000_000,
        "own_references": 1,
    }
    assert "2023-11-14 22:13:20 UTC" in cli.as_caller("blob", "stat", BLOB).out


def test_blob_rm_asks_who_and_where_when_it_is_not_told(cli: Cli) -> None:
    assert cli.as_caller("blob", "rm", BLOB).code == 0
    key = ReferenceKey(BLOB, UID, NULL_ACCESSOR, b"", b"")
    assert cli.client.calls == [
        ("user", None),
        ("locate", cli.key.principal, BLOB),
        ("delete_reference", ADDRESS, key),
    ]


def test_blob_rm_of_anothers_message(cli: Cli) -> None:
    cli.as_caller(
        "blob", "rm", BLOB, "--owner", UID, "--accessor", acc(ALICE), "--ref", "01",
        "--token", "AAAA", "--bucket", BUCKET_TEXT,
    )  # fmt: skip
    key = ReferenceKey(BLOB, UID, ALICE.principal, b"\x01", b"\0\0\0")
    assert cli.client.calls == [("delete_reference", ADDRESS, key)]


def test_cluster_status_is_readable_and_complete(cli: Cli) -> None:
    lines = cli.as_caller("cluster", "status").out
    for text in (
        "http://bucket.test", "50.0 GiB", "lost (active)", "rack 7", "2.0 GiB",
        "0 of 3", "(1073741824 B) wanted", "bucket 4", "no bucket stands by",
    ):  # fmt: skip
        assert text in lines
    assert lines.splitlines()[-1].endswith(" 2")
    shown = cli.as_caller("cluster", "status", "--json").json
    assert (shown["users"], shown["buckets"][0]["state"]) == (2, "active")
    fleet = shown["fleet"]
    assert (fleet["buckets"][0]["state"], fleet["making"]) == ("lost", 4)


def test_cluster_status_of_an_index_that_tells_less(cli: Cli) -> None:
    cli.client.old_index = True
    lines = cli.as_caller("cluster", "status").out
    assert "active" in lines
    assert lines.splitlines()[-1].endswith(" 2")  # of 9 feed events it has had 7
    assert "fleet" not in cli.as_caller("cluster", "status", "--json").json


@pytest.mark.parametrize(
    ("command", "state"),
    [("activate", "active"), ("standby", "standby"), ("full", "full"), ("retire", "retired")],
)
def test_operators_decide_states(cli: Cli, command: str, state: str) -> None:
    bucket = BUCKET_TEXT.partition("@")[0]
    shown = cli.as_caller("bucket", command, bucket, "--json").json
    assert shown == {"bucket": bucket, "decided": state, "state": "lost"}
    assert cli.client.calls == [("set_bucket_state", BUCKET.principal, state)]
    assert "lost" in cli.as_caller("bucket", command, bucket).out
    assert cli.as_caller("bucket", command, "usr1qq").code == 2
