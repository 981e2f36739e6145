"""B22: what strangers upload cannot run in, or break, the pages that show it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostnode.errors import InvalidArgumentError
from ostnode.web.headers import presentation, upload_content_type, upload_filename


def shown(content_type: str, filename: str | None = None) -> tuple[bytes, bytes]:
    headers = dict(presentation(content_type, filename))
    return headers[b"content-type"], headers[b"content-disposition"]


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "video/mp4",
     "video/webm", "audio/ogg", "audio/x-m4a"],
)  # fmt: skip
def test_b22_harmless_media_are_inline(content_type: str) -> None:
    assert shown(content_type) == (content_type.encode(), b"inline")
    assert shown(content_type.upper() + "; x=y") == (content_type.encode(), b"inline")


def test_b22_text_is_plain_utf8_whatever_charset_it_claims() -> None:
    assert shown("text/plain; charset=utf-7") == (b"text/plain; charset=utf-8", b"inline")


@pytest.mark.parametrize(
    "content_type",
    ["image/svg+xml", "text/html", "application/xhtml+xml", "text/xml", "application/pdf",
     "text/javascript", "", "nonsense", "audio/", "audio/x\r\nSet-Cookie: a=b", "image/png\x00",
     "image/png,text/html", "multipart/x-mixed-replace"],
)  # fmt: skip
def test_b22_everything_else_is_a_download_of_unnamed_bytes(content_type: str) -> None:
    assert shown(content_type) == (b"application/octet-stream", b"attachment")


def test_b22_a_filename_is_only_ever_extended_notation() -> None:
    disposition = shown("image/png", 'ä "x"\r\nSet-Cookie: a=b;../\x7f\u009b.png')[1]
    assert disposition == (
        b"inline; filename*=UTF-8''%C3%A4%20%22x%22Set-Cookie%3A%20a%3Db%3B..%2F.png"
    )


@given(st.text(max_size=50), st.text(max_size=50).filter(lambda t: t.isprintable()))
def test_b22_no_stored_text_breaks_a_header(content_type: str, filename: str) -> None:
    for _, value in presentation(content_type, filename):
        assert value.isascii()
        assert not {10, 13, 0} & set(value)


def test_an_uploads_content_type_is_a_media_type_or_nothing() -> None:
    assert upload_content_type(None) == ""
    assert upload_content_type(b" text/plain; charset=latin1 ") == "text/plain; charset=latin1"
    for bad in (b"", b"text", b"text/", b"a b/c", b"text/plain\x01", b"text/pl\xe4in", b";/"):
        with pytest.raises(InvalidArgumentError):
            upload_content_type(bad)


def test_an_uploads_filename_is_percent_encoded_utf8_without_control_characters() -> None:
    assert upload_filename(None) is None
    assert upload_filename(b"a%20%C3%A4.png") == "a ä.png"
    assert upload_filename(b"%F0%9F%98%80" * 255) == "😀" * 255
    for bad in (b"", b"%FF", b"a%0D%0Ab", b"a%00", b"a%7F", b"%C2%85", b"x" * 256):
        with pytest.raises(InvalidArgumentError):
            upload_filename(bad)
