"""TLS between peers, over real sockets on loopback: who is refused, when, and with what words."""

from __future__ import annotations

import contextlib
import socket
import ssl
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519

from ostnode.errors import UnauthenticatedError
from ostnode.identity.keys import KeyPair
from ostnode.net.memory import memory_stream_pair
from ostnode.net.tls import (
    RECORD_BYTES,
    SLICE_BYTES,
    Identity,
    TlsNetwork,
    TlsStream,
    certified,
    channel_binding,
    in_slices,
)
from ostnode.net.transport import (
    LinkClosedError,
    StreamAbove,
    TcpNetwork,
    receive_into,
    secured,
    send_pieces,
)
from ostnode.wire import messages as m
from tests.support.tlsforger import present
from tests.support.tlskit import ANY_PORT, RawPeer, dial, raw_peer
from tests.support.wire_peers import (
    ALICE,
    BLOB,
    BUCKET,
    GROUP,
    MALLORY,
    PUSH,
    READ,
    accepter,
    dialler,
    echo,
    served,
    wire,
)

READ_MIB = m.ReadBlob(GROUP, BLOB, 0, 1 << 20)


def tls_bucket(answer=echo, **options):
    """The bucket of `served`, at a port of its own behind TLS."""
    return served(answer, network=TlsNetwork(BUCKET), address=ANY_PORT, **options)


async def refused(address, kind, match, **options):
    """Alice's link does not open, for this reason."""
    with pytest.raises(kind, match=match):
        async with dial(address, **options):
            pytest.fail("the link opened")


async def test_calls_and_bodies_over_tls():
    async with tls_bucket() as cluster, cluster.link() as link:
        body = bytes(range(256)) * 4096
        lengths = range(0, len(body), len(body) // 20)

        async def push(length):
            reply = await link.call(PUSH, body[:length])
            assert reply.message.missing == length

        with trio.fail_after(10):
            async with trio.open_nursery() as calls:
                for length in lengths:
                    calls.start_soon(push, length)
        received = {bytes(received) for _, _, received in cluster.service.asked}
        assert received == {body[:length] for length in lengths}
        assert len((await link.call(READ_MIB)).body) == 1 << 20


# --- certificates -------------------------------------------------------------------------------


def test_a_certificate_is_its_principal_and_always_the_same():
    identity = Identity.of(ALICE)
    assert certified(identity.certificate) == ALICE.principal
    assert Identity.of(KeyPair(ALICE.seed)).certificate == identity.certificate
    assert Identity.of(BUCKET).certificate != identity.certificate
    certificate = x509.load_der_x509_certificate(identity.certificate)
    certificate.verify_directly_issued_by(certificate)


def test_no_key_stays_in_a_file_or_an_open_descriptor(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    descriptors = Path("/proc/self/fd")
    before = sorted(descriptors.iterdir())
    Identity.of(ALICE)
    assert sorted(descriptors.iterdir()) == before
    assert not list(tmp_path.iterdir())


def certificate_of(secret, algorithm):
    """Signed by itself, like a node's, with a key of any kind."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    return (
        x509
        .CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .public_key(secret.public_key())
        .sign(secret, algorithm)
    )


def of_version(number: int) -> bytes:
    """A node's certificate that says it is of another version of X.509."""
    version = bytes.fromhex("a0030201")
    front, back = Identity.of(ALICE).certificate.split(version + b"\2", 1)
    return front + version + bytes((number,)) + back


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        b"",
        of_version(5),
        b"\x30\x03\x02\x01\x01",
        Identity.of(ALICE).certificate[:-1],
        certificate_of(ed448.Ed448PrivateKey.generate(), None).public_bytes(
            serialization.Encoding.DER
        ),
    ],
    ids=["none", "empty", "another version", "no certificate", "cut", "another kind of key"],
)
def test_b47_a_certificate_that_names_no_principal_is_a_typed_error(certificate):
    with pytest.raises(UnauthenticatedError):
        certified(certificate)


# --- who is there, and who is not ---------------------------------------------------------------


async def test_nothing_is_said_to_anybody_but_the_expected_peer(nursery):
    heard = []

    async def listen(stream):
        await secured(stream)
        # A peer on a machine with much to do. The dialler waits: it ends when this one hangs up.
        await trio.sleep(0.25)
        heard.append(await receive_into(stream, memoryview(bytearray(1))))

    address = await nursery.start(TlsNetwork(MALLORY).serve, ANY_PORT, listen)
    await refused(address, UnauthenticatedError, "not the peer")
    with pytest.raises(LinkClosedError), trio.fail_after(5):
        async with dial(address, expect=MALLORY):
            pytest.fail("the link opened")
    assert heard == [1]


async def shows(handler, nursery):
    """The address of somebody who does his own TLS, whatever becomes of it."""

    async def handle(stream):
        with contextlib.suppress(trio.BrokenResourceError):
            await handler(stream)

    return await nursery.start(TcpNetwork().serve, ANY_PORT, handle)


def context_of(secret, algorithm, path):
    """A server's context with such a certificate."""
    pem = secret.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate = certificate_of(secret, algorithm)
    path.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_b47_a_peer_with_another_kind_of_key_is_refused(nursery, tmp_path):
    secret = ec.generate_private_key(ec.SECP256R1())
    context = context_of(secret, hashes.SHA256(), tmp_path / "ec.pem")
    heard = []

    async def answer(stream):
        heard.append(await trio.SSLStream(stream, context, server_side=True).receive_some())

    await refused(await shows(answer, nursery), UnauthenticatedError, "no Ed25519 key")
    assert not any(heard)


@pytest.mark.parametrize(
    ("certificate", "match"),
    [
        (b"", "unreadable"),
        (b"no certificate at all", "unreadable"),
        (Identity.of(BUCKET).certificate[:-1], "unreadable"),
        (Identity.of(BUCKET).certificate + b"x", "length mismatch"),
    ],
    ids=["empty", "garbage", "cut", "with more behind it"],
)
async def test_b47_a_malformed_certificate_is_refused_with_a_typed_error(
    nursery, certificate, match
):
    async def show(stream):
        assert not await present(stream, certificate, BUCKET)

    await refused(await shows(show, nursery), UnauthenticatedError, match)


async def test_a_stolen_certificate_without_its_key_is_refused(nursery):
    certificate = Identity.of(BUCKET).certificate
    answers = []

    async def show(key, stream):
        answers.append(await present(stream, certificate, key))
        await trio.sleep(1)

    await refused(
        await shows(partial(show, MALLORY), nursery), UnauthenticatedError, "bad signature"
    )
    assert answers == [b""]
    # The same words with the key are a TLS handshake: the forger's arithmetic is right.
    stream = await TlsNetwork().connect(await shows(partial(show, BUCKET), nursery))
    assert await stream.secure(BUCKET.principal) == channel_binding(certificate)
    await stream.aclose()


async def test_an_accepter_refuses_tls_1_2_and_a_dialler_too(nursery, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with tls_bucket() as cluster:
        for version, speaks in ((ssl.TLSVersion.TLSv1_2, False), (ssl.TLSVersion.TLSv1_3, True)):
            context.maximum_version = version
            stream = trio.SSLStream(await TcpNetwork().connect(cluster.address), context)
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError:
                assert not speaks
            else:
                assert (speaks, stream.version()) == (True, "TLSv1.3")
            await trio.aclose_forcefully(stream)
    old = context_of(ed25519.Ed25519PrivateKey.generate(), None, tmp_path / "old.pem")
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    async def answer(stream):
        await trio.SSLStream(stream, old, server_side=True).do_handshake()

    await refused(await shows(answer, nursery), LinkClosedError, "TLS handshake")


async def test_nothing_is_resumed():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with tls_bucket() as cluster:
        stream = trio.SSLStream(await TcpNetwork().connect(cluster.address), context)
        await stream.send_all(wire(dialler().send_hello()))
        assert await stream.receive_some()
        assert not stream.session.has_ticket
        await trio.aclose_forcefully(stream)


async def test_plain_text_and_tls_do_not_mix_and_say_so(nursery):
    async with tls_bucket() as cluster:
        await refused(cluster.address, LinkClosedError, "connection", network=TcpNetwork())
        async with cluster.link() as link:
            await link.call(READ)
    async with served(network=TcpNetwork(), address=ANY_PORT) as cluster:
        await refused(cluster.address, LinkClosedError, "wrong version number|closed")
        async with cluster.link() as link:
            await link.call(READ)


# --- how it ends --------------------------------------------------------------------------------


async def reset(peer):
    peer.below.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    await trio.aclose_forcefully(peer.stream)


async def end_within_a_record(peer):
    await peer.below.send_all(b"\x17\x03\x03\x01\x00half of it")
    await peer.below.aclose()


async def send_garbage(peer):
    await peer.below.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))


async def close(peer):
    await peer.stream.aclose()


async def vanish(peer):
    await trio.aclose_forcefully(peer.stream)


async def end_half(peer):
    await peer.stream.send_eof()


ENDS = {
    "close_notify": close,
    "without a word": vanish,
    "half": end_half,
    "reset": reset,
    "within a record": end_within_a_record,
    "garbage": send_garbage,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_however_a_dialler_goes_its_requests_end_and_nobody_else_s(end):
    started, ended = trio.Event(), trio.Event()

    async def answer(caller, request, body):
        if isinstance(request, m.ReadBlob):
            return await echo(caller, request, body)
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    with trio.fail_after(5):
        async with tls_bucket(answer) as cluster, cluster.link() as honest:
            async with raw_peer(cluster.address) as peer:
                await peer.open()
                _, outgoing = peer.connection.send_request(PUSH, 5000)
                await peer.stream.send_all(wire(outgoing))
                await started.wait()
                await end(peer)
                await ended.wait()
            await honest.call(READ)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_however_an_accepter_goes_it_is_a_link_error(nursery, end):
    async def hang_up(stream):
        peer = RawPeer(stream, accepter(binding=await secured(stream)))
        await peer.accept()
        await peer.next_events()
        await end(peer)
        await trio.sleep_forever()

    address = await nursery.start(TlsNetwork(BUCKET).serve, ANY_PORT, hang_up)
    with trio.fail_after(5):
        async with dial(address) as link:
            with pytest.raises(LinkClosedError):
                await link.call(READ)
            with pytest.raises(LinkClosedError):
                await link.call(READ)


# --- large and small ----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[], [0], [1], [100, 200], [100, 16384], [40_000, 7, 1 << 20, 3]])
def test_pieces_are_encrypted_whole_in_slices_and_large_ones_as_they_are(sizes):
    pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
    slices = list(in_slices(pieces))
    assert b"".join(slices) == b"".join(pieces)
    assert all(0 < len(piece) <= SLICE_BYTES for piece in slices)
    copied = sum(len(piece) for piece in slices if isinstance(piece, bytes))
    assert copied <= RECORD_BYTES * len(pieces)


async def test_a_slow_reader_holds_one_slice_of_a_body_and_no_more(autojump_clock):
    ours, theirs = memory_stream_pair(1000)
    sent = CountingStream(ours)
    sender, receiver = TlsStream(sent, Identity.of(BUCKET)), TlsStream(theirs)
    body = bytes(range(256)) * 4096
    buffer = memoryview(bytearray(len(body) + 3))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.secure, None)
        await receiver.secure(BUCKET.principal)
        nursery.start_soon(send_pieces, sender, [b"abc", body])
        filled = 0
        while filled < len(buffer):
            filled += await receive_into(receiver, buffer[filled:])
    assert bytes(buffer) == b"abc" + body
    await sender.wait_send_all_might_not_block()
    await sender.send_eof()  # which cannot be said on what is below: the peer is told by the end
    assert max(sent.sizes) < SLICE_BYTES + 2 * RECORD_BYTES


async def test_b47_records_of_a_byte_are_not_all_decrypted_in_one_go():
    """Between calls others have their turn."""
    ours, theirs = memory_stream_pair(1 << 20)
    sender, receiver = TlsStream(ours, Identity.of(BUCKET)), TlsStream(theirs)
    data = bytes(range(200)) * 10
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.secure, None)
        await receiver.secure(BUCKET.principal)
    for start in range(len(data)):
        await sender.send_all(data[start : start + 1])
    received, counts, buffer = b"", [], memoryview(bytearray(len(data)))
    while len(received) < len(data):
        counts.append(await receive_into(receiver, buffer))
        received += buffer[: counts[-1]]
    assert received == data
    assert max(counts) <= 64


class CountingStream(StreamAbove):
    """Notes how much is given to it at a time."""

    def __init__(self, below):
        super().__init__(below)
        self.sizes = []

    async def send_all(self, data):
        self.sizes.append(len(data))
        await super().send_all(data)
