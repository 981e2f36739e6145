"""How much a node holds of answers that nobody has read yet, over all its links."""

from __future__ import annotations

from typing import Final

import trio

from ostnode.wire.fields import READ_BYTES_MAX

BYTES_MAX: Final = 64 << 20
"""Of one role: far more than peers that read leave waiting."""

BODIES_AT_ONCE: Final = 4
"""Answers with a body that one link makes at a time: a peer that asks for a window of them and
does not read would have us hold a MiB for each."""


class Outlet:
    """What the links of a role hold together: `held` bytes, written to nobody yet.

    A link bounds its own; hundreds of links with some MiB each would be gigabytes. While
    `bytes_max` are held, a link makes one answer with a body and no other before that one is
    written. No link waits for another: whoever does not read keeps nobody from being answered.
    """

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self.held = 0

    @property
    def full(self) -> bool:
        """Whether links are to hold as little as they can."""
        return self.held >= self._bytes_max


class Unsent:
    """What one link holds: `queued` bytes of frames, and answers with a body that are being made.

    More than `queue_bytes_max` are `full`. `close` once the link is over.
    """

    def __init__(self, outlet: Outlet, queue_bytes_max: int) -> None:
        self._outlet = outlet
        self._queue_bytes_max = queue_bytes_max
        self.queued = 0
        self._bodies = 0
        self._turn = trio.StrictFIFOLock()
        self._less = trio.lowlevel.ParkingLot()

    @property
    def full(self) -> bool:
        """Whether answers are to wait before they are queued."""
        return self.queued > (0 if self._outlet.full else self._queue_bytes_max)

    def queue(self, size: int) -> None:
        """Note that `size` bytes wait to be written."""
        self.queued += size
        self._outlet.held += size

    def written(self, size: int) -> None:
        """Note that as many have been."""
        self.queued -= size
        self._outlet.held -= size
        self._less.unpark_all()

    async def room(self) -> None:
        """Wait while it is `full`."""
        while self.full:
            await self._less.park()

    async def flushed(self) -> None:
        """Wait until nothing is queued."""
        while self.queued:
            await self._less.park()

    async def take_place(self) -> None:
        """Begin, in turn, to make an answer with a body; goes before it with `give_place`."""
        if self._turn.locked() or not self._has_place():
            async with self._turn:
                while not self._has_place():
                    await self._less.park()
                self._place(1)
        else:
            self._place(1)

    def give_place(self) -> None:
        """The answer is queued, or there is none."""
        self._place(-1)
        self._less.unpark_all()

    def close(self) -> None:
        """Hold nothing any more."""
        self._outlet.held -= self.queued
        self._place(-self._bodies)
        self.queued = 0

    def _has_place(self) -> bool:
        if self._outlet.full:
            return not (self._bodies or self.queued)
        return self._bodies < BODIES_AT_ONCE

    def _place(self, bodies: int) -> None:
        self._bodies += bodies
        self._outlet.held += bodies * READ_BYTES_MAX
