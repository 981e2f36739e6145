"""The network in memory behaves as sockets do."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ostnode.net.memory import MemoryNetwork, memory_stream_pair
from ostnode.net.transport import LinkClosedError


async def test_it_is_a_half_closeable_stream():
    async def make():
        await trio.lowlevel.checkpoint()
        return memory_stream_pair()

    async def make_clogged():
        pair = memory_stream_pair(1)
        for stream in pair:
            await stream.send_all(b"x")
        return pair

    await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_a_direction_holds_so_much_and_no_more(autojump_clock):
    ours, theirs = memory_stream_pair(10)
    with trio.move_on_after(1) as scope:
        await ours.send_all(bytes(11))
    assert scope.cancelled_caught
    assert await theirs.receive_some() == bytes(10)


async def test_two_senders_at_once_are_a_bug(autojump_clock):
    ours, _ = memory_stream_pair(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.send_all, b"12")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await ours.send_all(b"3")
        nursery.cancel_scope.cancel()


async def test_severed_streams_fail_at_both_ends_and_drop_what_was_on_the_way():
    ours, theirs = memory_stream_pair()
    await ours.send_all(b"lost")
    ours.sever()
    for stream in (ours, theirs):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


async def test_a_closed_stream_cannot_be_ended():
    ours, _ = memory_stream_pair()
    await ours.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_eof()


async def echo(stream):
    while data := await stream.receive_some():
        await stream.send_all(data)


async def test_a_network_connects_by_address(nursery):
    network = MemoryNetwork()
    bound = await nursery.start(network.serve, "index:0", echo)
    again = await nursery.start(network.serve, "index:0", echo)
    assert bound != again
    stream = await network.connect(bound)
    await stream.send_all(b"hello")
    assert await stream.receive_some() == b"hello"
    await stream.aclose()


async def test_nobody_there():
    with pytest.raises(LinkClosedError, match="nobody"):
        await MemoryNetwork().connect("index:1")


async def test_one_address_is_served_once(nursery):
    network = MemoryNetwork()
    await nursery.start(network.serve, "index:1", echo)
    with pytest.raises(OSError, match="served already"):
        await network.serve("index:1", echo)


async def test_the_end_of_serving_closes_what_was_open():
    network = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        await nursery.start(network.serve, "index:1", echo)
        stream = await network.connect("index:1")
        await trio.testing.wait_all_tasks_blocked()
        waiting = await network.connect("index:1")
        nursery.cancel_scope.cancel()
    assert await stream.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await waiting.send_all(b"x")
    with pytest.raises(LinkClosedError):
        await network.connect("index:1")


async def test_severing_breaks_connections_and_serving_goes_on(nursery):
    network = MemoryNetwork()
    await nursery.start(network.serve, "index:1", echo)
    stream = await network.connect("index:1")
    await trio.testing.wait_all_tasks_blocked()
    network.sever("index:1")
    network.sever("nobody:1")
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    again = await network.connect("index:1")
    await again.send_all(b"hello")
    assert await again.receive_some() == b"hello"


async def test_a_failing_handler_ends_its_own_connection_alone(nursery):
    async def fail(stream):
        await stream.receive_some()
        raise RuntimeError("a bug")

    network = MemoryNetwork()
    await nursery.start(network.serve, "index:1", fail)
    for _ in range(2):
        stream = await network.connect("index:1")
        await stream.send_all(b"x")
        assert await stream.receive_some() == b""


async def test_connections_that_nobody_accepts_are_bounded(nursery):
    network = MemoryNetwork()
    await nursery.start(network.serve, "index:1", echo)
    refused = []

    async def connect():
        try:
            await network.connect("index:1")
        except LinkClosedError as error:
            refused.append(str(error))

    # All in one turn of the scheduler: the server accepts none in between.
    async with trio.open_nursery() as callers:
        for _ in range(300):
            callers.start_soon(connect)
    assert refused
    assert "too many" in refused[0]
