"""A role's listeners: HTTP and the peer protocol, from bound to drained."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio
from typing_extensions import override

from ostnode.config import HttpLimits
from ostnode.errors import OstError, ShuttingDownError
from ostnode.identity.keys import verify
from ostnode.ids import Principal
from ostnode.net.intake import Intake
from ostnode.net.outlet import Outlet
from ostnode.net.serve import serve_link
from ostnode.net.transport import split_address
from ostnode.node.errors import StartError
from ostnode.node.role import NEWCOMERS, Role, RoleReadiness
from ostnode.node.seams import Seams
from ostnode.web.admin_app import make_admin_app
from ostnode.web.serve import serve_http
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import Caller, Kind, Reply, Service
from ostnode.wire.checking import Compare
from ostnode.wire.fields import Request
from ostnode.wire.membership import GetRoster
from ostnode.wire.messages import Feed

LAST_WORDS_S: Final = 1.0
"""Between the refusals to somebody who was revoked and the end of its link."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a role listens, as `host:port`."""

    http: str
    peer: str


async def serve_role(
    role: Role,
    limits: HttpLimits,
    seams: Seams,
    stopping: trio.Event,
    *,
    task_status: trio.TaskStatus[Bound] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a role; once `stopping` is set, finish what is in flight and return.

    Raises StartError when an address cannot be bound.
    """
    async with trio.open_nursery() as nursery:
        peer = await nursery.start(serve_peers, role, seams, stopping)
        http = await _bind(
            nursery,
            f"{role.name}.http",
            partial(serve_http, role.make_app(), role.http, limits, stop=stopping),
        )
        task_status.started(Bound(http, peer))


async def serve_peers(
    role: Role,
    seams: Seams,
    stopping: trio.Event,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a role's peer links; once `stopping` is set, return when the last has ended."""
    links = _Links(role, seams, stopping)
    serve = partial(role.network.serve, role.config.peer, links.serve)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(links.expel)
        task_status.started(await _bind(nursery, f"{role.name}.peer", serve))
        await stopping.wait()
        await links.drained()
        nursery.cancel_scope.cancel()


async def serve_admin(
    name: str,
    address: str,
    readiness: RoleReadiness,
    limits: HttpLimits,
    nursery: trio.Nursery,
) -> str:
    """Serve /healthz, /readyz and /metrics in `nursery` until it is cancelled.

    Returns the bound address.
    """
    app = make_admin_app(readiness, limits, readiness.metrics)
    return await _bind(nursery, f"{name}.admin", partial(serve_http, app, address, limits))


def bind_early(key: str, address: str) -> tuple[str, str]:
    """Bind now what is served later: returns the address to serve, `fd://…`, and the one bound.

    A bucket tells the index where clients reach it, so a port that the system chooses must be
    known before the bucket opens. Raises StartError.
    """
    host, port = split_address(address)
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _not_bound(key, error) from error
    bound = f"{address.rpartition(':')[0]}:{sock.getsockname()[1]}"
    return f"fd://{sock.detach()}", bound


class _Links:
    """The peer connections of one role, up to its `links_max`.

    Keys are free, so anybody could hold every place. At the limit the guest that has been idle
    longest makes room; whoever the config names (a bucket, an app) is no guest once it has asked.
    """

    def __init__(self, role: Role, seams: Seams, stopping: trio.Event) -> None:
        service = Interruptible(role.service, stopping)
        self._role_kinds_of = role.kinds_of
        self._stopping = stopping
        self._open = 0
        self._links_max = role.links_max
        self._guests: dict[trio.CancelScope, None] = {}  # in the order of their last requests
        self._named: dict[trio.CancelScope, Principal] = {}
        self._kinds_news = role.kinds_news
        self._closed = trio.Event()
        self._serve = partial(
            serve_link,
            signer=role.key,
            verify=verify,
            services={role.kind: service},
            rng=seams.rng,
            limits=seams.link_limits,
            stopping=stopping,
            intake=Intake(),
            outlet=Outlet(),
            roster_epoch=role.roster_epoch,
        )

    async def serve(self, stream: trio.abc.Stream) -> None:
        """A connection's handler."""
        if self._stopping.is_set() or self._open >= self._links_max + NEWCOMERS:
            return
        if self._open >= self._links_max and self._guests:
            guest = next(iter(self._guests))
            del self._guests[guest]
            guest.cancel()
        self._open += 1
        scope = trio.CancelScope()
        try:
            with scope:
                self._guests[scope] = None
                await self._serve(stream, kinds_of=partial(self._kinds_of, scope))
        finally:
            self._guests.pop(scope, None)
            self._named.pop(scope, None)
            self._open -= 1
            self._closed.set()

    def _kinds_of(self, scope: trio.CancelScope, principal: Principal) -> frozenset[Kind]:
        """Asked with every request: what the peer of that connection is."""
        kinds = self._role_kinds_of(principal)
        self._guests.pop(scope, None)
        if kinds:
            self._named[scope] = principal
        elif not scope.cancel_called:
            self._guests[scope] = None
        return kinds

    async def expel(self) -> None:
        """Until cancelled, end the links of whoever was somebody and is nobody any more."""
        while True:
            news = self._kinds_news()
            expelled = [
                scope
                for scope, principal in self._named.items()
                if not self._role_kinds_of(principal)
            ]
            if expelled:
                await trio.sleep(LAST_WORDS_S)
            for scope in expelled:
                scope.cancel()
            await news.wait()

    async def drained(self) -> None:
        """Return when no connection is left."""
        while self._open:
            self._closed = trio.Event()
            await self._closed.wait()


class Interruptible(Service):
    """A service whose long polls end when the node stops, instead of holding it up."""

    def __init__(self, service: Service, stopping: trio.Event) -> None:
        self._service = service
        self._stopping = stopping

    @override
    async def handle(self, caller: Caller, request: Request, body: Buffer = b"") -> Reply:
        if not (isinstance(request, Feed | GetRoster | Compare) and request.wait_ms):
            return await self._service.handle(caller, request, body)
        outcome: Reply | OstError = ShuttingDownError("this node is stopping; ask again")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_stopping, nursery.cancel_scope)
            try:
                outcome = await self._service.handle(caller, request, body)
            except OstError as refusal:
                outcome = refusal  # raised below: a nursery would wrap it in a group
            nursery.cancel_scope.cancel()
        if isinstance(outcome, OstError):
            raise outcome
        return outcome

    async def _cancel_when_stopping(self, scope: trio.CancelScope) -> None:
        await self._stopping.wait()
        scope.cancel()


async def _bind(nursery: trio.Nursery, key: str, serve: Callable[..., Awaitable[object]]) -> str:
    try:
        bound: str = await nursery.start(serve)
    except OSError as error:
        raise _not_bound(key, error) from error
    return bound


def _not_bound(key: str, error: OSError) -> StartError:
    hint = f"is another node running? end it, or change {key}"
    return StartError(f"{key} cannot listen: {error.strerror or error}", hint)
