"""The codec against arbitrary values and bytes, and against an independent implementation."""

from __future__ import annotations

import warnings

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ostnode.codec import (
    CBOR_DEPTH_MAX,
    INTEGER_MAX,
    INTEGER_MIN,
    decode,
    decode_cose,
    encode,
    encode_cose,
)
from ostnode.errors import InvalidArgumentError

INTEGERS = st.integers(INTEGER_MIN, INTEGER_MAX)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SCALARS = st.none() | st.booleans() | INTEGERS | TEXT | st.binary(max_size=40)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(TEXT, inner, max_size=30),
    max_leaves=60,
)
COSE_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT | INTEGERS, inner, max_size=5),
    max_leaves=20,
)

# Bytes that often are nearly CBOR: an encoding with pieces flipped, cut or put in.
HEADS = st.sampled_from([bytes([byte]) for byte in range(256)])
NEARLY_CBOR = st.one_of(
    st.binary(max_size=200),
    st.lists(HEADS, max_size=40).map(b"".join),
    st.builds(
        lambda value, at, piece, drop: (
            encode(value)[: (at := at % (len(encode(value)) + 1))]
            + piece
            + encode(value)[at + drop :]
        ),
        VALUES,
        st.integers(0, 10_000),
        st.binary(max_size=3),
        st.integers(0, 3),
    ),
)


@given(VALUES)
def test_a_value_comes_back_with_its_types(value):
    back = decode(encode(value))
    assert back == value
    assert repr(back) == repr(decode(encode(back)))


@given(COSE_VALUES)
def test_a_cose_value_comes_back(value):
    data = encode_cose(value, tag=18)
    assert decode_cose(data, tag=18) == value
    assert encode_cose(decode_cose(data, tag=18), tag=18) == data


@given(VALUES)
def test_encodings_equal_those_of_an_independent_implementation(value):
    assert encode(value) == cbor2.dumps(value, canonical=True)
    assert cbor2.loads(encode(value)) == value


@given(NEARLY_CBOR)
@example(b"\xd8\x1c\x81\xd8\x1d\x00")
@example(b"\x9f" * 100)
@example(b"\x81" * 65536)
@example(b"\x80" * 65536)
def test_b47_any_bytes_are_a_typed_refusal_or_the_one_encoding_of_a_value(data):
    try:
        value = decode(data)
    except InvalidArgumentError:
        return
    assert encode(value) == data
    assert cbor2.loads(data) == value


def by_another_decoder(data: bytes) -> tuple[bool, object]:
    """What a lax decoder makes of it, if its strict encoder makes the same bytes of that."""
    try:
        with warnings.catch_warnings(action="ignore"):
            value = cbor2.loads(data)
    except Exception:  # noqa: BLE001  # whatever its hooks for tags raise
        return False, None
    # Looked at before it is encoded: a value that holds itself has crashed the encoder.
    if not is_strict(value, CBOR_DEPTH_MAX):
        return False, None
    return cbor2.dumps(value, canonical=True) == data, value


def is_strict(value: object, depth: int) -> bool:
    """Whether a value is of the types that strict CBOR has."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        keys = value if isinstance(value, dict) else ()
        return (
            depth > 0
            and all(type(key) is str for key in keys)
            and all(is_strict(item, depth - 1) for item in inner)
        )
    if type(value) is int:
        return INTEGER_MIN <= value <= INTEGER_MAX
    return value is None or type(value) in {bool, str, bytes}


def judged_alike(data: bytes) -> bool:
    """Whether our decoder takes the data just when the other does, as the same value."""
    taken, expected = by_another_decoder(data)
    try:
        value = decode(data)
    except InvalidArgumentError:
        return not taken
    return taken and repr(value) == repr(expected)


@given(NEARLY_CBOR)
def test_b47_what_is_taken_is_what_another_decoder_reads_and_writes_alike(data):
    assert judged_alike(data)


def test_b47_all_short_inputs_are_judged_as_another_decoder_does():
    for length in (0, 1, 2):
        for number in range(256**length):
            data = number.to_bytes(length, "big")
            assert judged_alike(data), data.hex()


@pytest.mark.parametrize("first", range(256))
def test_b47_every_head_is_judged_as_another_decoder_does(first):
    """Each first byte with arguments at the edges of what they may be, and something behind."""
    for width in (1, 2, 4, 8):
        top = 256**width - 1
        for number in {0, 1, 23, 24, 255, 256, 65535, 65536, top // 2, top // 2 + 1, top}:
            if number > top:
                continue
            for tail in (b"", b"\x00", b"a" * 24, b"\x61a\x00", b"\xf6" * 300):
                data = bytes([first]) + number.to_bytes(width, "big") + tail
                assert judged_alike(data), data.hex()


@given(NEARLY_CBOR)
def test_b47_any_bytes_are_a_typed_refusal_or_the_one_encoding_of_a_cose_value(data):
    try:
        value = decode_cose(data)
    except InvalidArgumentError:
        return
    assert encode_cose(value) == data
