"""How long a client may take. Pure arithmetic over seconds; deadlines are set by the callers."""

from __future__ import annotations


class Patience:
    """How much longer to wait for a body: `grace` seconds, earned back by bytes that arrive.

    Only time spent waiting for the client counts, never our own slowness. A client that keeps up
    `rate` bytes per second is waited for without end; nothing beyond `grace` is saved up, so a
    fast start does not pay for a stall later.
    """

    def __init__(self, *, grace: float, rate: int) -> None:
        self._grace = grace
        self._rate = rate
        self.left = grace

    def spent(self, seconds: float, received: int) -> None:
        """Account for a wait of `seconds` that brought `received` bytes."""
        self.left = min(self._grace, self.left - seconds + received / self._rate)


def send_patience(size: int, *, timeout: float, rate: int) -> float:
    """Seconds until a client that has not taken `size` bytes is given up."""
    return timeout + size / rate
