"""Backpressure: how many bytes may be on their way to the disk at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType

import trio


class Admission:
    """Lets work in while the bytes inside it, and those staged but not durable, stay in a bound.

    First come, first served. Something larger than the bound goes in alone. `is_ready`, told how
    many are inside and how many bytes they and the next one have, says whether it is time:
    `look_again` when that changes.
    """

    def __init__(
        self, bytes_max: int, is_ready: Callable[[int, int], bool] = lambda _inside, _nbytes: True
    ) -> None:
        self._bytes_max, self._is_ready = bytes_max, is_ready
        self._used = 0
        self._inside, self._inside_bytes = 0, 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    @property
    def used(self) -> int:
        """Bytes inside it or staged and not yet durable."""
        return self._used

    def has_room(self, nbytes: int) -> bool:
        """Whether `enter` would not wait: who stages at once need not enter."""
        return not self._waiting and self._has_room(nbytes)

    async def enter(self, nbytes: int) -> None:
        """Wait for room and take it."""
        if self.has_room(nbytes):
            await trio.lowlevel.checkpoint_if_cancelled()
            self._let_one_in(nbytes)
            return
        turn = (nbytes, trio.Event())
        self._waiting.append(turn)
        try:
            await turn[1].wait()
        except BaseException:
            if turn in self._waiting:
                self._waiting.remove(turn)
                self.look_again()
            else:  # let in after it was cancelled and before it could run
                self.leave(nbytes)
            raise

    def leave(self, nbytes: int) -> None:
        """Return what `enter` took."""
        self._inside -= 1
        self._inside_bytes -= nbytes
        self.give_back(nbytes)

    def take(self, nbytes: int) -> None:
        """Count bytes that are in already: those staged and not yet durable."""
        self._used += nbytes

    def give_back(self, nbytes: int) -> None:
        """Return what was taken and let others in."""
        self._used -= nbytes
        self.look_again()

    def look_again(self) -> None:
        """Let in whoever may go in now."""
        while self._waiting and self._has_room(self._waiting[0][0]):
            nbytes, turn = self._waiting.popleft()
            self._let_one_in(nbytes)
            turn.set()

    def _let_one_in(self, nbytes: int) -> None:
        self._used += nbytes
        self._inside += 1
        self._inside_bytes += nbytes

    def _has_room(self, nbytes: int) -> bool:
        room = self._used == 0 or self._used + nbytes <= self._bytes_max
        return room and self._is_ready(self._inside, self._inside_bytes + nbytes)


class Admitted:
    """The block `async with store.admit(nbytes)`: inside it, staging finds room.

    What is staged inside is counted on its own until it is durable; the block's own share is
    given back when it ends.
    """

    __slots__ = ("_admission", "_nbytes")

    def __init__(self, admission: Admission, nbytes: int) -> None:
        self._admission, self._nbytes = admission, nbytes

    def __aenter__(self) -> Awaitable[None]:
        return self._admission.enter(self._nbytes)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._admission.leave(self._nbytes)
