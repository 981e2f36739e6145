"""What a request's head must look like before anything acts on it. Pure.

h11 is lenient where intermediaries disagree, and disagreement is what request smuggling is made
of (RFC 9112 §11.2). Refused here: bare LF, folded lines, repeated or listed Content-Length,
Content-Length beside Transfer-Encoding, Transfer-Encoding in HTTP/1.0, other targets than paths,
NUL in the path, other versions than 1.0 and 1.1 (HTTP/2's preface among them), CONNECT.
"""

from __future__ import annotations

import re
from typing import Final

import h11

_END: Final = b"\r\n\r\n"
_BAD_LINE: Final = re.compile(rb"(?<!\r)\n|\n[ \t]")
_LENGTH: Final = re.compile(rb"\ncontent-length[ \t]*:([^\r]*)", re.IGNORECASE)


def refuse(why: str, status: int = 400) -> h11.RemoteProtocolError:
    """The error that is answered with `status`, after which the connection closes."""
    return h11.RemoteProtocolError(why, error_status_hint=status)


def head_end(buffer: bytearray, searched: int, head_bytes_max: int) -> int:
    """Where the head in `buffer` ends (behind its blank line), or 0 while it is incomplete.

    `searched` bytes were looked at before. Raises RemoteProtocolError for a malformed line or a
    head that is too long.
    """
    end = buffer.find(_END, max(0, searched - len(_END) + 1))
    stop = end + len(_END) if end >= 0 else len(buffer)
    if stop > head_bytes_max:
        raise refuse("the request's head is too long", 431)
    if _BAD_LINE.search(buffer, max(0, searched - 1), stop):
        raise refuse("a line of the head ends or starts wrongly")
    return stop if end >= 0 else 0


def check_framing(head: bytes) -> None:
    """Refuse Content-Length twice or as a list: h11 would fold equal values into one."""
    lengths = _LENGTH.findall(head)
    if len(lengths) > 1 or (lengths and b"," in lengths[0]):
        raise refuse("Content-Length must be given once")


def body_length(request: h11.Request) -> int | None:
    """How many bytes of body follow; None when it is chunked. Raises RemoteProtocolError."""
    if request.http_version not in {b"1.0", b"1.1"}:
        raise refuse("only HTTP/1.0 and HTTP/1.1 are spoken here", 505)
    if request.method == b"CONNECT":
        raise refuse("this is not a proxy", 405)
    if not request.target.startswith(b"/") or b"%00" in request.target:
        raise refuse("the target must be a path, without NUL")
    length: int | None = None
    chunked = False
    for name, value in request.headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            chunked = True
    if chunked and (length is not None or request.http_version == b"1.0"):
        raise refuse("Transfer-Encoding beside Content-Length, or in HTTP/1.0")
    return None if chunked else length or 0
