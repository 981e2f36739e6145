"""The strict codec against RFC 8949's examples, and each refusal on its own."""

from __future__ import annotations

import pytest

from ostnode.codec import (
    CBOR_BYTES_MAX,
    CBOR_DEPTH_MAX,
    CBOR_ITEMS_MAX,
    COSE_SIGN1_TAG,
    decode,
    decode_cose,
    encode,
    encode_cose,
)
from ostnode.errors import InvalidArgumentError
from ostnode.ids import Uid

# RFC 8949 appendix A, those of the accepted types.
RFC_EXAMPLES = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (-(1 << 63), "3b7fffffffffffffff"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ("ü", "62c3bc"),
    ("水", "63e6b0b4"),
    ("𐅑", "64f0908591"),
    ([], "80"),
    ([1, 2, 3], "83010203"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    (list(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (["a", {"b": "c"}], "826161a161626163"),
]

REFUSED = {
    "empty": "",
    "head cut": "18",
    "argument cut": "1903",
    "bytes cut": "44010203",
    "text cut": "6261",
    "array cut": "8301",
    "map cut after the key": "a16161",
    "trailing byte": "0000",
    "int not shortest, 1 byte": "1817",
    "int not shortest, 2 bytes": "1900ff",
    "int not shortest, 4 bytes": "1a0000ffff",
    "int not shortest, 8 bytes": "1b00000000ffffffff",
    "length not shortest": "580101",
    "negative beyond 64 bits": "3b8000000000000000",
    "half float": "f90000",
    "single float": "fa47c35000",
    "double float": "fb3ff199999999999a",
    "undefined": "f7",
    "simple 0": "e0",
    "simple, 1 byte": "f8ff",
    "true, not shortest": "f815",
    "reserved head 28": "1c",
    "reserved head 30": "1e",
    "indefinite bytes": "5f4101ff",
    "indefinite text": "7f6161ff",
    "indefinite array": "9f01ff",
    "indefinite map": "bf616101ff",
    "break": "ff",
    "tag 0": "c06161",
    "tag 2": "c24101",
    "tag 18": "d28440a04040",
    "self-describing tag": "d9d9f701",
    "tag 29, a reference to itself": "d81d00",
    "integer key": "a10101",
    "bytes key": "a1416101",
    "null key": "a1f601",
    "array key": "a18001",
    "keys out of order": "a2616201616101",
    "longer key first": "a262616101616201",
    "key repeated": "a2616101616102",
    "text not UTF-8": "61ff",
    "text with an overlong NUL": "62c080",
    "text with a surrogate": "63eda080",
    "key not UTF-8": "a161ff01",
    "4 GiB of array": "9affffffff",
    "4 GiB of map": "baffffffff",
    "4 GiB of bytes": "5affffffff",
}


@pytest.mark.parametrize(("value", "hexadecimal"), RFC_EXAMPLES)
def test_rfc_8949_examples_both_ways(value, hexadecimal):
    data = bytes.fromhex(hexadecimal)
    assert encode(value) == data
    assert decode(data) == value
    assert type(decode(data)) is type(value)


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_b47_everything_but_the_one_encoding_is_refused(data):
    with pytest.raises(InvalidArgumentError, match="not strict CBOR"):
        decode(bytes.fromhex(data))


def test_map_keys_go_in_the_order_of_their_encodings():
    assert encode({"bb": 0, "a": 1, "c": 2}) == bytes.fromhex("a3616101616302626262" + "00")


def test_buffers_of_every_kind_decode_to_bytes():
    data = encode([b"abc"])
    for buffer in (bytearray(data), memoryview(data)):
        (item,) = decode(buffer)
        assert type(item) is bytes


def test_subclasses_and_tuples_encode_as_what_they_are():
    assert encode((Uid(b"12345678"),)) == encode([b"12345678"])


def test_size_limit_both_ways():
    exact = bytes(CBOR_BYTES_MAX - 3)
    assert decode(encode(exact)) == exact
    with pytest.raises(InvalidArgumentError, match="over the limit"):
        encode(exact + b"x")
    with pytest.raises(InvalidArgumentError, match="over the limit"):
        decode(b"\x00" * (CBOR_BYTES_MAX + 1))


def test_item_limit_both_ways():
    rest = (CBOR_ITEMS_MAX - 2) // 2
    exact = [[0] * rest, [0] * rest]
    assert decode(encode(exact)) == exact
    for over in ([[0] * rest, [0] * (rest + 1)], [[0] * rest, [0] * (rest - 1), {"a": 0, "b": 0}]):
        with pytest.raises(InvalidArgumentError, match="items"):
            encode(over)
    data = bytearray(encode(exact))
    data[-rest - 2 : -rest] = (rest + 1).to_bytes(2, "big")
    with pytest.raises(InvalidArgumentError, match="items"):
        decode(data + b"\x00")


def test_depth_limit_both_ways():
    nested: object = 0
    for _ in range(CBOR_DEPTH_MAX):
        nested = [nested]
    data = encode(nested)
    assert decode(data) == nested
    with pytest.raises(InvalidArgumentError, match="deeper"):
        encode({"a": nested})
    with pytest.raises(InvalidArgumentError, match="deeper"):
        decode(b"\x81" + data)


@pytest.mark.parametrize("value", [1.5, {1}, object(), bytearray(b"a"), {1: 2}, {b"a": 1}])
def test_values_without_strict_cbor_are_programming_errors(value):
    with pytest.raises(TypeError):
        encode(value)


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1, "\ud800", {"\ud800": 1}])
def test_values_outside_the_types_are_refused(value):
    with pytest.raises(InvalidArgumentError):
        encode(value)


def test_cose_takes_integer_keys_and_one_tag_in_front():
    with pytest.raises(InvalidArgumentError):
        encode_cose(bytes(CBOR_BYTES_MAX - 3), tag=COSE_SIGN1_TAG)
    value = [encode_cose({1: -19, 4: b"kid"}), {}, b"payload", b"signature"]
    data = encode_cose(value, tag=COSE_SIGN1_TAG)
    assert data[0] == 0xD2
    assert decode_cose(data, tag=COSE_SIGN1_TAG) == value
    assert decode_cose(value[0]) == {1: -19, 4: b"kid"}


def test_cose_mixed_keys_go_in_the_order_of_their_encodings():
    mixed = {-1: 0, 24: 1, 1: 2, "a": 3, -65537: 4}
    data = encode_cose(mixed)
    assert list(decode_cose(data)) == [1, 24, -1, -65537, "a"]


@pytest.mark.parametrize(
    "data",
    ["8440a04040", "d18440a04040", "d2d28440a04040", "d8128440a04040", "d2", "d28440a0404000"],
    ids=["no tag", "other tag", "tag twice", "tag not shortest", "nothing behind", "trailing"],
)
def test_cose_tag_must_stand_exactly_once(data):
    with pytest.raises(InvalidArgumentError):
        decode_cose(bytes.fromhex(data), tag=COSE_SIGN1_TAG)


@pytest.mark.parametrize(
    "data", ["d28440a04040", "81d200", "a1f500", "a2200020" + "00", "a220000100"]
)
def test_cose_stays_strict_elsewhere(data):
    with pytest.raises(InvalidArgumentError):
        decode_cose(bytes.fromhex(data))


def test_cose_refuses_keys_of_other_types():
    with pytest.raises(TypeError):
        encode_cose({True: 1})
    with pytest.raises(TypeError):
        encode_cose({b"a": 1})
