"""The fake cluster behind real sockets: one hypercorn on loopback is index and bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from typing_extensions import override

from ostnode.client import Client, ClientOptions, connect
from ostnode.env import SystemClock
from ostnode.wire import messages as m
from tests.support.client_fakes import ALICE, INDEX, FakeCluster

Message = dict[str, Any]


class LoopbackCluster(FakeCluster):
    """An ASGI app. `clients` are the connections that were opened to it."""

    def __init__(self, chunk_bytes: int = 1 << 20) -> None:
        super().__init__(chunk_bytes)
        self.piece_bytes = 1 << 16
        self.clients: set[tuple[str, int]] = set()

    @override
    def now(self) -> float:
        return SystemClock().now()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.clients.add(scope["client"])
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = httpx2.Request(
            scope["method"],
            f"{self.address.http}{scope['path']}",
            headers=scope["headers"],
            content=bytes(body),
        )
        response = await self.handle_async_request(request)
        headers = [(name.lower(), value) for name, value in response.headers.raw]
        await send({
            "type": "http.response.start",
            "status": response.status_code,
            "headers": headers,
        })
        async for piece in response.stream:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serving(cluster: LoopbackCluster) -> AsyncIterator[str]:
    """Serve a cluster for the block; gives its base URL."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.loglevel = "CRITICAL"
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(serve, cluster, config)
        cluster.address = m.BucketAddress(INDEX.principal, url)
        yield url
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def loopback_client(
    cluster: LoopbackCluster, options: ClientOptions | None = None
) -> AsyncIterator[Client]:
    """Alice's client of a cluster that is served for the block."""
    async with (
        serving(cluster) as url,
        connect(url, ALICE, index=INDEX.principal, options=options or ClientOptions()) as client,
    ):
        yield client
