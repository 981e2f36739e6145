"""Headers that make strangers' bytes safe to serve, and what uploads may say. Pure.

A blob's content type and name were chosen by whoever uploaded it. Only types that cannot run
script in the store's origin are shown inline, under a sandboxing policy all the same; everything
else is a download of unnamed bytes.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from ostnode.errors import InvalidArgumentError
from ostnode.wire.fields import FILENAME_CHARS_MAX

HeaderList = list[tuple[bytes, bytes]]

OCTETS: Final = b"application/octet-stream"
INLINE_TYPES: Final = frozenset({
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
})
_AUDIO: Final = re.compile(r"audio/[a-z0-9][a-z0-9.+-]{0,63}")
_MEDIA_TYPE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_PRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ATTR_CHARS: Final = "!#$&+^`|"
"""RFC 8187 attr-char beside what `quote` never escapes (letters, digits, `_.-~`)."""

SAFE: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'; frame-ancestors 'none'"),
    # The pages that show a blob are the app's, on another site: the token and the session guard it.
    (b"cross-origin-resource-policy", b"cross-origin"),
    (b"referrer-policy", b"no-referrer"),
)


def json_headers(media_type: bytes, body: bytes) -> HeaderList:
    """Headers of an answer of JSON that nobody stores."""
    return [
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]


def presentation(content_type: str, filename: str | None) -> HeaderList:
    """Content-Type and Content-Disposition for a blob that was uploaded as `content_type`."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in INLINE_TYPES or _AUDIO.fullmatch(media_type):
        shown, disposition = media_type.encode(), b"inline"
    elif media_type == "text/plain":
        shown, disposition = b"text/plain; charset=utf-8", b"inline"
    else:
        shown, disposition = OCTETS, b"attachment"
    if filename:
        name = quote(_NOT_PRINTABLE.sub("", filename), safe=_ATTR_CHARS)
        disposition += b"; filename*=UTF-8''" + name.encode("ascii")
    return [(b"content-type", shown), (b"content-disposition", disposition)]


def upload_content_type(value: bytes | None) -> str:
    """The content type of an upload, "" when none is given; raises InvalidArgumentError.

    Parameters are kept as they are: they are never served.
    """
    if value is None:
        return ""
    text = value.decode("latin-1").strip()
    media_type = text.partition(";")[0].strip()
    if not text.isascii() or _NOT_PRINTABLE.search(text) or not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidArgumentError("Content-Type must be a media type")
    return text


def upload_filename(value: bytes | None) -> str | None:
    """The percent-encoded UTF-8 name of an upload; raises InvalidArgumentError."""
    if value is None:
        return None
    try:
        name = unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidArgumentError("Ost-Filename must be percent-encoded UTF-8") from None
    if not 1 <= len(name) <= FILENAME_CHARS_MAX or _NOT_PRINTABLE.search(name):
        raise InvalidArgumentError(
            f"Ost-Filename must be 1 to {FILENAME_CHARS_MAX} characters without control characters"
        )
    return name
