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
        """Wait for everybody who reads the segment now; who comes later is not waited for."""
        pin = self._pins.pop(segment, None)
        if pin is None:
            await trio.lowlevel.checkpoint()
            return
        pin.closed = True
        await pin.done.wait()
