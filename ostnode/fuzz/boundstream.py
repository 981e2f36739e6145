"""A stream in memory that proofs are bound to, as they are to TLS, without its cost."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from typing_extensions import override

from ostnode.ids import Principal
from ostnode.net.memory import MemoryStream
from ostnode.net.transport import Piece, SecureStream


class BoundStream(SecureStream):
    """One end of a connection in memory; both ends are given the same `binding`."""

    def __init__(self, below: MemoryStream, binding: bytes) -> None:
        self._below, self._binding = below, binding

    @override
    async def secure(self, expect: Principal | None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._binding

    @override
    async def receive_into(self, buffer: memoryview) -> int:
        data = await self._below.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    @override
    async def send_pieces(self, pieces: Sequence[Piece]) -> None:
        await self._below.send_all(b"".join(pieces))

    @override
    async def send_all(self, data: Piece) -> None:
        await self._below.send_all(data)

    @override
    async def wait_send_all_might_not_block(self) -> None:
        await self._below.wait_send_all_might_not_block()

    @override
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._below.receive_some(max_bytes)

    @override
    async def send_eof(self) -> None:
        await self._below.send_eof()

    @override
    async def aclose(self) -> None:
        await self._below.aclose()
