"""How fast background work may go: so many bytes a second, and not at all while it is paused."""

from __future__ import annotations

import trio


class Pace:
    """A rate in bytes per second, shared by whoever spends from it; 0 is no bound."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._running = trio.Event()
        self._running.set()

    @property
    def paused(self) -> bool:
        """Whether `spend` waits for `resume`."""
        return not self._running.is_set()

    def pause(self) -> None:
        """Let whoever spends next wait."""
        if not self.paused:
            self._running = trio.Event()

    def resume(self) -> None:
        """Go on."""
        self._running.set()

    async def spend(self, nbytes: int) -> None:
        """Return when `nbytes` that were just read or written are paid for, and work goes on.

        What was not spent in the past is not saved up.
        """
        self._free_at = max(self._free_at, trio.current_time())
        if self.bytes_per_s:
            self._free_at += nbytes / self.bytes_per_s
        await trio.sleep_until(self._free_at)
        while self.paused:
            await self._running.wait()
