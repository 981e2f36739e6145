"""A stream in memory that proofs are bound to, as they are to TLS, without its cost."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from typing_extensions import override

from ostnode.ids import Principal
from ostnode.net.memory import MemoryStream
from ostnode.net.transport import Piece, SecureStream, StreamAbove


class BoundStream(StreamAbove, SecureStream):
    """One end of a connection in memory; both ends are given the same `binding`."""

    def __init__(self, below: MemoryStream, binding: bytes) -> None:
        super().__init__(below)
        self._end, self._binding = below.send_eof, binding

    @override
    async def secure(self, expect: Principal | None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._binding

    @override
    async def receive_into(self, buffer: memoryview) -> int:
        data = await self.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    @override
    async def send_pieces(self, pieces: Sequence[Piece]) -> None:
        await self.send_all(b"".join(pieces))

    @override
    async def send_eof(self) -> None:
        await self._end()
