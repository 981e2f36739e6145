"""How much of other people's bodies a node has in hand, over all its links."""

from __future__ import annotations

from typing import Final

import trio
from typing_extensions import override

from ostnode.wire.buffers import BodyBuffers

BYTES_MAX: Final = 64 << 20
"""Of one role: enough to keep every disk busy. Links beyond it are read again as room comes."""

KEPT_MAX: Final = 16
"""Buffers kept for bodies to come, of all links together: each on its own would keep eight."""


class Intake:
    """Room for bodies that have come and whose requests have no outcome yet.

    A window bounds what one link brings; hundreds of links with windows of 8 MiB would be
    gigabytes. Each link may receive one body beyond this room, so whoever dribbles keeps nobody
    else from being served: only handlers hold room, and they end.
    """

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._turn = trio.StrictFIFOLock()
        self._given = trio.Event()
        self.held = 0
        self.buffers: BodyBuffers = _Buffers(self)

    def take_now(self, size: int) -> bool:
        """Hold `size` bytes if they fit and nobody waits; any size fits when nothing is held."""
        if self._turn.locked() or not self._fits(size):
            return False
        self.held += size
        return True

    async def take(self, size: int) -> None:
        """Hold `size` bytes, in turn, once they fit."""
        async with self._turn:
            while not self._fits(size):
                await self._given.wait()
            self.held += size

    def give(self, size: int) -> None:
        """Let go of `size` bytes."""
        self.held -= size
        self._given.set()
        self._given = trio.Event()

    def _fits(self, size: int) -> bool:
        return not self.held or self.held + size <= self._bytes_max


class _Buffers(BodyBuffers):
    """A link that is idle among busy ones takes nothing away from those."""

    __slots__ = ("_intake",)

    def __init__(self, intake: Intake) -> None:
        super().__init__(KEPT_MAX)
        self._intake = intake

    @override
    def forget(self) -> None:
        if not self._intake.held:
            super().forget()
