from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostnode.base64url import decode_base64url, encode_base64url
from ostnode.errors import InvalidArgumentError


@pytest.mark.parametrize("text", ["a", "AB==", "A B", "AB", "+_8", "-/8", "-_8=", "-_9", "Ö", "\n"])
def test_only_canonical_base64url_is_read(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        decode_base64url(text)


@given(st.binary())
def test_base64url_round_trips(data: bytes) -> None:
    assert decode_base64url(encode_base64url(data)) == data
