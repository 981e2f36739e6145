"""Join tokens as text, and what a bucket's config says of its index."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ostnode.config import ConfigError, JoinToken, parse_config
from ostnode.config.values import BadValueError
from ostnode.ids import Principal, PrincipalKind

INDEX = Principal(bytes(range(32)))
TOKEN = JoinToken(INDEX, "index.example.org:7101", b"invite-8", b"s" * 32)
TEXT = TOKEN.text()
SECRET = TEXT.rpartition(".")[2]


def test_a_token_is_one_line_and_comes_back() -> None:
    assert re.fullmatch(r"idx1q[a-z0-9]{58}@index\.example\.org:7101#[\w-]{11}\.[\w-]{43}", TEXT)
    assert JoinToken.parse(TEXT) == TOKEN
    assert JoinToken.parse(f"  {TEXT}\n") == TOKEN


def test_a_secret_is_not_shown_by_accident() -> None:
    for shown in (str(TOKEN), repr(TOKEN)):
        assert SECRET not in shown
        assert "ssss" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        TEXT[:-1],
        TEXT[:-4],
        TEXT + "A",
        replace(TOKEN, secret=b"s" * 31).text(),
        replace(TOKEN, invite_id=b"invite-nine").text(),
        TEXT.replace("#", "?"),
        TEXT.replace("@", "#"),
        TEXT.replace(":7101", ""),
        TEXT.replace("idx1", "bkt1"),
        TEXT.replace("idx1q", "idx1p"),
    ],
)
def test_what_is_no_token_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(BadValueError) as refused:
        JoinToken.parse(text)
    assert SECRET[:20] not in refused.value.problem + refused.value.hint
    assert re.search("ostnode bucket invite|host:port", refused.value.hint)


def table(**keys: object) -> dict[str, object]:
    return {
        "key_file": "key",
        "data_dir": "data",
        "http": "127.0.0.1:1",
        "peer": "127.0.0.1:2",
        "admin": "127.0.0.1:3",
        **keys,
    }


def parsed(environ: dict[str, str] | None = None, **keys: object):
    document = {"cluster_id": "00" * 16, "bucket": [table(**keys)]}
    return parse_config(document, environ or {}, base=Path("/base"))


def test_a_bucket_takes_a_token_from_its_config_or_the_environment() -> None:
    assert parsed(join=TEXT).bucket[0].join == TOKEN
    assert parsed({"OST_BUCKET_0_JOIN": TEXT}).bucket[0].join == TOKEN
    assert parsed(join="").bucket[0].join is None


def test_b52_a_line_is_taken_without_tls_on_loopback_only() -> None:
    """Or the secret would be told to whoever listens on the way."""
    document = {"cluster_id": "00" * 16, "node": {"peer_tls": False}}
    for text, told in ((TEXT, True), (replace(TOKEN, peer="127.0.0.1:7").text(), False)):
        document["bucket"] = [table(join=text)]
        if told:
            with pytest.raises(
                ConfigError, match=r"bucket\[0\].join: .*not on loopback"
            ) as refused:
                parse_config(document, {}, base=Path("/base"))
            assert SECRET not in str(refused.value)
        else:
            assert parse_config(document, {}, base=Path("/base")).bucket[0].join is not None
    document["bucket"] = [table(join="nonsense")]
    with pytest.raises(ConfigError) as refused:
        parse_config(document, {}, base=Path("/base"))
    assert len(refused.value.mistakes) == 1


def test_a_bucket_that_has_joined_needs_none() -> None:
    bucket = parsed().bucket[0]
    assert (bucket.index, bucket.index_peer, bucket.join) == (None, "", None)


def test_a_shown_config_has_no_secret() -> None:
    shown = str(parsed(join=TEXT).model_dump(mode="json"))
    assert "index.example.org:7101#" in shown
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("keys", "key", "problem"),
    [
        ({"index_peer": "h:1"}, "index_peer", "go together"),
        ({"index": INDEX.text(PrincipalKind.INDEX)}, "index_peer", "go together"),
        (
            {"index": INDEX.text(PrincipalKind.INDEX), "index_peer": "h:1", "join": TEXT},
            "join",
            "index is given too",
        ),
        ({"join": TEXT[:-1]}, "join", "no join token"),
        ({"join": 5}, "join", "is a text"),
    ],
)
def test_b52_what_does_not_go_together_is_told(keys, key: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed(**keys)
    (mistake,) = refused.value.mistakes
    assert mistake.key == f"bucket[0].{key}"
    assert problem in mistake.problem
    assert SECRET not in str(refused.value)
