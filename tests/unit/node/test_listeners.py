from __future__ import annotations

import os
import socket
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing
from dataclasses import replace

import pytest
import trio
from typing_extensions import override

from ostnode.config import IndexConfig
from ostnode.errors import InvalidArgumentError, ShuttingDownError
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import PrincipalKind
from ostnode.net.link import Link, open_link
from ostnode.net.memory import MemoryNetwork
from ostnode.net.transport import LinkClosedError
from ostnode.node.errors import StartError
from ostnode.node.listeners import Interruptible, bind_early, serve_peers
from ostnode.node.role import NEWCOMERS, Role
from ostnode.node.seams import Seams
from ostnode.wire import messages as m
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import NOBODY, Caller, Kind, Reply, Service
from ostnode.wire.checking import Compare, Part
from ostnode.wire.fields import Request
from ostnode.wire.membership import GetRoster
from ostnode.wire.status import ClusterStatus
from tests.support.index_cluster import SeededRng

POLL = m.Feed(0, 0, 60_000)


class Polled(Service):
    """Answers a poll after `wait_s`, or refuses it; anything else at once."""

    def __init__(self, wait_s: float = 0.0, refusal: Exception | None = None) -> None:
        self.wait_s = wait_s
        self.refusal = refusal

    @override
    async def handle(self, caller: Caller, request: Request, body: Buffer = b"") -> Reply:
        await trio.sleep(self.wait_s)
        if self.refusal:
            raise self.refusal
        return Reply(m.Ok())


@pytest.mark.parametrize(
    "poll",
    [POLL, GetRoster(0, 60_000), Compare(0, Part.ASK, 0, 0, 0, wait_ms=60_000)],
    ids=lambda poll: type(poll).__name__,
)
async def test_a_long_poll_ends_when_the_node_stops(autojump_clock, poll) -> None:
    stopping = trio.Event()
    service = Interruptible(Polled(wait_s=60), stopping)

    async def stop_later() -> None:
        await trio.sleep(5)
        stopping.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_later)
        with pytest.raises(ShuttingDownError):
            await service.handle(NOBODY, poll)
    assert trio.current_time() == pytest.approx(5)


async def test_a_long_poll_with_news_is_answered(autojump_clock) -> None:
    service = Interruptible(Polled(wait_s=1), trio.Event())
    assert (await service.handle(NOBODY, POLL)).message == m.Ok()


async def test_a_refused_poll_raises_the_refusal_itself() -> None:
    service = Interruptible(Polled(refusal=InvalidArgumentError("no")), trio.Event())
    with pytest.raises(InvalidArgumentError, match="no"):
        await service.handle(NOBODY, POLL)


async def test_other_calls_are_finished_though_the_node_stops(autojump_clock) -> None:
    stopping = trio.Event()
    stopping.set()
    service = Interruptible(Polled(wait_s=3), stopping)
    assert (await service.handle(NOBODY, ClusterStatus())).message == m.Ok()


def test_a_port_the_system_chooses_is_known_before_it_is_served() -> None:
    served, bound = bind_early("bucket[0].http", "127.0.0.1:0")
    descriptor = int(served.removeprefix("fd://"))
    try:
        with closing(socket.socket(fileno=os.dup(descriptor))) as sock:
            assert bound == f"127.0.0.1:{sock.getsockname()[1]}"
    finally:
        os.close(descriptor)


def test_an_address_in_use_is_named_with_its_key() -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=r"bucket\[0\].http cannot listen: .*in use") as error:
            bind_early("bucket[0].http", f"127.0.0.1:{port}")
    assert "bucket[0].http" in error.value.hint


KEY, APP = KeyPair.from_seed(bytes(32)), KeyPair.from_seed(bytes([1]) * 32)
RELEASE = m.ReleaseGrant(m.GrantId(bytes(16)))


def role_of(service: Service, seams: Seams) -> Role:
    return Role(
        name="index",
        config=IndexConfig.model_construct(peer="index:1"),
        key=KEY,
        network=seams.network,
        kind=Kind.INDEX,
        printed_as=PrincipalKind.INDEX,
        service=service,
        make_app=lambda: lambda *_: None,
        http="",
        kinds_of=lambda who: frozenset({Kind.APP} if who == APP.principal else ()),
        checks=dict,
    )


def dial(seams: Seams, key: KeyPair) -> AbstractAsyncContextManager[Link]:
    return open_link(
        seams.network,
        "index:1",
        signer=key,
        verify=verify,
        expect=KEY.principal,
        rng=seams.rng,
    )


async def test_b51_calls_over_a_peer_link_are_finished_before_a_role_stops(autojump_clock) -> None:
    stopping, answered = trio.Event(), []
    seams = Seams(rng=SeededRng(), network=MemoryNetwork())
    role = role_of(Polled(wait_s=3), seams)

    async def call() -> None:
        async with dial(seams, KEY) as link:
            answered.append(await link.call(RELEASE))

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as serving:
            await serving.start(serve_peers, role, seams, stopping)
            nursery.start_soon(call)
            await trio.sleep(1)
            stopping.set()
        assert 3 <= trio.current_time() < 10
    assert [reply.message for reply in answered] == [m.Ok()]


async def test_b50_newcomers_are_refused_when_everybody_is_somebody(autojump_clock) -> None:
    seams = Seams(rng=SeededRng(), network=MemoryNetwork())
    role = replace(role_of(Polled(), seams), links_max=2)
    async with trio.open_nursery() as nursery, AsyncExitStack() as links:
        await nursery.start(serve_peers, role, seams, trio.Event())
        for _ in range(2 + NEWCOMERS):
            app = await links.enter_async_context(dial(seams, APP))
            await app.call(RELEASE)
        with pytest.raises(LinkClosedError):
            async with dial(seams, APP):
                pytest.fail("the link opened")
        await app.call(RELEASE)
        await links.aclose()
        nursery.cancel_scope.cancel()


async def test_b50_idle_strangers_make_room_on_peer_links_and_the_cluster_stays(
    autojump_clock,
) -> None:
    seams = Seams(rng=SeededRng(), network=MemoryNetwork())
    gone: list[int] = []

    async def stranger(number: int, *, task_status: trio.TaskStatus[None]) -> None:
        async with dial(seams, KeyPair.generate(seams.rng)) as link:
            await link.call(RELEASE)
            task_status.started()
            if number == 0:
                await trio.sleep(0.5)
                await link.call(RELEASE)
            await link.wait_closed()
            gone.append(number)

    async with trio.open_nursery() as nursery:
        role = replace(role_of(Polled(), seams), links_max=3)
        await nursery.start(serve_peers, role, seams, trio.Event())
        for number in range(3):
            await nursery.start(stranger, number)
        await trio.sleep(1)
        async with dial(seams, APP) as app:
            await app.call(RELEASE)
            await trio.sleep(1)
            assert gone == [1]
            for number in range(3, 9):
                await nursery.start(stranger, number)
            await app.call(RELEASE)
            await trio.sleep(1)
            assert gone == [1, 2, 0, 3, 4, 5, 6]
        nursery.cancel_scope.cancel()
