"""Names of things: BlobId, Principal, Uid, GrantId, and their text forms.

A BlobId prints as 64 lower-case hex digits (as `b3sum` does). A principal prints as Bech32m
(BIP-350) with one of six human-readable parts and the version symbol `q`: 63 lower-case
characters, one DNS label.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Final, Self

from typing_extensions import override

from ostnode.errors import InvalidArgumentError

SIZE_MAX: Final = (1 << 63) - 1
"""Sizes and sequence numbers fit a signed 64-bit integer in every engine."""
REF_ID_BYTES_MAX: Final = 16
PRINCIPAL_TEXT_CHARS: Final = 63


class FixedBytes(bytes):
    """Immutable bytes of one exact length; wrong lengths raise InvalidArgumentError."""

    __slots__ = ()
    length: ClassVar[int] = 0
    label: ClassVar[str] = "id"

    def __new__(cls, value: bytes | bytearray | memoryview) -> Self:
        if len(value) != cls.length:
            raise InvalidArgumentError(f"a {cls.label} has {cls.length} bytes, not {len(value)}")
        return bytes.__new__(cls, value)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Parse exactly `2 * length` lower-case hex digits."""
        if len(text) != 2 * cls.length or text.strip("0123456789abcdef"):
            raise InvalidArgumentError(f"a {cls.label} is {2 * cls.length} lower-case hex digits")
        return cls(bytes.fromhex(text))

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    @override
    def __str__(self) -> str:
        return self.hex()


class BlobId(FixedBytes):
    """BLAKE3-256 of a blob's bytes."""

    __slots__ = ()
    length = 32
    label = "blob id"


class Uid(FixedBytes):
    """One registration of a user: 8 random bytes, never reused, never a counter."""

    __slots__ = ()
    length = 8
    label = "uid"


class GrantId(FixedBytes):
    """A grant's cti: the index incarnation (u64, big-endian, microseconds) then 8 random bytes."""

    __slots__ = ()
    length = 16
    label = "grant id"

    @property
    def incarnation(self) -> int:
        """The index incarnation that issued this grant, in microseconds since 1970."""
        return int.from_bytes(self[:8], "big")


class ClusterId(FixedBytes):
    """16 random bytes made with the index key, in every node's config."""

    __slots__ = ()
    length = 16
    label = "cluster id"


class PrincipalKind(StrEnum):
    """The human-readable part of a principal's text form; it is not part of the 32 bytes."""

    USER = "usr"
    ACCESSOR = "acc"
    APP = "app"
    BUCKET = "bkt"
    INDEX = "idx"
    OPERATOR = "opr"


class Principal(FixedBytes):
    """An Ed25519 public key. Whether it is a valid point is checked where keys are used."""

    __slots__ = ()
    length = 32
    label = "principal"

    def text(self, kind: PrincipalKind) -> str:
        """The 63-character Bech32m form."""
        data = [_VERSION_SYMBOL, *_regroup(self, 8, 5)]
        checksum = _polymod([*_expand(kind), *data, 0, 0, 0, 0, 0, 0]) ^ _BECH32M_CONST
        data += [(checksum >> 5 * (5 - i)) & 31 for i in range(6)]
        return f"{kind}1" + "".join(_CHARSET[symbol] for symbol in data)

    @classmethod
    def parse(cls, text: str, kind: PrincipalKind | None = None) -> Self:
        """Parse the text form; with `kind`, refuse another human-readable part.

        Raises InvalidArgumentError for anything but one canonical lower-case form.
        """
        if len(text) != PRINCIPAL_TEXT_CHARS or text[3] != "1":
            raise InvalidArgumentError("a principal is 63 characters: kind, 1, data")
        try:
            found = PrincipalKind(text[:3])
            data = [_SYMBOLS[char] for char in text[4:]]
        except (ValueError, KeyError):
            raise InvalidArgumentError("not a principal: unknown kind or character") from None
        if kind is not None and found is not kind:
            raise InvalidArgumentError(f"expected a principal of kind {kind}, got {found}")
        if _polymod([*_expand(found), *data]) != _BECH32M_CONST:
            raise InvalidArgumentError("the principal's checksum is wrong: mistyped?")
        if data[0] != _VERSION_SYMBOL:
            raise InvalidArgumentError("unknown principal version")
        return cls(_ungroup(data[1:-6]))


NULL_ACCESSOR: Final = Principal(bytes(32))
"""What an upload without accessors refers to. Not a valid point: nobody can sign for it."""

_CHARSET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_SYMBOLS: Final = {char: value for value, char in enumerate(_CHARSET)}
_BECH32M_CONST: Final = 0x2BC830A3
_VERSION_SYMBOL: Final = 0
_GENERATORS: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def _polymod(values: list[int]) -> int:
    """The BCH checksum of BIP-173, shared by BIP-350."""
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(_GENERATORS):
            if (top >> i) & 1:
                check ^= generator
    return check


def _expand(prefix: str) -> list[int]:
    return [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]


def _regroup(data: bytes, from_bits: int, to_bits: int) -> list[int]:
    """Regroup bits big-endian, padding the last group with zeros."""
    accumulator, bits, out = 0, 0, []
    for value in data:
        accumulator = accumulator << from_bits | value
        bits += from_bits
        while bits >= to_bits:
            bits -= to_bits
            out.append(accumulator >> bits & ((1 << to_bits) - 1))
    if bits:
        out.append(accumulator << (to_bits - bits) & ((1 << to_bits) - 1))
    return out


def _ungroup(symbols: list[int]) -> bytes:
    """Join 52 five-bit symbols into 32 bytes; the 4 padding bits must be zero."""
    number = 0
    for symbol in symbols:
        number = number << 5 | symbol
    if number & 0xF:
        raise InvalidArgumentError("the principal's padding is not zero")
    return (number >> 4).to_bytes(32, "big")
