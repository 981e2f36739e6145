"""Who is reading which segment: bytes are taken away only when their readers are done."""

from __future__ import annotations

import trio


class Pin:
    """Readers of one segment that began in the same span between two `Pins.drained`."""

    __slots__ = ("closed", "done", "readers")

    def __init__(self) -> None:
        self.readers = 0
        self.closed = False
        self.done = trio.Event()


class Pins:
    """Counts readers by segment number."""

    def __init__(self) -> None:
        self._pins: dict[int, Pin] = {}
        self._closed: dict[int, list[Pin]] = {}

    def take(self, segment: int) -> Pin:
        """Keep the segment's bytes in place until the pin is released."""
        pin = self._pins.get(segment)
        if pin is None:
            pin = self._pins[segment] = Pin()
        pin.readers += 1
        return pin

    def release(self, segment: int, pin: Pin) -> None:
        """Give back what `take` gave."""
        pin.readers -= 1
        if pin.readers:
            return
        if pin.closed:
            pin.done.set()
        else:
            del self._pins[segment]

    async def drained(self, segment: int) -> None:
        """Wait for everybody who reads the segment now; who comes later is not waited for.

        Cancelled and called again, it waits for the same ones, too.
        """
        closed = self._closed.setdefault(segment, [])
        pin = self._pins.pop(segment, None)
        if pin is not None:
            pin.closed = True
            closed.append(pin)
        await trio.lowlevel.checkpoint()
        for pin in list(closed):
            await pin.done.wait()
        closed[:] = [pin for pin in closed if not pin.done.is_set()]
        if not closed and self._closed.get(segment) is closed:
            del self._closed[segment]
