"""TCP on loopback: addresses, plaintext, the cap, and errors translated."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing

from ostnode.errors import InvalidArgumentError
from ostnode.net.memory import memory_stream_pair
from ostnode.net.session import LinkLimits
from ostnode.net.transport import (
    LinkClosedError,
    TcpNetwork,
    end_sending,
    receive_into,
    send_now,
    send_pieces,
    split_address,
)
from ostnode.wire.calls import Reply
from ostnode.wire.frames import BODY_BYTES_MAX
from tests.support import wire_peers
from tests.support.wire_peers import INFO, PUSH, READ, linked


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:7101", ("127.0.0.1", 7101)),
        ("[::1]:0", ("::1", 0)),
        ("node-1.example:65535", ("node-1.example", 65535)),
    ],
)
def test_addresses(text, parts):
    assert split_address(text) == parts


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":1", "host:x", "host:65536", "host:-1", "::1:80", "host:١", "[]:1"],
)
def test_addresses_that_are_none(text):
    with pytest.raises(InvalidArgumentError):
        split_address(text)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
async def test_bytes_go_there_and_back(nursery, address):
    network = TcpNetwork()
    bound = await nursery.start(network.serve, address, echo)
    buffer = bytearray(10)
    async with await network.connect(bound) as stream:
        await send_pieces(stream, [b"hello"])
        assert await receive_into(stream, memoryview(buffer)) == 5
    assert buffer[:5] == b"hello"


@pytest.mark.parametrize(
    "address", ["192.0.2.1:80", "example.org:80", "0.0.0.0:80", "[2001:db8::1]:80"]
)
async def test_plain_tcp_is_for_loopback(address):
    with pytest.raises(InvalidArgumentError, match="loopback"):
        await TcpNetwork().connect(address)
    with pytest.raises(InvalidArgumentError, match="loopback"):
        await TcpNetwork().serve(address, echo)


async def test_plain_tcp_elsewhere_must_be_asked_for(nursery):
    network = TcpNetwork(loopback_only=False)
    bound = await nursery.start(network.serve, "0.0.0.0:0", echo)
    stream = await TcpNetwork().connect(f"127.0.0.1:{split_address(bound)[1]}")
    await stream.aclose()


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", "\ud800.example"])
async def test_a_name_that_cannot_be_looked_up_is_an_error_of_its_kind(host):
    """The library refuses it with UnicodeError, before anybody is asked."""
    network = TcpNetwork(loopback_only=False)
    with pytest.raises(LinkClosedError, match="cannot connect"):
        await network.connect(f"{host}:80")
    with pytest.raises(OSError, match="is no name of a host"):
        await network.serve(f"{host}:80", echo)


async def test_nobody_there_is_a_link_error():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(LinkClosedError, match="cannot connect"):
        await TcpNetwork().connect(f"127.0.0.1:{port}")


async def test_an_address_in_use_is_an_os_error(nursery):
    network = TcpNetwork()
    bound = await nursery.start(network.serve, "127.0.0.1:0", echo)
    with pytest.raises(OSError, match="in use"):
        await network.serve(bound, echo)


async def test_the_last_word_to_a_peer_that_is_gone_is_a_link_error(nursery):
    """shutdown(2) of a connection that was reset is ENOTCONN."""
    failures = []

    async def ends(stream):
        with pytest.raises(LinkClosedError):
            await receive_into(stream, memoryview(bytearray(1)))
        with pytest.raises(LinkClosedError) as failure:
            await end_sending(stream)
        failures.append(str(failure.value))
        gone.set()

    gone = trio.Event()
    bound = await nursery.start(TcpNetwork().serve, "127.0.0.1:0", ends)
    stream = await TcpNetwork().connect(bound)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()  # at once, by a reset
    with trio.fail_after(10):
        await gone.wait()
    assert "not connected" in failures[0]


async def talks(stream) -> bool:
    """Whether the other side echoes."""
    try:
        await send_pieces(stream, [b"x"])
        return await receive_into(stream, memoryview(bytearray(1))) == 1
    except LinkClosedError:
        return False


async def test_b50_connections_over_the_cap_are_closed_and_the_others_served(nursery):
    network = TcpNetwork(connections_max=2)
    bound = await nursery.start(network.serve, "127.0.0.1:0", echo)
    async with await network.connect(bound) as first, await network.connect(bound) as second:
        assert await talks(first)
        assert await talks(second)
        async with await network.connect(bound) as third:
            assert await receive_into(third, memoryview(bytearray(1))) == 0
        assert await talks(first)
    with trio.fail_after(5):
        served = False
        while not served:
            async with await network.connect(bound) as again:
                served = await talks(again)


async def test_the_options_of_a_connection(nursery):
    options = []

    async def look(stream):
        await trio.lowlevel.checkpoint()
        options.extend(
            stream.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_NODELAY, socket.TCP_USER_TIMEOUT)
        )

    network = TcpNetwork(user_timeout_ms=4321)
    bound = await nursery.start(network.serve, "127.0.0.1:0", look)
    async with await network.connect(bound) as stream:
        assert await receive_into(stream, memoryview(bytearray(1))) == 0
        assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4321
    assert options == [1, 4321]


async def test_a_reset_is_a_link_error(nursery):
    async def reset(stream):
        await trio.lowlevel.checkpoint()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    network = TcpNetwork()
    bound = await nursery.start(network.serve, "127.0.0.1:0", reset)
    async with await network.connect(bound) as stream:
        with pytest.raises(LinkClosedError):
            await receive_into(stream, memoryview(bytearray(1)))
        with pytest.raises(LinkClosedError):
            await send_pieces(stream, [b"x"])


async def test_a_socket_reset_before_it_is_tuned_harms_nothing(nursery, monkeypatch):
    def refuse(*_):
        raise OSError(22, "Invalid argument")

    network = TcpNetwork()
    bound = await nursery.start(network.serve, "127.0.0.1:0", echo)
    monkeypatch.setattr(trio.SocketStream, "setsockopt", refuse)
    async with await network.connect(bound) as stream:
        assert await talks(stream)


@pytest.fixture
async def streams():
    """Both ends of a connection with small buffers in the system."""
    ends = trio.socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    async with trio.SocketStream(ends[0]) as ours, trio.SocketStream(ends[1]) as theirs:
        yield ours, theirs


PIECES = [bytes([number]) * (number * 1000) for number in range(40)]


async def test_pieces_arrive_whole_and_in_order_however_little_goes_at_once(nursery, streams):
    ours, theirs = streams
    nursery.start_soon(send_pieces, ours, PIECES)
    whole = b"".join(PIECES)
    arrived = bytearray(len(whole))
    at = 0
    while at < len(whole):
        at += await receive_into(theirs, memoryview(arrived)[at:])
    assert arrived == whole


async def test_what_does_not_go_without_waiting_is_left_in_order(streams):
    ours, theirs = streams
    left = send_now(ours, PIECES)
    sent = sum(map(len, PIECES)) - sum(map(len, left))
    assert 0 < sent < sum(map(len, PIECES))
    assert send_now(ours, left) == left, "there is no room"
    arrived = bytearray(sent)
    assert await receive_into(theirs, memoryview(arrived)) == sent
    assert arrived + b"".join(left) == b"".join(PIECES)


async def test_nothing_is_left_of_what_fits(streams):
    ours, theirs = streams
    assert not send_now(ours, [b"", b"ab", memoryview(b"cde")])
    assert await theirs.receive_some() == b"abcde"


async def test_on_a_broken_connection_everything_is_left_to_the_writer(streams):
    ours, theirs = streams
    await theirs.aclose()
    assert send_now(ours, PIECES) == PIECES
    with pytest.raises(LinkClosedError):
        await send_pieces(ours, PIECES)


async def test_other_streams_than_sockets_wait_for_the_writer():
    ours, _ = memory_stream_pair()
    assert send_now(ours, PIECES) == PIECES
    await trio.lowlevel.checkpoint()


async def test_receiving_is_woken_by_closing(nursery, streams):
    ours, _ = streams
    nursery.start_soon(ours.aclose)
    with pytest.raises(LinkClosedError):
        await receive_into(ours, memoryview(bytearray(10)))


ROW = bytes(range(256)) * 1024
SHAPES = {
    "as it is": memoryview(ROW),
    "wide items": memoryview(ROW).cast("Q"),
    "a table": memoryview(ROW).cast("B", (512, 512)),
    "with gaps": memoryview(bytes(2 * len(ROW)))[::2],
    "backwards": memoryview(ROW)[::-1],
}


@pytest.mark.parametrize("body", SHAPES.values(), ids=SHAPES)
async def test_a_body_goes_over_as_its_bytes_whatever_its_shape(body):
    async def give(caller, request, received):
        if request == PUSH:
            return await wire_peers.echo(caller, request, received)
        await trio.lowlevel.checkpoint()
        return Reply(INFO, body)

    wanted = body.tobytes()
    network = TcpNetwork()
    async with (
        linked(give, network=network, address="127.0.0.1:0") as (link, cluster),
        trio.open_nursery() as nursery,
    ):
        with trio.fail_after(5):
            for _ in range(3):
                nursery.start_soon(link.call, PUSH, body)
            assert (await link.call(READ)).body == wanted
            assert (await link.call(PUSH, body)).message.missing == len(wanted)
        asked = [received for _, request, received in cluster.service.asked if request == PUSH]
        assert asked == [wanted] * 4


async def test_a_body_of_wide_items_counts_in_bytes_against_the_window(autojump_clock):
    async def slow(caller, request, received):
        await trio.sleep(1)
        return await wire_peers.echo(caller, request, received)

    limits = LinkLimits(window_bytes=BODY_BYTES_MAX)
    body = memoryview(bytes(1 << 20))
    async with linked(slow, limits=limits) as (link, _), trio.open_nursery() as nursery:
        nursery.start_soon(link.call, PUSH, body[: 1 << 19])
        await trio.testing.wait_all_tasks_blocked()
        assert (await link.call(PUSH, body.cast("Q"))).message.missing == len(body)
        assert trio.current_time() >= 2
