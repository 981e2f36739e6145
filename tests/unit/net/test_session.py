"""Who writes: the writer what is queued, whoever posts what would be joined with nothing."""

from __future__ import annotations

import os

import pytest
import trio

from ostnode.errors import ShuttingDownError
from ostnode.net.memory import memory_stream_pair
from ostnode.net.session import JOIN_BYTES_MAX, LinkLimits, Session
from tests.support.wire_peers import open_pair

LARGE = bytes(range(256)) * 8192


@pytest.fixture
async def ends():
    """A session on a socket without a writer, and the other end's descriptor."""
    ours, theirs = trio.socket.socketpair()
    await trio.lowlevel.checkpoint()
    yield Session(trio.SocketStream(ours), open_pair()[0], LinkLimits()), theirs.fileno()
    ours.close()
    theirs.close()


def arrived(descriptor: int) -> bytes:
    """What has come and was not taken yet."""
    try:
        return os.read(descriptor, 1 << 24)
    except BlockingIOError:
        return b""


async def until_flushed(session, descriptor: int) -> bytes:
    """Everything that the writer sends."""
    taken = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.write)
        with trio.fail_after(5):
            while session.unsent.queued:
                taken += arrived(descriptor)
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return taken + arrived(descriptor)


async def test_a_frame_that_others_may_follow_waits_for_the_writer(ends):
    session, there = ends
    session.post((b"one", b""))
    session.post((b"two", b""))
    assert arrived(there) == b""
    assert await until_flushed(session, there) == b"onetwo"


async def test_the_system_takes_as_many_small_frames_as_are_queued(ends):
    """One call takes 1024 pieces (IOV_MAX)."""
    session, there = ends
    for _ in range(3000):
        session.post((b"x", b""))
    assert await until_flushed(session, there) == b"x" * 3000


async def test_b50_who_takes_small_frames_that_came_together_lets_others_run(nursery):
    ours, theirs = open_pair()
    near, far = memory_stream_pair()
    session, turns = Session(near, ours, LinkLimits()), 0

    @nursery.start_soon
    async def others():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    pings = b"".join(theirs.send_ping(number)[0] for number in range(64))
    await far.send_all(pings + theirs.send_goaway(ShuttingDownError())[0])
    turns = 0
    await session.next_event()
    assert turns >= 64 // 16


async def test_a_frame_alone_is_written_at_once(ends):
    session, there = ends
    session.post((b"head", b"body"), alone=True)
    assert arrived(there) == b"headbody"
    with trio.fail_after(1):
        await session.unsent.flushed()


async def test_a_frame_alone_does_not_overtake_what_is_queued(ends):
    session, there = ends
    session.post((b"one", b""))
    session.post((b"two", b""), alone=True)
    session.post((b"three", bytes(JOIN_BYTES_MAX)))
    assert arrived(there) == b""
    assert await until_flushed(session, there) == b"onetwothree" + bytes(JOIN_BYTES_MAX)


async def test_the_rest_of_a_large_body_is_the_writers_and_comes_before_later_frames(ends):
    session, there = ends
    session.post((b"head", LARGE))
    begun = arrived(there)
    assert begun.startswith(b"head")
    assert session.unsent.queued == 4 + len(LARGE) - len(begun)
    session.post((b"next", b""), alone=True)
    assert begun + await until_flushed(session, there) == b"head" + LARGE + b"next"


async def test_an_idle_link_keeps_no_body_that_it_has_sent(ends):
    session, there = ends
    body, taken = bytearray(LARGE), 0
    async with trio.open_nursery() as nursery:
        session.post((b"head", body))
        nursery.start_soon(session.write)
        with trio.fail_after(5):
            while taken < len(LARGE) + 4 or session.unsent.queued:
                taken += len(arrived(there))
                await trio.lowlevel.checkpoint()
        body.append(0)  # a BufferError as long as anybody still looks at it
        nursery.cancel_scope.cancel()
