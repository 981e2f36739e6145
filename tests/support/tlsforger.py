"""The server's half of a TLS 1.3 handshake by hand (RFC 8446), to show what OpenSSL would not:
a certificate whose key one does not have, or one that is none.

One suite (TLS_AES_128_GCM_SHA256), one group (x25519), no records after the handshake.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ostnode.identity.keys import KeyPair

X25519, ED25519 = 0x001D, 0x0807
KEY_SHARE, SUPPORTED_VERSIONS = 51, 43
NOTHING = hashlib.sha256().digest()


async def present(stream: trio.abc.Stream, certificate: bytes, key: KeyPair) -> bytes:
    """Show a client this certificate, with a proof by this key; what the client answers."""
    hello = await _client_hello(stream)
    secret = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    shared = secret.exchange(X25519PublicKey.from_public_bytes(_share_of(hello)))
    server_hello = _server_hello(hello, secret.public_key().public_bytes_raw())
    await stream.send_all(b"\x16\x03\x03" + _vector(2, server_hello))
    early = _extract(bytes(32), bytes(32))
    handshake = _extract(_expand(early, b"derived", NOTHING, 32), shared)
    transcript = hello + server_hello
    traffic = _expand(handshake, b"s hs traffic", hashlib.sha256(transcript).digest(), 32)
    flight = _proof(transcript, certificate, key.sign, traffic)
    await stream.send_all(_sealed(traffic, flight))
    return await stream.receive_some(4096)


def _proof(
    transcript: bytes, certificate: bytes, sign: Callable[[bytes], bytes], traffic: bytes
) -> bytes:
    """EncryptedExtensions, Certificate, CertificateVerify and Finished."""
    flight = _message(8, _vector(2, b""))
    flight += _message(11, b"\0" + _vector(3, _vector(3, certificate) + _vector(2, b"")))
    digest = hashlib.sha256(transcript + flight).digest()
    statement = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + digest
    flight += _message(15, ED25519.to_bytes(2, "big") + _vector(2, sign(statement)))
    digest = hashlib.sha256(transcript + flight).digest()
    finished = _expand(traffic, b"finished", b"", 32)
    return flight + _message(20, hmac.digest(finished, digest, "sha256"))


async def _client_hello(stream: trio.abc.Stream) -> bytes:
    """The ClientHello, without its record's header."""
    data = b""
    while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
        piece = await stream.receive_some()
        assert piece, "the client said nothing"
        data += piece
    return data[5:]


def _share_of(hello: bytes) -> bytes:
    """The client's x25519 key."""
    at = _after_session_id(hello)
    at += 2 + int.from_bytes(hello[at : at + 2], "big")  # suites
    at += 1 + hello[at]  # compression
    end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 2
    while at < end:
        kind, size = (int.from_bytes(hello[at + n : at + n + 2], "big") for n in (0, 2))
        if kind == KEY_SHARE:
            shares = hello[at + 6 : at + 4 + size]
            while int.from_bytes(shares[:2], "big") != X25519:
                shares = shares[4 + int.from_bytes(shares[2:4], "big") :]
            return shares[4:36]
        at += 4 + size
    raise AssertionError("the client offers no key")


def _after_session_id(hello: bytes) -> int:
    at = 4 + 2 + 32
    return at + 1 + hello[at]


def _server_hello(hello: bytes, share: bytes) -> bytes:
    session_id = hello[4 + 2 + 32 : _after_session_id(hello)]
    extensions = SUPPORTED_VERSIONS.to_bytes(2, "big") + _vector(2, b"\x03\x04")
    entry = X25519.to_bytes(2, "big") + _vector(2, share)
    extensions += KEY_SHARE.to_bytes(2, "big") + _vector(2, entry)
    body = b"\x03\x03" + bytes(32) + session_id + b"\x13\x01" + b"\0" + _vector(2, extensions)
    return _message(2, body)


def _sealed(traffic: bytes, flight: bytes) -> bytes:
    """The flight as one encrypted record, the first under this secret."""
    key, nonce = _expand(traffic, b"key", b"", 16), _expand(traffic, b"iv", b"", 12)
    inner = flight + b"\x16"
    header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
    return header + AESGCM(key).encrypt(nonce, inner, header)


def _extract(salt: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt, secret, "sha256")


def _expand(secret: bytes, label: bytes, context: bytes, size: int) -> bytes:
    info = size.to_bytes(2, "big") + _vector(1, b"tls13 " + label) + _vector(1, context)
    return hmac.digest(secret, info + b"\1", "sha256")[:size]


def _message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + _vector(3, body)


def _vector(width: int, body: bytes) -> bytes:
    return len(body).to_bytes(width, "big") + body
