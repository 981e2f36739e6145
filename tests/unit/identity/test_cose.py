"""COSE_Sign1: one form, byte for byte, and nothing else."""

from __future__ import annotations

import pytest

from ostnode.codec import encode_cose
from ostnode.errors import TokenInvalidError
from ostnode.identity.cose import TOKEN_BYTES_MAX, parse_sign1, sign1
from tests.support.identity_tokens import ALICE, BOB

KID = bytes(ALICE.principal)
HEADER = {1: -19, 4: KID, 16: "ost-test"}


def envelope(
    header: object = HEADER,
    unprotected: object = None,
    payload: object = b"payload",
    signature: object = bytes(64),
    tag: int | None = 18,
) -> bytes:
    protected = header if isinstance(header, bytes) else encode_cose(header)
    return encode_cose([protected, unprotected or {}, payload, signature], tag=tag)


def test_the_bytes_are_those_of_rfc_9052() -> None:
    """Tag 18, an array of four, the header by hand, and a signature over Sig_structure."""
    protected = b"\xa3\x01\x32\x04\x58\x20" + KID + b"\x10\x68ost-test"
    signed = b"\x84\x6aSignature1\x58\x30" + protected + b"\x40\x47payload"
    expected = b"\xd2\x84\x58\x30" + protected + b"\xa0\x47payload\x58\x40" + ALICE.sign(signed)
    assert sign1(ALICE, "ost-test", b"payload") == expected


def test_what_was_signed_comes_back_verified() -> None:
    parsed = parse_sign1(sign1(ALICE, "ost-test", b"payload"))
    assert (parsed.typ, parsed.kid, parsed.payload) == ("ost-test", ALICE.principal, b"payload")
    assert parsed.verified()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(envelope(tag=None), id="no tag"),
        pytest.param(envelope(tag=17), id="COSE_Mac0"),
        pytest.param(b"\xd8\x3d" + envelope(), id="CWT tag in front"),
        pytest.param(envelope() + b"\0", id="trailing byte"),
        pytest.param(encode_cose({}, tag=18), id="a map"),
        pytest.param(encode_cose([b"", {}, b""], tag=18), id="three parts"),
        pytest.param(encode_cose([b"", {}, b"", b"", b""], tag=18), id="five parts"),
        pytest.param(envelope(payload=None), id="detached payload"),
        pytest.param(envelope(signature="s" * 64), id="text signature"),
        pytest.param(envelope(signature=bytes(63)), id="short signature"),
        pytest.param(envelope(unprotected={4: KID}), id="unsigned header"),
        pytest.param(envelope(header=b""), id="empty header"),
        pytest.param(envelope(header=[1]), id="header not a map"),
        pytest.param(envelope(header={**HEADER, 1: -8}), id="EdDSA of any curve"),
        pytest.param(envelope(header={**HEADER, 1: -7}), id="ES256"),
        pytest.param(envelope(header={4: KID, 16: "x"}), id="no alg"),
        pytest.param(envelope(header={1: -19, 16: "x"}), id="no kid"),
        pytest.param(envelope(header={1: -19, 4: KID}), id="no typ"),
        pytest.param(envelope(header={**HEADER, 4: KID[:-1]}), id="short kid"),
        pytest.param(envelope(header={**HEADER, 16: 61}), id="typ as a number"),
        pytest.param(envelope(header={**HEADER, 2: [16]}), id="crit"),
        pytest.param(envelope(header=b"\xa3\x04\x40\x01\x32\x10\x60"), id="unsorted header"),
    ],
)
def test_any_other_form_is_refused(data: bytes) -> None:
    with pytest.raises(TokenInvalidError):
        parse_sign1(data)


def test_the_size_is_checked_before_anything_is_decoded() -> None:
    overhead = len(sign1(ALICE, "t", b"p" * 850)) - 850
    fitting = sign1(ALICE, "t", b"p" * (TOKEN_BYTES_MAX - overhead))
    over = sign1(ALICE, "t", b"p" * (TOKEN_BYTES_MAX - overhead + 1))
    assert len(fitting) == TOKEN_BYTES_MAX == len(over) - 1
    parse_sign1(fitting)
    with pytest.raises(TokenInvalidError, match="at most"):
        parse_sign1(over)


def test_every_signed_part_is_under_the_signature() -> None:
    good = parse_sign1(sign1(ALICE, "ost-test", b"payload"))
    for header, payload in (
        (HEADER, b"payloae"),
        ({**HEADER, 16: "ost-tesu"}, b"payload"),
        ({**HEADER, 4: bytes(BOB.principal)}, b"payload"),
    ):
        changed = parse_sign1(envelope(header=header, payload=payload, signature=good.signature))
        assert not changed.verified()
