"""Names of things, and Bech32m against the vectors of BIP-350."""

from __future__ import annotations

import pytest

from ostnode import ids
from ostnode.errors import InvalidArgumentError
from ostnode.ids import BlobId, ClusterId, GrantId, Principal, PrincipalKind, Uid

PRINCIPAL = Principal(bytes(range(32)))
TEXT = "usr1qqqqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0srpv4ml"

# BIP-350, "Test vectors", lower-cased where the case is not the point.
BIP_350_VALID = [
    "a1lqfn3a",
    "an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
    "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
    "11" + "l" * 83 + "udsr8",
    "split1checkupstagehandshakeupstreamerranterredcaperredlc445v",
    "?1v759aa",
]
# The first has the checksum of its upper-case prefix (BIP-350), the others that of BIP-173.
WRONG_CHECKSUM = [
    "m1vuxwez",
    "a12uel5l",
    "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw",
    "split1checkupstagehandshakeupstreamerranterredcaperred2y9e3w",
]
TAPROOT = "bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0"
TAPROOT_PROGRAM = bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")


def checksum_of(text: str) -> int:
    prefix, _, data = text.rpartition("1")
    return ids._polymod([*ids._expand(prefix), *(ids._SYMBOLS[char] for char in data)])


def with_checksum(prefix: str, symbols: list[int]) -> str:
    check = ids._polymod([*ids._expand(prefix), *symbols, *[0] * 6]) ^ ids._BECH32M_CONST
    symbols = symbols + [(check >> 5 * (5 - i)) & 31 for i in range(6)]
    return f"{prefix}1" + "".join(ids._CHARSET[symbol] for symbol in symbols)


@pytest.mark.parametrize("text", BIP_350_VALID)
def test_bip_350_valid_checksums(text: str) -> None:
    assert checksum_of(text) == ids._BECH32M_CONST


@pytest.mark.parametrize("text", WRONG_CHECKSUM)
def test_bip_350_invalid_checksums(text: str) -> None:
    assert checksum_of(text) != ids._BECH32M_CONST


def test_bip_350_a_32_byte_program_both_ways() -> None:
    assert with_checksum("bc", [1, *ids._regroup(TAPROOT_PROGRAM, 8, 5)]) == TAPROOT
    symbols = [ids._SYMBOLS[char] for char in TAPROOT[3:]]
    assert ids._ungroup(symbols[1:-6]) == TAPROOT_PROGRAM


def test_a_principal_has_this_text_for_ever() -> None:
    assert PRINCIPAL.text(PrincipalKind.USER) == TEXT
    assert Principal.parse(TEXT) == PRINCIPAL


@pytest.mark.parametrize("kind", PrincipalKind)
def test_the_text_is_one_dns_label_and_names_its_kind(kind: PrincipalKind) -> None:
    text = PRINCIPAL.text(kind)
    assert len(text) == 63
    assert text.startswith(f"{kind}1q")
    assert text == text.lower()
    assert Principal.parse(text, kind) == PRINCIPAL
    other = PrincipalKind.USER if kind is not PrincipalKind.USER else PrincipalKind.APP
    with pytest.raises(InvalidArgumentError, match=f"expected a principal of kind {other}"):
        Principal.parse(text, other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[:-1],
        TEXT + "q",
        TEXT.upper(),
        "Usr" + TEXT[3:],
        "xyz" + TEXT[3:],
        TEXT.replace("1", "2", 1),
        TEXT[:10] + "b" + TEXT[11:],
        TEXT[:10] + "é" + TEXT[11:],
        TEXT[:10] + " " + TEXT[11:],
    ],
)
def test_texts_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        Principal.parse(text)


def test_every_wrong_character_is_noticed() -> None:
    for position in range(4, 63):
        wrong = "p" if TEXT[position] != "p" else "q"
        with pytest.raises(InvalidArgumentError, match="checksum"):
            Principal.parse(TEXT[:position] + wrong + TEXT[position + 1 :])


def test_bech32_of_bip_173_is_another_checksum() -> None:
    symbols = [ids._SYMBOLS[char] for char in TEXT[4:]]
    bech32 = [*symbols[:-1], symbols[-1] ^ (ids._BECH32M_CONST ^ 1) & 31]
    with pytest.raises(InvalidArgumentError, match="checksum"):
        Principal.parse("usr1" + "".join(ids._CHARSET[symbol] for symbol in bech32))


def test_another_version_and_loose_padding_are_refused() -> None:
    data = ids._regroup(PRINCIPAL, 8, 5)
    with pytest.raises(InvalidArgumentError, match="version"):
        Principal.parse(with_checksum("usr", [1, *data]))
    with pytest.raises(InvalidArgumentError, match="padding"):
        Principal.parse(with_checksum("usr", [0, *data[:-1], data[-1] | 1]))


@pytest.mark.parametrize(
    ("kind", "length"),
    [(BlobId, 32), (Uid, 8), (GrantId, 16), (ClusterId, 16), (Principal, 32)],
)
def test_ids_are_bytes_of_one_length(kind: type[BlobId], length: int) -> None:
    raw = bytes(range(length))
    assert kind(raw) == raw == kind(bytearray(raw)) == kind(memoryview(raw))
    assert str(kind(raw)) == raw.hex()
    assert repr(kind(raw)) == f"{kind.__name__}({raw.hex()})"
    assert kind.from_hex(raw.hex()) == raw
    assert isinstance(kind.from_hex(raw.hex()), kind)
    for wrong in (raw[:-1], raw + b"\0", b""):
        with pytest.raises(InvalidArgumentError, match=f"has {length} bytes, not {len(wrong)}"):
            kind(wrong)


@pytest.mark.parametrize(
    "text",
    ["", "0" * 15, "0" * 17, "0" * 14 + "0G", "AB" * 8, "0x" + "0" * 14, "00 " * 5 + "0", "٠" * 16],
)
def test_hex_has_one_form(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="16 lower-case hex digits"):
        Uid.from_hex(text)


def test_a_grant_id_names_its_index_incarnation() -> None:
    assert GrantId((1_700_000_000_000_000).to_bytes(8, "big") + b"\xff" * 8).incarnation == (
        1_700_000_000_000_000
    )


def test_whole_groups_of_bits_need_no_padding() -> None:
    assert ids._regroup(b"\xff" * 5, 8, 5) == [31] * 8
    assert ids._regroup(b"\xff", 8, 5) == [31, 28]
