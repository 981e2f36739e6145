"""The judge's reading of strict CBOR, against the codec's: two programs, one rule."""

from __future__ import annotations

from random import Random

import pytest

from ostnode.codec import decode, encode
from ostnode.errors import InvalidArgumentError
from ostnode.fuzz.making.rawcbor import plain, with_quirk
from ostnode.fuzz.strictcbor import NotStrictError, read_strict

VALUE = {"a": [1, -1, b"\x00", "é", None, True, {"b": 1 << 40, "c": []}], "dd": -(1 << 63)}


def both(data: bytes) -> tuple[object, object]:
    """What each of them makes of the data; None for a refusal."""
    try:
        theirs = [decode(data)]
    except InvalidArgumentError:
        theirs = None
    try:
        ours = [read_strict(data)]
    except NotStrictError:
        ours = None
    return theirs, ours


def test_they_agree_on_values_with_quirks() -> None:
    rng, accepted = Random(1), 0
    for _ in range(1200):
        _, data = with_quirk(rng, VALUE)
        theirs, ours = both(data)
        assert theirs == ours, data[:80].hex()
        accepted += ours is not None
    assert 20 < accepted < 600


def test_they_agree_on_flipped_bytes() -> None:
    rng, strict = Random(2), encode(VALUE)
    for _ in range(1200):
        data = bytearray(strict)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        theirs, ours = both(bytes(data))
        assert theirs == ours, data.hex()


def test_a_plain_encoding_is_strict() -> None:
    assert plain(VALUE) == encode(VALUE)


@pytest.mark.parametrize(
    ("data", "accepted"),
    [
        (b"\x81" * 16 + b"\x00", True),
        (b"\x81" * 17 + b"\x00", False),
        (b"\x81" * 15 + b"\x80", True),
        (b"\x81" * 16 + b"\x80", False),
        (b"\x99\x10\x00" + b"\x00" * 4096, True),
        (b"\x99\x10\x01" + b"\x00" * 4097, False),
        (b"\x59\xff\xfd" + bytes(65_533), True),
        (b"\x59\xff\xfe" + bytes(65_534), False),
        (b"\x3b\x7f" + b"\xff" * 7, True),
        (b"\x3b\x80" + bytes(7), False),
        (b"\xa1\x60\x00", True),
    ],
)
def test_the_limits_are_those_of_the_text(data: bytes, accepted: bool) -> None:
    theirs, ours = both(data)
    assert (ours is not None) is accepted
    assert theirs == ours
