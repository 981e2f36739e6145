from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from ostnode.client import PeerClient, UnreachableError, connect_peer
from ostnode.errors import NotAuthorizedError, UnauthenticatedError, UserExistsError
from ostnode.identity.keys import verify
from ostnode.ids import GrantId, Principal
from ostnode.net.memory import MemoryNetwork
from ostnode.net.serve import serve_link
from ostnode.wire import messages as m
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import Caller, Kind, Reply
from ostnode.wire.fields import Request
from tests.support.client_fakes import ALICE, BUCKET, GENERAL, INDEX, FakeRng

ADDRESS = "index:7101"


class AppIndex:
    """Answers some of an index's calls."""

    def __init__(self) -> None:
        self.asked: list[tuple[Principal, Request]] = []

    async def handle(self, caller: Caller, request: Request, body: Buffer = b"") -> Reply:
        await trio.lowlevel.checkpoint()
        self.asked.append((caller.proven, request))
        match request:
            case m.ChangeUsers(changes):
                return Reply(m.BatchResult(tuple(_result(change) for change in changes)))
            case m.ReleaseGrant():
                await trio.sleep_forever()
        return Reply(m.Ok())


def _result(change: m.UserChange) -> m.ItemResult:
    if change.principal == GENERAL.principal:
        return m.ItemResult("user_exists", "taken")
    return m.ItemResult()


@asynccontextmanager
async def _peer(index: AppIndex, kinds: frozenset[Kind] = frozenset({Kind.APP})):
    network = MemoryNetwork()
    serve = partial(
        serve_link,
        signer=INDEX,
        verify=verify,
        services={Kind.INDEX: index},
        kinds_of=lambda _principal: kinds,
        rng=FakeRng(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(network.serve, ADDRESS, serve)
        async with _connected(network) as client:
            yield client
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _connected(
    network: MemoryNetwork, index: Principal = INDEX.principal
) -> AsyncIterator[PeerClient]:
    async with connect_peer(
        ADDRESS, ALICE, index=index, network=network, rng=FakeRng(), deadline_s=7
    ) as client:
        yield client


async def test_index_calls_go_over_the_link(autojump_clock) -> None:
    index = AppIndex()
    async with _peer(index) as client:
        await client.register_user(ALICE.principal, 100)
        await client.delete_user(ALICE.principal)
        await client.block_principal(ALICE.principal)
        await client.change_user_principal(ALICE.principal, BUCKET.principal)
        await client.delete_accessor(GENERAL.principal)
        assert (await client.call(m.DeleteAccessor(GENERAL.principal))).message == m.Ok()
    assert {principal for principal, _ in index.asked} == {ALICE.principal}
    assert [request for _, request in index.asked] == [
        m.ChangeUsers((m.UserChange("register", ALICE.principal, 100),)),
        m.ChangeUsers((m.UserChange("delete", ALICE.principal),)),
        m.BlockPrincipal(ALICE.principal),
        m.ChangePrincipal(ALICE.principal, BUCKET.principal),
        m.DeleteAccessor(GENERAL.principal),
        m.DeleteAccessor(GENERAL.principal),
    ]


async def test_refusals_are_typed(autojump_clock) -> None:
    async with _peer(AppIndex()) as client:
        with pytest.raises(UserExistsError, match="taken"):
            await client.register_user(GENERAL.principal, 5)
    async with _peer(AppIndex(), frozenset()) as client:
        with pytest.raises(NotAuthorizedError):
            await client.cluster_status()


async def test_silence_ends_at_the_deadline(autojump_clock) -> None:
    async with _peer(AppIndex()) as client:
        with pytest.raises(UnreachableError, match="within 7 s"):
            await client.release_grant(GrantId(bytes(16)))


async def test_nobody_there_is_unreachable(autojump_clock) -> None:
    with pytest.raises(UnreachableError, match=ADDRESS):
        async with _connected(MemoryNetwork()):
            pytest.fail("nobody listens")


async def test_somebody_else_there_is_refused(autojump_clock) -> None:
    network = MemoryNetwork()
    serve = partial(
        serve_link,
        signer=INDEX,
        verify=verify,
        services={},
        kinds_of=lambda _principal: frozenset(),
        rng=FakeRng(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(network.serve, ADDRESS, serve)
        with pytest.raises(UnauthenticatedError):
            async with _connected(network, BUCKET.principal):
                pytest.fail("not the one expected")
        nursery.cancel_scope.cancel()


async def test_a_link_that_breaks_is_unreachable(autojump_clock) -> None:
    network = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        serve = partial(
            serve_link,
            signer=INDEX,
            verify=verify,
            services={Kind.INDEX: AppIndex()},
            kinds_of=lambda _principal: frozenset({Kind.APP}),
            rng=FakeRng(),
        )
        await nursery.start(network.serve, ADDRESS, serve)
        async with _connected(network) as client:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True) as scope:
                scope.deadline = trio.current_time() + 5
                with pytest.raises(UnreachableError):
                    await client.release_grant(GrantId(bytes(16)))
