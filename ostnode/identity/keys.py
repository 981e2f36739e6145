"""Ed25519 keys (RFC 8032), through libsodium.

OpenSSL accepts a forged signature under the identity-point key; libsodium refuses small-order and
non-canonical keys, and every key is checked here to be a point of the main subgroup besides.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Protocol, Self

from nacl import bindings
from nacl.exceptions import BadSignatureError
from typing_extensions import override

from ostnode.errors import InvalidArgumentError
from ostnode.ids import Principal

SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
POINTS_REMEMBERED: Final = 16_384
"""Checking a point costs 35 µs, nearly as much as a signature; about 2 MB remember this many."""


class Randomness(Protocol):
    """The part of `ostnode.env.Rng` that makes keys and token ids."""

    def token(self, length: int) -> bytes:
        """`length` unpredictable bytes."""
        ...


class KeyPair:
    """A principal that can sign. The seed never shows in a repr or a log."""

    __slots__ = ("_secret", "principal", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise InvalidArgumentError(f"a key seed has {SEED_BYTES} bytes, not {len(seed)}")
        public, secret = bindings.crypto_sign_seed_keypair(seed)
        self.seed = seed
        self.principal = Principal(public)
        self._secret = secret

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """The key pair of a 32-byte seed (RFC 8032's private key)."""
        return cls(seed)

    @classmethod
    def generate(cls, rng: Randomness) -> Self:
        """A new key pair."""
        return cls(rng.token(SEED_BYTES))

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of a message; the same message always gives the same one."""
        return bindings.crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    @override
    def __repr__(self) -> str:
        return f"KeyPair({self.principal.hex()})"


@lru_cache(maxsize=POINTS_REMEMBERED)
def is_valid_point(principal: bytes) -> bool:
    """Whether 32 bytes are a canonical point of the main subgroup: a key someone can hold."""
    return bindings.crypto_core_ed25519_is_valid_point(principal)


def verify(principal: Principal, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is the principal's over `message`. False for any malformed input."""
    if len(signature) != SIGNATURE_BYTES or not is_valid_point(principal):
        return False
    try:
        bindings.crypto_sign_open(signature + message, principal)
    except BadSignatureError:
        return False
    return True
