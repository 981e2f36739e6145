"""What a refusal keeps alive while it waits to be read: itself, and nothing of what it refuses."""

from __future__ import annotations

import gc

import pytest
import trio.testing

from ostnode.codec import encode
from ostnode.errors import NotFoundError
from ostnode.net.intake import Intake
from ostnode.net.session import LinkLimits
from ostnode.wire import messages as m
from ostnode.wire.calls import call_of
from ostnode.wire.frames import pack_frame
from tests.support.tlskit import RawPeer
from tests.support.wire_peers import BLOB, GROUP, dialler, echo, served, wire

MIB = 1 << 20
LIMITS = LinkLimits(queue_bytes_max=64 * 1024)
PUSH_FIELDS = {"grant": b"grant", "chunk_index": 0}
MARK = "only this case says so"


async def open_peer(cluster) -> RawPeer:
    peer = RawPeer(await cluster.network.connect(cluster.address), dialler())
    await peer.open()
    return peer


def refused_request(fields) -> bytes:
    """A push with a body of a MiB."""
    header = {"t": 4, "id": 9, "call": call_of(m.PushChunk).number, "ms": 60_000, "m": fields}
    return pack_frame(encode(header), bytes(MIB)) + bytes(MIB)


def lists_said() -> int:
    """How many of the test's lists, decoded, are alive."""
    return sum(1 for each in gc.get_objects() if isinstance(each, list) and each[:1] == [MARK])


@pytest.mark.parametrize("fields", [PUSH_FIELDS, {"grant": 1}], ids=["refused", "malformed"])
async def test_b50_refusals_that_nobody_reads_keep_no_bodies(autojump_clock, fields):
    """Their room is given back once there is an outcome: so must be their memory."""

    async def refuse(caller, request, body):
        if isinstance(request, m.ReadBlob):
            return await echo(caller, request, body)
        raise NotFoundError from KeyError(body)

    intake = Intake()
    async with served(refuse, limits=LIMITS, intake=intake) as cluster:
        peer = await open_peer(cluster)
        for number in range(2):  # one on its way to a peer that does not read, one behind it
            _, outgoing = peer.connection.send_request(m.ReadBlob(GROUP, BLOB, number, MIB), 60_000)
            await peer.stream.send_all(wire(outgoing))
        await peer.stream.send_all(refused_request(fields))
        await trio.testing.wait_all_tasks_blocked()
        assert intake.held == 0
        assert intake.buffers._free_index(MIB) == 0


@pytest.mark.parametrize("at", ["greeting", "open"])
async def test_b50_last_words_keep_nothing_of_what_they_are_about(autojump_clock, at):
    """The link lingers for the peer to read them; a refused header may be large when decoded."""
    async with served() as cluster:
        peer = RawPeer(await cluster.network.connect(cluster.address), dialler())
        if at == "open":
            await peer.open()
        kind = 1 if at == "greeting" else 4
        await peer.stream.send_all(pack_frame(encode({"t": kind, "id": [MARK]})))
        await trio.testing.wait_all_tasks_blocked()
        assert lists_said() == 0
        (event,) = await peer.next_events()
        assert event.error.code == "invalid_argument"
