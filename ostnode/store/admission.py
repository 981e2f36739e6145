"""Backpressure: how many bytes may be on their way to the disk at once."""

from __future__ import annotations

from collections import deque
from types import TracebackType

import trio


class Admission:
    """Lets work in while the bytes inside it, and those staged but not durable, stay in a bound.

    First come, first served. Something larger than the bound goes in alone.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._used = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    async def enter(self, nbytes: int) -> None:
        """Wait for room and take it."""
        if not self._waiting and self._has_room(nbytes):
            await trio.lowlevel.checkpoint_if_cancelled()
            self._used += nbytes
            return
        turn = (nbytes, trio.Event())
        self._waiting.append(turn)
        try:
            await turn[1].wait()
        except BaseException:
            self._waiting.remove(turn)
            self._let_in()
            raise

    def take(self, nbytes: int) -> None:
        """Count bytes that are in already: those staged and not yet durable."""
        self._used += nbytes

    def give_back(self, nbytes: int) -> None:
        """Return what was taken and let others in."""
        self._used -= nbytes
        self._let_in()

    def _has_room(self, nbytes: int) -> bool:
        return self._used == 0 or self._used + nbytes <= self._bytes_max

    def _let_in(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][0]):
            nbytes, turn = self._waiting.popleft()
            self._used += nbytes
            turn.set()


class Admitted:
    """The block `async with store.admit(nbytes)`: inside it, staging finds room.

    What is staged inside is counted on its own until it is durable; the block's own share is
    given back when it ends.
    """

    def __init__(self, admission: Admission, nbytes: int) -> None:
        self._admission, self._nbytes = admission, nbytes

    async def __aenter__(self) -> None:
        await self._admission.enter(self._nbytes)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission.give_back(self._nbytes)
