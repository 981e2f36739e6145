"""One connection of the simulated network: bytes that take their time, and may never arrive."""

from __future__ import annotations

import contextlib
import operator
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from random import Random
from typing import Final
from zlib import crc32

import trio
from typing_extensions import override

PIPE_BYTES_MAX: Final = 64 * 1024
"""Of one direction, on its way or unread; a writer waits beyond it, as on a socket."""
_SPLIT_SHARE: Final = 0.05
"""Of writes that arrive in two parts."""


class Mark(Enum):
    """What is sent beside bytes."""

    END = "end"
    RESET = "reset"


class Pipe:
    """One direction. What is `held` by a partition stays in order behind it."""

    def __init__(
        self,
        name: str,
        rng: Random,
        delay_s: Callable[[], float | None],
        trace: Callable[[str], None],
    ) -> None:
        self.name = name
        self.back: Pipe
        """The other direction."""
        self.forgotten = False
        """The receiving host knows nothing of this connection: what comes is answered by a
        reset."""
        self.cut_next = False
        self._rng, self._delay_s, self._trace = rng, delay_s, trace
        self._flight: deque[tuple[float | None, bytes | Mark]] = deque()
        self._arrived = bytearray()
        self._pending = 0
        self._over: Mark | None = None
        self._dropped = False
        """The sending host is gone, or ends: nothing more is taken from it."""
        self._is_reset = False
        self._changed = trio.lowlevel.ParkingLot()

    # --- the sending end ------------------------------------------------------------------------

    async def put(self, data: memoryview) -> None:
        """Send all of `data`, waiting for room as often as it takes."""
        while True:
            self.check_writable()
            room = PIPE_BYTES_MAX - self._pending
            if room > 0 and data:
                self._send(bytes(data[:room]))
                data = data[room:]
            if not data:
                return
            await self._park(self.back)

    async def wait_room(self) -> None:
        """Wait until a byte could be sent."""
        self.check_writable()
        while self._pending >= PIPE_BYTES_MAX:
            await self._park(self.back)
            self.check_writable()

    def check_writable(self) -> None:
        """Raise what a writer gets once its side has ended or a reset came back."""
        if self._dropped:
            raise trio.ClosedResourceError("this side has ended the stream")
        if self.back.is_broken():
            raise trio.BrokenResourceError("the other side is gone")

    def mark(self, mark: Mark) -> None:
        """End this direction behind what is on its way; a reset may still follow an end."""
        if not self._dropped or (mark is Mark.RESET and not self._is_reset):
            self._dropped = True
            self._is_reset = mark is Mark.RESET
            self._launch(mark)

    def silence(self) -> None:
        """Send nothing any more, not even an end."""
        self._dropped = True
        self._changed.unpark_all()

    def _send(self, data: bytes) -> None:
        if self.forgotten:
            self.back.mark(Mark.RESET)
            return
        if self.cut_next:
            self._launch(data[: self._rng.randint(0, len(data))])
            self.reset()
            return
        if len(data) > 1 and self._rng.random() < _SPLIT_SHARE:
            at = self._rng.randint(1, len(data) - 1)
            self._launch(data[:at])
            data = data[at:]
        self._launch(data)

    def reset(self) -> None:
        """Break both directions, behind what is on its way."""
        self.mark(Mark.RESET)
        self.back.mark(Mark.RESET)

    def _launch(self, piece: bytes | Mark) -> None:
        self._flight.append((self._due(), piece))
        if isinstance(piece, bytes):
            self._pending += len(piece)
        else:
            self.back.wake()
        self._changed.unpark_all()

    def _due(self) -> float | None:
        """When what is sent now arrives, unless something before it is still under way then; None
        while that is unknown.
        """
        delay_s = None if self._flight and self._flight[-1][0] is None else self._delay_s()
        return None if delay_s is None else trio.current_time() + delay_s

    def release(self) -> None:
        """Send what was held on its way, as far as nothing holds it still."""
        flight, self._flight = self._flight, deque()
        for due, piece in flight:
            self._flight.append((self._due() if due is None else due, piece))
        self.wake()
        self.back.wake()

    def hold(self) -> None:
        """What is on its way is lost, and sent again once nothing holds it."""
        self._flight = deque((None, piece) for _, piece in self._flight)
        self._changed.unpark_all()

    # --- the receiving end ----------------------------------------------------------------------

    def is_broken(self) -> bool:
        """Whether a reset has arrived."""
        self._land()
        return self._over is Mark.RESET

    @property
    def next_due(self) -> float | None:
        """When the next arrives; None while nothing will."""
        return self._flight[0][0] if self._flight and self._over is not Mark.RESET else None

    def is_ready(self) -> bool:
        """Whether `take` would not wait."""
        self._land()
        return bool(self._arrived) or self._over is not None or self.forgotten

    async def take(self, bytes_max: int) -> bytes:
        """At least one byte, b"" at the end."""
        while True:
            if self.forgotten:
                raise trio.ClosedResourceError("this stream is closed")
            self._land()
            if self._arrived:
                taken = bytes(self._arrived[:bytes_max])
                del self._arrived[:bytes_max]
                self._pending -= len(taken)
                self._changed.unpark_all()
                return taken
            if self._over is Mark.RESET:
                raise trio.BrokenResourceError("the other side is gone")
            if self._over is Mark.END:
                return b""
            await self._park(self)

    async def _park(self, pipe: Pipe) -> None:
        """Wait for news of this direction, or until something arrives in that one."""
        due = pipe.next_due
        if due is None:
            await self._changed.park()
        else:
            with trio.move_on_at(due):
                await self._changed.park()

    def _land(self) -> None:
        """Receive what is due."""
        now = trio.current_time()
        while self._flight and self._over is not Mark.RESET:
            due, piece = self._flight[0]
            if due is None or due > now:
                return
            self._flight.popleft()
            if isinstance(piece, Mark):
                self._trace(f"{self.name} {piece.value}")
                self._over = piece
                self.back.wake()
            else:
                self._trace(f"{self.name} {len(piece)} {crc32(piece):08x}")
                self._arrived += piece

    def wake(self) -> None:
        """Let whoever waits here look again."""
        self._changed.unpark_all()

    def forget(self) -> None:
        """The receiving end is gone: what is unread, and what comes now, is answered by a reset."""
        self.forgotten = True
        self.wake()
        if self._pending:
            self.back.mark(Mark.RESET)


class SimStream(trio.abc.HalfCloseableStream):
    """One end of a connection."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._closed = False
        self._is_sending = False
        self._is_receiving = False

    @override
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._sending():
            await trio.lowlevel.checkpoint()
            await self._outgoing.put(memoryview(data))

    @override
    async def wait_send_all_might_not_block(self) -> None:
        with self._sending():
            await trio.lowlevel.checkpoint()
            await self._outgoing.wait_room()

    @override
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        bytes_max = PIPE_BYTES_MAX if max_bytes is None else operator.index(max_bytes)
        if bytes_max < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._is_receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._is_receiving = True
        try:
            # Waiting is a checkpoint already, and most reads wait: a third of all steps is saved.
            if self._closed or self._incoming.is_ready():
                await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
            return await self._incoming.take(bytes_max)
        finally:
            self._is_receiving = False

    @override
    async def send_eof(self) -> None:
        with self._sending():
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
            self._outgoing.mark(Mark.END)
            await trio.lowlevel.checkpoint()

    @override
    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._outgoing.mark(Mark.END)
            self._incoming.forget()
        await trio.lowlevel.checkpoint()

    def vanish(self) -> None:
        """The machine is gone: nothing is sent any more, nothing is answered."""
        self._closed = True
        self._outgoing.silence()

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending")
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False
