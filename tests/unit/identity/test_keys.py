"""Ed25519: the vectors of RFC 8032 section 7.1, and the keys nobody may have."""

from __future__ import annotations

import hashlib

import pytest
from nacl import bindings

from ostnode.env import SystemRng
from ostnode.errors import InvalidArgumentError
from ostnode.identity.keys import KeyPair, is_valid_point, verify
from ostnode.ids import NULL_ACCESSOR, Principal

# seed, public key, message, signature: TEST 1, 2, 3 and SHA(abc)
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
        "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
]

ORDER = 2**252 + 27742317777372353535851937790883648493
IDENTITY_POINT = Principal(b"\x01" + bytes(31))
SMALL_ORDER = [
    IDENTITY_POINT,
    NULL_ACCESSOR,
    Principal(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")),
    Principal(bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")),
]
NOT_CANONICAL = Principal(
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
)


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_rfc_8032_vectors(seed: str, public: str, message: str, signature: str) -> None:
    key = KeyPair.from_seed(bytes.fromhex(seed))
    text = bytes.fromhex(message)
    assert key.principal.hex() == public
    assert key.sign(text).hex() == signature
    assert verify(key.principal, text, bytes.fromhex(signature))


def test_a_changed_message_key_or_signature_is_refused() -> None:
    key = KeyPair.from_seed(b"\x07" * 32)
    other = KeyPair.from_seed(b"\x08" * 32)
    signature = key.sign(b"hello")
    assert verify(key.principal, b"hello", signature)
    assert not verify(key.principal, b"hellp", signature)
    assert not verify(other.principal, b"hello", signature)
    for position in (0, 31, 32, 63):
        changed = bytearray(signature)
        changed[position] ^= 1
        assert not verify(key.principal, b"hello", bytes(changed))
    assert not verify(key.principal, b"hello", signature[:-1])
    assert not verify(key.principal, b"hello", signature + b"\0")
    assert not verify(key.principal, b"hello", b"")


def test_a_signature_with_s_raised_by_the_group_order_is_refused() -> None:
    """RFC 8032 section 5.1.7: S in [0, L), or every signature would have a second form."""
    key = KeyPair.from_seed(b"\x07" * 32)
    signature = key.sign(b"hello")
    raised = int.from_bytes(signature[32:], "little") + ORDER
    assert not verify(key.principal, b"hello", signature[:32] + raised.to_bytes(32, "little"))


@pytest.mark.parametrize("principal", [*SMALL_ORDER, NOT_CANONICAL])
def test_no_signature_is_good_under_a_key_nobody_can_hold(principal: Principal) -> None:
    assert not is_valid_point(principal)
    # R = the identity point, S = 0: OpenSSL accepts it for any message under the identity key.
    assert not verify(principal, b"anything", bytes(IDENTITY_POINT) + bytes(32))


def test_a_key_outside_the_main_subgroup_is_refused_though_its_signature_verifies() -> None:
    """Such a key (one plus a point of order 8) lets two verifiers disagree about a signature."""
    seed, torsion, message = b"\x07" * 32, bytes(SMALL_ORDER[2]), b"hello"
    digest = bytearray(hashlib.sha512(seed).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    secret = bindings.crypto_core_ed25519_scalar_reduce(bytes(digest) + bytes(32))
    mixed = bindings.crypto_core_ed25519_add(bytes(KeyPair.from_seed(seed).principal), torsion)
    signature = b""
    for nonce in range(1, 200):
        r = nonce.to_bytes(32, "little")
        commitment = bindings.crypto_core_ed25519_sub(
            bindings.crypto_scalarmult_ed25519_base_noclamp(r), torsion
        )
        h = hashlib.sha512(commitment + mixed + message).digest()
        if int.from_bytes(h, "little") % ORDER % 8 == 1:  # so h * torsion is torsion
            h = bindings.crypto_core_ed25519_scalar_reduce(h)
            product = bindings.crypto_core_ed25519_scalar_mul(h, secret)
            signature = commitment + bindings.crypto_core_ed25519_scalar_add(r, product)
            break
    assert bindings.crypto_sign_open(signature + message, mixed) == message
    assert not is_valid_point(mixed)
    assert not verify(Principal(mixed), message, signature)


def test_a_signature_does_not_lend_bytes_to_or_from_its_message() -> None:
    key = KeyPair.from_seed(b"\x07" * 32)
    signature = key.sign(b"hello")
    assert not verify(key.principal, b"llo", signature + b"he")
    assert not verify(key.principal, signature[-1:] + b"hello", signature[:-1])


def test_generated_keys_differ_and_hide_their_seed() -> None:
    first, second = KeyPair.generate(SystemRng()), KeyPair.generate(SystemRng())
    assert first.principal != second.principal
    assert first.seed.hex() not in repr(first)
    assert first.principal.hex() in repr(first)
    assert KeyPair.from_seed(first.seed).principal == first.principal


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_seed_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(InvalidArgumentError):
        KeyPair.from_seed(bytes(length))
