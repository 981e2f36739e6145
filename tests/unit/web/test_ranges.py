"""B20: ranges and conditions, as pure decisions."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostnode.errors import RangeNotSatisfiableError
from ostnode.web.ranges import Span, not_modified, requested_span

ETAG = b'"abc"'


def span(value: str, size: int = 10, if_range: bytes | None = None) -> Span | None:
    return requested_span(value.encode(), if_range, ETAG, size)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-1", (0, 2)),
        ("bytes=9-9", (9, 10)),
        ("bytes=3-", (3, 10)),
        ("bytes=3-999", (3, 10)),
        ("bytes=3-" + "9" * 30, (3, 10)),
        ("bytes=-1", (9, 10)),
        ("bytes=-10", (0, 10)),
        ("bytes=-11", (0, 10)),
        ("BYTES=2-3", (2, 4)),
    ],
)
def test_b20_one_range_is_cut_to_the_blob(value: str, expected: tuple[int, int]) -> None:
    assert span(value) == Span(*expected)


@pytest.mark.parametrize("value", ["bytes=10-", "bytes=10-10", "bytes=99-100", "bytes=-0"])
def test_b20_beyond_the_end_is_unsatisfiable_and_says_the_size(value: str) -> None:
    with pytest.raises(RangeNotSatisfiableError) as caught:
        span(value)
    assert caught.value.details == {"size": 10}


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=-5", "bytes=0-0"])
def test_b20_an_empty_blob_satisfies_no_range(value: str) -> None:
    with pytest.raises(RangeNotSatisfiableError):
        span(value, size=0)


@pytest.mark.parametrize(
    "value",
    [
        "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-4", "bytes= 0-1", "bytes=0-1 ",
        "bytes=0-1,3-4", "bytes=0-1,", "items=0-1", "bytes=0-1-2", "bytes=+1-2", "bytes=0x1-2",
        "bytes=" + "9" * 5000 + "-", "bytes=٣-",
    ],
)  # fmt: skip
def test_b20_several_or_malformed_ranges_mean_the_whole_blob(value: str) -> None:
    assert span(value) is None


def test_no_range_header_means_the_whole_blob() -> None:
    assert requested_span(None, None, ETAG, 10) is None


def test_b20_if_range_of_another_version_or_a_date_means_the_whole_blob() -> None:
    assert span("bytes=0-0", if_range=ETAG) == Span(0, 1)
    for other in (b'"abd"', b'W/"abc"', b"Wed, 21 Oct 2015 07:28:00 GMT", b""):
        assert span("bytes=0-0", if_range=other) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        (b'"abc"', True),
        (b'W/"abc"', True),
        (b'"x", "abc"', True),
        (b" * ", True),
        (b'"abcd"', False),
        (b"abc", False),
        (b"", False),
    ],
)
def test_if_none_match_compares_weakly(header: bytes | None, expected: bool) -> None:
    assert not_modified(header, ETAG) is expected


def test_four_thousand_ranges_cost_nothing() -> None:
    value = b"bytes=" + b",".join(b"%d-%d" % (i, i) for i in range(4000))
    started = time.perf_counter()
    assert requested_span(value, None, ETAG, 1 << 20) is None
    assert time.perf_counter() - started < 0.005


@given(st.text(alphabet="bytes=0123456789-, ", max_size=40), st.integers(0, 100))
def test_any_header_gives_a_span_within_the_blob_or_a_refusal(value: str, size: int) -> None:
    try:
        found = span(value, size)
    except RangeNotSatisfiableError:
        return
    assert found is None or 0 <= found.start < found.stop <= size
