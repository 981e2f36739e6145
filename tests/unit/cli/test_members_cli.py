"""`ostnode bucket invite, ls, approve, revoke`, against a scripted client."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import trio

from ostnode.cli import members
from ostnode.client.errors import UnreachableError
from ostnode.config import JoinToken
from ostnode.errors import (
    BusyError,
    InvalidArgumentError,
    NotAuthorizedError,
    UnauthenticatedError,
)
from ostnode.ids import Principal, PrincipalKind
from ostnode.wire import membership as mb
from tests.support.cli import BUCKET, INDEX, Cli

BUCKET_TEXT = BUCKET.principal.text(PrincipalKind.BUCKET)
INVITE = bytes(range(8))
OTHERS = [Principal(bytes([number]) * 32) for number in range(70)]


@dataclass
class Operated:
    """Notes each call; has 70 members, told in two pages."""

    peer: str = "index.test:7101"
    address: str = ""
    calls: list[tuple] = field(default_factory=list)

    async def invite_bucket(self, ttl_s: int, *, auto_approve: bool, label: str) -> mb.Invitation:
        self.calls.append((ttl_s, auto_approve, label))
        return mb.Invitation(INVITE, b"s" * 32, INDEX.principal, self.peer, 1_700_000_900)

    async def list_members(self, after: Principal | None = None) -> mb.MemberPage:
        self.calls.append(("list", after))
        first = 0 if after is None else OTHERS.index(after) + 1
        members = tuple(
            mb.MemberInfo(
                each, "pending", each, self.address, "disk 7", configured=False, changed_at=0
            )
            for each in OTHERS[first : first + mb.MEMBERS_TOLD_MAX]
        )
        invite = mb.InviteInfo(INVITE, 1_700_000_900, auto_approve=True, label="", failures=2)
        return mb.MemberPage(17, members, () if after else (invite,))

    async def approve_bucket(self, bucket: Principal) -> None:
        self.calls.append(("approve", bucket))

    async def revoke_bucket(self, bucket: Principal) -> None:
        self.calls.append(("revoke", bucket))

    async def withdraw_invite(self, invite_id: bytes) -> None:
        self.calls.append(("withdraw", invite_id))


@pytest.fixture
def operated(cli: Cli) -> Operated:
    cli.client = Operated()
    return cli.client


def test_an_invite_is_one_line_that_parses(cli: Cli, operated: Operated) -> None:
    result = cli.as_caller("bucket", "invite", "--ttl", "5m", "--auto-approve", "--label", "new")
    assert operated.calls == [(300, True, "new")]
    assert result.out.count("\n") == 1
    token = JoinToken.parse(result.out)
    assert token == JoinToken(INDEX.principal, "index.test:7101", INVITE, b"s" * 32)


def test_an_invite_lives_a_quarter_of_an_hour_unless_told(cli: Cli, operated: Operated) -> None:
    told = cli.as_caller("bucket", "invite", "--json").json
    assert operated.calls == [(900, False, "")]
    assert told["expires_at"] == 1_700_000_900
    assert told["auto_approve"] is False
    assert JoinToken.parse(told["join"]).secret == b"s" * 32
    assert told["invite"] in told["join"]


def test_an_index_that_does_not_know_its_address_is_told_one(cli: Cli, operated: Operated) -> None:
    operated.peer = ""
    result = cli.as_caller("bucket", "invite")
    assert result.code == 2
    assert "--address" in result.err
    assert "#" not in result.out + result.err
    result = cli.as_caller("bucket", "invite", "--address", "10.0.0.1:7101")
    assert JoinToken.parse(result.out).peer == "10.0.0.1:7101"


def test_a_long_label_is_a_usage_error(cli: Cli, operated: Operated) -> None:
    assert cli.as_caller("bucket", "invite", "--label", "x" * 33).code == 2
    assert operated.calls == []


def test_ls_shows_all_pages_and_the_invites(cli: Cli, operated: Operated) -> None:
    result = cli.as_caller("bucket", "ls")
    assert operated.calls == [("list", None), ("list", OTHERS[63])]
    assert result.out.count("disk 7") == 70
    assert "automatic" in result.out
    assert cli.as_caller("bucket", "ls", "--json").json["members"][69]["principal"] == OTHERS[
        69
    ].text(PrincipalKind.BUCKET)


def test_approve_and_revoke(cli: Cli, operated: Operated) -> None:
    assert cli.as_caller("bucket", "approve", BUCKET_TEXT).code == 0
    assert cli.as_caller("bucket", "revoke", BUCKET_TEXT).code == 0
    for invite in ("-AECAwQFBgc", "--ECAwQFBgc"):
        assert cli.as_caller("bucket", "revoke", invite).code == 0
    del operated.calls[2:]
    result = cli.as_caller("bucket", "revoke", "AAECAwQFBgc", "--json")
    assert result.json == {"withdrawn": "AAECAwQFBgc"}
    bucket = BUCKET.principal
    assert operated.calls == [("approve", bucket), ("revoke", bucket), ("withdraw", INVITE)]


@pytest.mark.parametrize(
    "text", ["bkt1nonsense", "AAECAwQFBg", "!", INDEX.principal.text(PrincipalKind.INDEX)]
)
def test_what_is_neither_bucket_nor_invite_is_a_usage_error(
    cli: Cli, operated: Operated, text: str
) -> None:
    assert cli.as_caller("bucket", "revoke", text).code == 2
    assert cli.as_caller("bucket", "approve", text).code == 2
    assert operated.calls == []


@pytest.mark.parametrize(
    ("failure", "code", "told", "hint"),
    [
        (
            InvalidArgumentError("it is not over", old_until=1_700_000_000),
            2,
            "counts until 2023-11-14 22:13:20 UTC",
            "revoke the bucket",
        ),
        (NotAuthorizedError("only the present key"), 4, "only the present key", "bucket ls"),
        (UnauthenticatedError("another key"), 4, "another key", "index's change of keys"),
        (BusyError("later"), 6, "later", "the same command"),
        (UnreachableError("h:1", "refused"), 6, "h:1", "bucket[0].index_peer"),
    ],
)
def test_a_refused_change_of_keys_says_what_to_do(
    cli: Cli, monkeypatch, failure: Exception, code: int, told: str, hint: str
) -> None:
    async def refused(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise failure

    monkeypatch.setattr(members, "rotate_bucket_key", refused)
    monkeypatch.setattr(members, "load_config", lambda *_: None)
    result = cli("bucket", "rotate-key", "bucket.toml")
    assert result.code == code
    assert told in result.err
    assert hint in result.err.partition("hint: ")[2]
    assert "old_until" not in result.err
    error = cli("bucket", "rotate-key", "bucket.toml", "--json").error
    assert error["code"] == getattr(failure, "code", "unreachable")


def test_what_a_bucket_says_of_itself_is_shown_as_text(cli: Cli, operated: Operated) -> None:
    """Its address is its own word, and operators look at it before they approve."""
    operated.address = "http://a\x1b[2J\x9b1m.test"
    for result in (cli.as_caller("bucket", "ls"), cli.as_caller("bucket", "ls", "--json")):
        assert all(line.isprintable() for line in result.out.splitlines())


def test_a_key_is_not_changed_where_no_bucket_is(cli: Cli, operated: Operated) -> None:
    table = """
cluster_id = "00000000000000000000000000000000"
[[bucket]]
key_file = "bucket.key"
data_dir = "data"
http = "127.0.0.1:1"
peer = "127.0.0.1:2"
admin = "127.0.0.1:3"
"""
    (cli.root / "bucket.toml").write_text(table)
    cli.new_key("bucket.key")
    result = cli("bucket", "rotate-key", "bucket.toml")
    assert (result.code, "joined no index yet" in result.err) == (1, True)
    result = cli("bucket", "rotate-key", "bucket.toml", "--number", "1")
    assert (result.code, "no bucket[1]" in result.err) == (1, True)
    assert cli("bucket", "rotate-key", "bucket.toml", "--overlap", "91d").code == 2
    assert cli("bucket", "rotate-key", "nowhere.toml").code == 2
    assert not (cli.root / "bucket.key.next").exists()
