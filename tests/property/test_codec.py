"""The codec against arbitrary values and bytes, and against an independent implementation."""

from __future__ import annotations

import cbor2
from hypothesis import example, given
from hypothesis import strategies as st

from ostnode.codec import INTEGER_MAX, INTEGER_MIN, decode, decode_cose, encode, encode_cose
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


@given(NEARLY_CBOR)
def test_b47_any_bytes_are_a_typed_refusal_or_the_one_encoding_of_a_cose_value(data):
    try:
        value = decode_cose(data)
    except InvalidArgumentError:
        return
    assert encode_cose(value) == data
