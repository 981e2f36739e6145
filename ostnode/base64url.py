"""Bytes as text: base64url without padding (RFC 4648 §5), one text for one value. Pure."""

from __future__ import annotations

import base64

from ostnode.errors import InvalidArgumentError


def encode_base64url(data: bytes) -> str:
    """The one text of these bytes."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(text: str) -> bytes:
    """The bytes of their one text; raises InvalidArgumentError for any other text."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise InvalidArgumentError("not base64url without padding") from None
    if encode_base64url(data) != text:
        # Two spellings of one value (spare bits, "+/") would be two keys of one cache.
        raise InvalidArgumentError("not canonical base64url without padding")
    return data
