"""The index's calls over a peer link, for administration: CBOR over TCP, no HTTP, no sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio
from typing_extensions import override

from ostnode.client.calls import IndexCalls
from ostnode.client.errors import UnreachableError
from ostnode.env import Rng, SystemRng
from ostnode.identity.keys import KeyPair, verify
from ostnode.ids import Principal
from ostnode.net.link import Link, open_link
from ostnode.net.tls import TlsNetwork
from ostnode.net.transport import LinkClosedError, Network
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import Reply
from ostnode.wire.fields import Message, Request

M = TypeVar("M", bound=Message)

DEADLINE_S: Final = 30.0
_RNG: Final = SystemRng()


class PeerClient(IndexCalls):
    """One link to a node, in one caller's name. Made by `connect_peer`.

    Calls are not tried again: the link is gone when one fails for want of it. Every method
    raises the OstError that the node refused with, or UnreachableError.
    """

    def __init__(self, link: Link, address: str, deadline_s: float) -> None:
        self._link = link
        self._address = address
        self._deadline_s = deadline_s

    async def call(self, request: Request, body: Buffer = b"") -> Reply:
        """Any call of the node's role, by its request."""
        with trio.move_on_after(self._deadline_s):
            try:
                return await self._link.call(request, body)
            except LinkClosedError as error:
                raise UnreachableError(self._address, str(error)) from error
        raise UnreachableError(self._address, f"no answer within {self._deadline_s:g} s")

    @override
    async def ask_index(self, request: Request, result: type[M]) -> M:
        message = (await self.call(request)).message
        assert isinstance(message, result), "the registry says what a call's result is"
        return message


@asynccontextmanager
async def connect_peer(
    address: str,
    key: KeyPair,
    *,
    index: Principal,
    network: Network | None = None,
    rng: Rng = _RNG,
    deadline_s: float = DEADLINE_S,
) -> AsyncIterator[PeerClient]:
    """A link to the node at `address` (host:port), proven to be `index`, for the block.

    `deadline_s` bounds each call; the link is over TLS unless `network` is given. Raises
    UnreachableError, and UnauthenticatedError when somebody else answers there.
    """
    try:
        async with open_link(
            network or TlsNetwork(), address, signer=key, verify=verify, expect=index, rng=rng
        ) as link:
            yield PeerClient(link, address, deadline_s)
    except LinkClosedError as error:
        raise UnreachableError(address, str(error)) from error
