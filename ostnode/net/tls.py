"""TLS 1.3 between peers: certificates that are principals, and streams that proofs are bound to.

No authority signs anything here. A node's certificate is signed by itself and holds its Ed25519
key, which is its principal; TLS proves that whoever presents it holds the key. The dialler pins
the principal that it wants. The accepter asks for no certificate: it learns the dialler's
principal from AUTH, which signs the channel's binding.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from typing_extensions import Buffer, override

from ostnode.errors import UnauthenticatedError
from ostnode.identity.keys import KeyPair
from ostnode.ids import Principal
from ostnode.net.transport import (
    Handler,
    LinkClosedError,
    Network,
    Piece,
    SecureStream,
    StreamAbove,
    TcpNetwork,
)

RECORD_BYTES: Final = 16 * 1024
"""The most that one TLS record holds (RFC 8446 section 5.1)."""
SLICE_BYTES: Final = 16 * RECORD_BYTES
"""Encrypted at a time, so that no link holds a whole body twice; a quarter of it costs the sender
half as much CPU again, more saves nothing."""
_RECEIVE_BYTES: Final = (64 * 1024, 256 * 1024)
"""Asked of the socket: usually, and while at least that much keeps coming."""
_RECORDS_AT_ONCE: Final = 64
"""A body's worth. Those of a byte take 5 µs each, and thousands may have been received at once."""
_NOT_BEFORE: Final = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""No well-defined expiration date (RFC 5280 section 4.1.2.5): keys end by the roster."""
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL")
"""OpenSSL's reasons when the other side speaks no TLS, or an older one."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node presents: its certificate (DER), and the context that holds its key."""

    certificate: bytes
    context: _Context

    @classmethod
    def of(cls, key: KeyPair) -> Identity:
        """The same certificate for the same key, so that bindings outlive restarts."""
        secret = Ed25519PrivateKey.from_private_bytes(key.seed)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, key.principal.hex())])
        certificate = (
            x509
            .CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .serial_number(1)
            .not_valid_before(_NOT_BEFORE)
            .not_valid_after(_NOT_AFTER)
            .public_key(secret.public_key())
            .sign(secret, algorithm=None)
        )
        context = _context(ssl.PROTOCOL_TLS_SERVER)
        context.num_tickets = 0  # nothing is resumed: every handshake shows the certificate
        pem = secret.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        with _memory_file(certificate.public_bytes(serialization.Encoding.PEM) + pem) as path:
            context.load_cert_chain(path)
        return cls(certificate.public_bytes(serialization.Encoding.DER), context)


def channel_binding(certificate: bytes) -> bytes:
    """What AUTH signs for a channel: the SHA-256 of the server's certificate (DER).

    RFC 5929 calls it tls-server-end-point, and leaves the hash open for certificates that are
    signed with Ed25519; it is SHA-256 here.
    """
    return hashlib.sha256(certificate).digest()


def certified(certificate: bytes | None) -> Principal:
    """The principal that a certificate (DER) is of; raises UnauthenticatedError."""
    if certificate is None:
        raise UnauthenticatedError("the peer has no certificate")
    try:
        public = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise UnauthenticatedError("the peer's certificate cannot be read") from error
    if not isinstance(public, Ed25519PublicKey):
        raise UnauthenticatedError("the peer's certificate holds no Ed25519 key")
    return Principal(public.public_bytes_raw())


class _Records(ssl.SSLObject):
    """Decrypts the records that have come, many in one go, into a buffer of the caller's.

    trio.SSLStream gives out one record at a time, each after a turn of the scheduler.
    """

    into: memoryview | None = None
    filled = 0

    @override
    def read(self, len: int = RECORD_BYTES, buffer: Buffer | None = None) -> bytes:
        if self.into is None:
            return super().read(len, buffer)
        self.filled = 0
        for _ in range(_RECORDS_AT_ONCE):
            room = self.into[self.filled :]
            if not room:
                break
            try:
                # With a buffer this is how many bytes went there, whatever the type says.
                count = int(super().read(room.nbytes, room))
            except ssl.SSLError:
                # An end or a failure comes again when nothing is left before it.
                if not self.filled:
                    raise
                break
            if not count:
                break
            self.filled += count
        return b""


class _Context(ssl.SSLContext):
    """Tells which _Records it made last: trio.SSLStream shows its own to nobody."""

    made: _Records

    @override
    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> _Records:
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(made, _Records)
        self.made = made
        return made


class _Wide(StreamAbove):
    """Receives more at a time than trio.SSLStream asks for while much is coming."""

    def __init__(self, below: trio.abc.Stream) -> None:
        super().__init__(below)
        self._bytes_max = _RECEIVE_BYTES[0]

    @override
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await super().receive_some(self._bytes_max)
        self._bytes_max = _RECEIVE_BYTES[len(data) >= _RECEIVE_BYTES[0]]
        return data


class TlsStream(SecureStream):
    """One end of an encrypted connection. A dialler has no `identity`."""

    def __init__(self, below: trio.abc.Stream, identity: Identity | None = None) -> None:
        self._below = below
        self._identity = identity
        context = _dialling() if identity is None else identity.context
        self._tls = trio.SSLStream(_Wide(below), context, server_side=identity is not None)
        self._records = context.made
        self._binding = b"" if identity is None else channel_binding(identity.certificate)

    @override
    async def secure(self, expect: Principal | None) -> bytes:
        try:
            await self._tls.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise self._failure(error) from error
        if self._identity is None:
            certificate = self._tls.getpeercert(binary_form=True)
            if certified(certificate) != expect and expect is not None:
                raise UnauthenticatedError("this is not the peer that was dialled")
            self._binding = channel_binding(certificate)
        return self._binding

    def _failure(self, error: Exception) -> LinkClosedError | UnauthenticatedError:
        """Of a handshake: what a certificate's owner would not do tells a dialler who it is not."""
        cause = error.__cause__
        if isinstance(cause, ssl.SSLEOFError) or not isinstance(cause, ssl.SSLError):
            return LinkClosedError("the peer closed the connection during the TLS handshake")
        reason = cause.reason or "unreadable"
        text = f"the TLS handshake failed: {reason.replace('_', ' ').lower()}"
        if self._identity is not None or reason in _NO_TLS or "ALERT" in reason:
            return LinkClosedError(text)
        return UnauthenticatedError(text)

    @override
    async def receive_into(self, buffer: memoryview) -> int:
        self._records.into = buffer
        try:
            await self._tls.receive_some()
        finally:
            self._records.into = None
        return self._records.filled

    @override
    async def send_pieces(self, pieces: Sequence[Piece]) -> None:
        for piece in in_slices(pieces):
            await self._tls.send_all(piece)

    @override
    async def send_all(self, data: Piece) -> None:
        await self._tls.send_all(data)

    @override
    async def wait_send_all_might_not_block(self) -> None:
        await self._tls.wait_send_all_might_not_block()

    @override
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._tls.receive_some(max_bytes)

    @override
    async def send_eof(self) -> None:
        if isinstance(self._below, trio.abc.HalfCloseableStream):
            await self._below.send_eof()

    @override
    async def aclose(self) -> None:
        await self._tls.aclose()


class TlsNetwork(Network):
    """Encrypted connections, as one node: dialled as anybody, accepted with its certificate.

    Handshakes are left to whoever uses the streams, under that one's deadlines: see `secured`.
    """

    def __init__(self, key: KeyPair | None = None, below: Network | None = None) -> None:
        self._identity = None if key is None else Identity.of(key)
        self._below = TcpNetwork(loopback_only=False) if below is None else below

    @override
    async def connect(self, address: str) -> TlsStream:
        return TlsStream(await self._below.connect(address))

    @override
    async def serve(
        self,
        address: str,
        handler: Handler,
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        assert self._identity is not None, "who accepts connections has a key"
        serve_one = functools.partial(_serve_one, handler, self._identity)
        await self._below.serve(address, serve_one, task_status=task_status)


async def _serve_one(handler: Handler, identity: Identity, stream: trio.abc.Stream) -> None:
    await handler(TlsStream(stream, identity))


def in_slices(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The pieces as they are encrypted: small ones joined, large ones uncopied, in slices."""
    joined: list[Piece] = []
    size = 0
    for piece in pieces:
        rest = memoryview(piece)
        if joined and size + len(rest) > RECORD_BYTES:
            # Up to the end of a record, so that no record goes out nearly empty.
            front = rest[: -size % RECORD_BYTES]
            yield b"".join([*joined, front])
            joined, size, rest = [], 0, rest[len(front) :]
        while len(rest) >= RECORD_BYTES:
            yield rest[:SLICE_BYTES]
            rest = rest[SLICE_BYTES:]
        if rest:
            joined.append(rest)
            size += len(rest)
    if joined:
        yield b"".join(joined)


@functools.cache
def _dialling() -> _Context:
    return _context(ssl.PROTOCOL_TLS_CLIENT)


def _context(protocol: int) -> _Context:
    context = _Context(protocol)
    context.sslobject_class = _Records
    # Before the mode: a client's context checks names unless it is told not to.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    return context


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    """A path to read `content` from. Keys are loaded by path only; this one is on no disk."""
    with os.fdopen(os.memfd_create("certificate"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
