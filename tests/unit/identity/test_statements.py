"""The text form of tokens and the memory of verified ones."""

from __future__ import annotations

import pytest

from ostnode.errors import TokenInvalidError
from ostnode.identity.tokens import VerifiedCache, decode_text, encode_text


@pytest.mark.parametrize("length", range(8))
def test_text_is_base64url_without_padding(length: int) -> None:
    token = bytes(range(248, 248 + length))
    text = encode_text(token)
    assert not set(text) & set("+/=")
    assert decode_text(text) == token


def test_the_alphabet_is_the_url_safe_one() -> None:
    assert encode_text(b"\xfb\xef\xff") == "--__"


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAAAA",
        "AA==",
        "AA=",
        "++//",
        "AA AA",
        "AAAA\n",
        "AAéé",
        "AB",  # the last four bits are not zero: a second form of AA
        "AAAA=",
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(TokenInvalidError):
        decode_text(text)


def test_the_longest_token_has_a_text() -> None:
    assert decode_text(encode_text(bytes(1024))) == bytes(1024)
    with pytest.raises(TokenInvalidError, match="at most 1366"):
        decode_text(encode_text(bytes(1025)))


def test_the_cache_forgets_at_the_end() -> None:
    cache = VerifiedCache[str](10)
    assert cache.get(b"a", 0) is None
    cache.put(b"a", "alice", expires_at=100)
    assert cache.get(b"a", 99.9) == "alice"
    assert cache.get(b"a", 100) is None
    assert len(cache) == 0


def test_the_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    cache = VerifiedCache[str](2)
    cache.put(b"a", "alice", expires_at=100)
    cache.put(b"b", "bob", expires_at=100)
    assert cache.get(b"a", 1) == "alice"
    cache.put(b"c", "carol", expires_at=100)
    assert len(cache) == 2
    assert cache.get(b"b", 1) is None
    assert cache.get(b"a", 1) == "alice"


def test_what_is_verified_again_counts_as_used() -> None:
    cache = VerifiedCache[str](2)
    cache.put(b"a", "alice", expires_at=100)
    cache.put(b"b", "bob", expires_at=100)
    cache.put(b"a", "alice again", expires_at=200)
    cache.put(b"c", "carol", expires_at=100)
    assert cache.get(b"a", 150) == "alice again"
    assert cache.get(b"b", 1) is None
