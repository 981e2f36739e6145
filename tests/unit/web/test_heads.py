"""Heads are refused where servers and proxies could disagree about them."""

from __future__ import annotations

import h11
import pytest

from ostnode.web.heads import body_length, check_framing, head_end

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def request(*lines: bytes, target: bytes = b"/", version: bytes = b"1.1", method: bytes = b"POST"):
    parser = h11.Connection(h11.SERVER)
    start = b"%b %b HTTP/%b" % (method, target, version)
    parser.receive_data(b"\r\n".join([start, b"Host: x", *lines, b"", b""]))
    return parser.next_event()


def status_of(check, *args) -> int:
    with pytest.raises(h11.RemoteProtocolError) as caught:
        check(*args)
    return caught.value.error_status_hint


def test_a_head_ends_behind_its_blank_line_however_it_arrives() -> None:
    assert head_end(bytearray(HEAD + b"body\n more"), 0, 100) == len(HEAD)
    for cut in range(len(HEAD)):
        assert head_end(bytearray(HEAD[:cut]), 0, 100) == 0
        assert head_end(bytearray(HEAD), cut, 100) == len(HEAD)


@pytest.mark.parametrize(
    "bad",
    [b"GET / HTTP/1.1\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\n\r\n",
     b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\tf\r\n\r\n",
     b"\n"],
)  # fmt: skip
def test_bare_line_feeds_and_folds_are_refused_at_any_cut(bad: bytes) -> None:
    for cut in range(len(bad)):
        refused = 0
        try:
            first = head_end(bytearray(bad[:cut]), 0, 100)
            assert first == 0
            head_end(bytearray(bad), cut, 100)
        except h11.RemoteProtocolError as error:
            refused = error.error_status_hint
        assert refused == 400


def test_a_head_is_bounded_exactly_whether_it_ended_or_not() -> None:
    assert head_end(bytearray(HEAD), 0, len(HEAD)) == len(HEAD)
    assert status_of(head_end, bytearray(HEAD), 0, len(HEAD) - 1) == 431
    assert status_of(head_end, bytearray(b"x" * 101), 0, 100) == 431


def test_content_length_stands_once() -> None:
    check_framing(b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n")
    for lengths in (b"4, 4", b"4\r\ncontent-LENGTH: 4", b"4\r\nContent-Length : 4"):
        head = b"POST / HTTP/1.1\r\nContent-Length: %b\r\n\r\n" % lengths
        assert status_of(check_framing, head) == 400


def test_the_length_of_the_body() -> None:
    assert body_length(request()) == 0
    assert body_length(request(b"Content-Length: 7")) == 7
    assert body_length(request(b"Transfer-Encoding: chunked")) is None


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (request(b"Content-Length: 0", b"Transfer-Encoding: chunked"), 400),
        (request(b"Transfer-Encoding: chunked", b"Content-Length: 4"), 400),
        (request(b"Transfer-Encoding: chunked", version=b"1.0"), 400),
        (request(target=b"http://x/"), 400),
        (request(target=b"*", method=b"OPTIONS"), 400),
        (request(target=b"/a%00b"), 400),
        (request(target=b"x:80", method=b"CONNECT"), 405),
        (request(version=b"2.0"), 505),
        (request(version=b"0.9"), 505),
    ],
)
def test_what_is_not_a_plain_request_is_refused(bad: h11.Request, status: int) -> None:
    assert status_of(body_length, bad) == status
