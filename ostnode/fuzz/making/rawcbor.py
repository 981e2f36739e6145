"""CBOR that is not strict: encodings with one quirk, for values that are fine otherwise."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from ostnode.fuzz.making.material import INTERESTING

_MAJORS: Final[dict[type, int]] = {bytes: 2, str: 3, list: 4, dict: 5}
_TAGS: Final = (
    0,
    1,
    2,
    3,
    4,
    18,
    24,
    25,
    28,
    29,
    30,
    35,
    36,
    37,
    61,
    100,
    256,
    258,
    55_799,
    1 << 63,
)
"""Those that general decoders act on, self-describing CBOR, and one of eight bytes."""


def head(major: int, number: int, width: int = -1) -> bytes:
    """A head; `width` forces how many bytes the argument takes (0: inside the first byte)."""
    if width < 0:
        width = next(
            w
            for w, top in ((0, 24), (1, 1 << 8), (2, 1 << 16), (4, 1 << 32), (8, 1 << 64))
            if number < top
        )
    if width == 0:
        return bytes((major << 5 | number,))
    return bytes((major << 5 | 23 + width.bit_length(),)) + number.to_bytes(width, "big")


def plain(value: object) -> bytes:
    """The value's strict encoding, without any limit."""
    match value:
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            raw = value.encode("utf-8", "surrogatepass")
            return head(3, len(raw)) + raw
        case list():
            return head(4, len(value)) + b"".join(map(plain, value))
        case dict():
            entries = sorted((plain(key), plain(item)) for key, item in value.items())
            return head(5, len(value)) + b"".join(key + item for key, item in entries)
        case _:
            return b"\xf6"


def with_quirk(rng: Random, value: object) -> tuple[str, bytes]:
    """The value encoded with one quirk somewhere, and the quirk's name."""
    name, quirk = rng.choice(_QUIRKS)
    return name, _at(rng, value, rng.randrange(_count(value)), quirk)


def _count(value: object) -> int:
    """How many places a quirk may take: every value, keys apart."""
    if isinstance(value, dict):
        return 1 + sum(map(_count, value.values()))
    if isinstance(value, list):
        return 1 + sum(map(_count, value))
    return 1


def _at(rng: Random, value: object, place: int, quirk: _Quirk) -> bytes:
    """The encoding, with the quirk at the value that is number `place` in order."""
    if place == 0:
        return quirk(rng, value)
    place -= 1
    parts: list[tuple[bytes, bytes]] = []
    items = list(value.items()) if isinstance(value, dict) else []
    if isinstance(value, list):
        items = list(enumerate(value))
    for key, item in items:
        size = _count(item)
        inside = 0 <= place < size
        encoded = _at(rng, item, place, quirk) if inside else plain(item)
        place -= size
        parts.append((plain(key) if isinstance(value, dict) else b"", encoded))
    if isinstance(value, dict):
        parts.sort(key=lambda part: part[0])
    return head(_MAJORS[type(value)], len(parts)) + b"".join(map(b"".join, parts))


_Quirk = Callable[[Random, object], bytes]


def _wide(rng: Random, value: object) -> bytes:
    """A head wider than it needs to be; everything has one, but true, false and null."""
    strict = plain(value)
    major, low = strict[0] >> 5, strict[0] & 31
    width = 0 if low < 24 else 1 << (low - 24)  # noqa: PLR2004
    number = low if width == 0 else int.from_bytes(strict[1 : 1 + width], "big")
    wider = rng.choice([w for w in (1, 2, 4, 8) if w > width] or [8])
    return head(major, number, wider) + strict[1 + width :]


def _tagged(rng: Random, value: object) -> bytes:
    tags = b"".join(head(6, rng.choice(_TAGS)) for _ in range(rng.choice((1, 1, 1, 2, 200))))
    return tags + plain(value)


def _indefinite(rng: Random, value: object) -> bytes:
    match value:
        case bytes() | str():
            return bytes((_MAJORS[type(value)] << 5 | 31,)) + plain(value) + b"\xff"
        case list():
            return b"\x9f" + b"".join(map(plain, value)) + b"\xff"
        case dict():
            body = b"".join(plain(key) + plain(item) for key, item in sorted(value.items()))
            return b"\xbf" + body + b"\xff"
        case _:
            return rng.choice((b"\xff", b"\x9f\xff", b"\x5f\xff", b"\xbf\xff"))


def _simple(rng: Random, _value: object) -> bytes:
    floats = (b"\xf9\x7e\x00", b"\xfa" + bytes(4), b"\xfb\x7f\xf0" + bytes(6), b"\xf9\x3c\x00")
    return rng.choice((*floats, b"\xf7", b"\xf8\x20", b"\xf8\xff", b"\xe0", b"\xf8\x14", b"\xfc"))


def _bad_keys(rng: Random, value: object) -> bytes:
    """A map with its keys repeated, out of order, or no texts; for anything else, such a map."""
    entries = (
        [(plain(key), plain(item)) for key, item in sorted(value.items())]
        if isinstance(value, dict)
        else [(b"aa", b"\x01"), (b"ab", b"\x02")]
    )
    entries = entries or [(b"aa", b"\x01")]
    match rng.randrange(4):
        case 0:
            entries.insert(0, rng.choice(entries))
        case 1:
            entries.append(rng.choice(entries))
        case 2:
            rng.shuffle(entries)
            entries.append((b"\x60", b"\x00"))
        case _:
            odd = rng.choice((b"\x00", b"\x41a", b"\xf6", b"\x80", b"\xa0", b"\x61\xff"))
            entries.insert(rng.randrange(len(entries) + 1), (odd, b"\x00"))
    return head(5, len(entries)) + b"".join(map(b"".join, entries))


def _deep(rng: Random, _value: object) -> bytes:
    """Nested about as deep as is allowed, or much deeper."""
    depth = rng.choice((13, 14, 15, 16, 17, 100, 5_000))
    opening = rng.choice((b"\x81", b"\xa1\x61a"))
    return opening * depth + b"\x00"


def _many(rng: Random, _value: object) -> bytes:
    """About as many items as are allowed, or a count that lies."""
    count = rng.choice((4_080, 4_089, 4_090, 4_091, 4_092, 4_096, 4_097, 60_000))
    items = rng.choice((b"\x00" * count, b"\x80" * count))
    if rng.random() < 0.3:  # noqa: PLR2004
        items = b""
        count = rng.choice([number for number in INTERESTING if number > count] or [count])
    return head(4, count) + items


def _many_keys(rng: Random, _value: object) -> bytes:
    """A map of many keys, in order."""
    count = rng.choice((2_000, 4_000, 4_080))
    return head(5, count) + b"".join(b"\x64%04d\x00" % number for number in range(count))


def _lying(rng: Random, value: object) -> bytes:
    """A length that is not that of what follows."""
    major = _MAJORS.get(type(value), 2)
    return head(major, rng.choice(INTERESTING), rng.choice((-1, -1, 8))) + plain(value)


def _bad_text(rng: Random, _value: object) -> bytes:
    raws = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"a" * 70_000)
    raw = rng.choice(raws)
    return head(3, len(raw)) + raw


def _swapped(rng: Random, _value: object) -> bytes:
    """Something fine of another type."""
    others: tuple[object, ...] = (
        True,
        None,
        -1,
        0,
        (1 << 64) - 1,
        -(1 << 63),
        "",
        b"",
        [],
        {},
        [[]],
        "\x00",
        b"\x00" * 64,
    )
    return plain(rng.choice(others))


def _beyond(_rng: Random, _value: object) -> bytes:
    """The least integer below 64 bits."""
    return head(1, 1 << 63)


def _cut(rng: Random, value: object) -> bytes:
    strict = plain(value)
    return strict[: rng.randrange(len(strict))]


_QUIRKS: Final[tuple[tuple[str, _Quirk], ...]] = (
    ("a wide head", _wide),
    ("a tag", _tagged),
    ("an indefinite length", _indefinite),
    ("a simple value", _simple),
    ("bad keys", _bad_keys),
    ("depth", _deep),
    ("many items", _many),
    ("many keys", _many_keys),
    ("a lying length", _lying),
    ("a bad text", _bad_text),
    ("another type", _swapped),
    ("a large negative", _beyond),
    ("a value cut short", _cut),
)
