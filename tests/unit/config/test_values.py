"""Sizes, durations, addresses, URLs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostnode.config.values import (
    BadValueError,
    parse_address,
    parse_base_url,
    parse_duration,
    parse_size,
    parse_whole_seconds,
)
from ostnode.ids import SIZE_MAX


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("10GiB", 10 << 30),
        ("1 MiB", 1 << 20),
        (" 64KiB ", 64 << 10),
        ("2TiB", 2 << 40),
        ("512B", 512),
        ("512", 512),
        (512, 512),
        (0, 0),
    ],
)
def test_sizes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize(
    "value",
    ["1GB", "10 gib", "1.5GiB", "-1B", "GiB", "", "1GiB2", "١KiB", "0x10", True, 1.5, None, []],
)
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(BadValueError) as caught:
        parse_size(value)
    assert "10GiB" in caught.value.hint


def test_a_size_fits_63_bits() -> None:
    with pytest.raises(BadValueError, match="63 bits"):
        parse_size("8388608TiB")
    assert parse_size("8388607TiB") == 8388607 << 40
    assert parse_size(str(SIZE_MAX)) == SIZE_MAX


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("250ms", 0.25),
        ("10s", 10),
        ("15m", 900),
        ("1 h", 3600),
        ("7d", 604_800),
        (10, 10),
        (0.5, 0.5),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize("value", ["10", "10sec", "1h30m", "-1s", "1.5s", "", True, None, [1]])
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(BadValueError) as caught:
        parse_duration(value)
    assert "15m" in caught.value.hint


def test_whole_seconds_are_whole() -> None:
    assert parse_whole_seconds("1m") == 60
    assert isinstance(parse_whole_seconds("2000ms"), int)
    for value in ("1500ms", 0.5, float("inf"), float("nan")):
        with pytest.raises(BadValueError, match="whole number of seconds"):
            parse_whole_seconds(value)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("127.0.0.1:7100", "127.0.0.1:7100"),
        ("0.0.0.0:0", "0.0.0.0:0"),
        ("bucket-1.example.org:65535", "bucket-1.example.org:65535"),
        ("[::1]:7100", "[::1]:7100"),
        ("localhost:080", "localhost:80"),
    ],
)
def test_addresses(value: str, address: str) -> None:
    assert parse_address(value) == address


@pytest.mark.parametrize(
    "value",
    [
        "127.0.0.1",
        ":7100",
        "7100",
        "host:",
        "host:port",
        "host:65536",
        "host:-1",
        "::1:7100",
        "[::1]",
        "host name:1",
        "http://host:1",
        "host:1/path",
        "host:١",
        7100,
    ],
)
def test_what_is_no_address(value: object) -> None:
    with pytest.raises(BadValueError):
        parse_address(value)


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("http://127.0.0.1:7110", "http://127.0.0.1:7110"),
        ("https://bucket.example.org/", "https://bucket.example.org"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_base_urls(value: str, url: str) -> None:
    assert parse_base_url(value) == url


@pytest.mark.parametrize(
    "value",
    [
        "bucket.example.org",
        "ftp://bucket.example.org",
        "https://",
        "https://host/path",
        "https://host?query",
        "https://host#fragment",
        "https://user@host",
        "https://host:99999",
        "https://host:port",
        "https://[::1",
        "HTTPS://host",
        "https://ho st",
        "",
        5,
        Path("/"),
    ],
)
def test_what_is_no_base_url(value: object) -> None:
    with pytest.raises(BadValueError):
        parse_base_url(value)
