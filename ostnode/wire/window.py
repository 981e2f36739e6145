"""The window: how many requests, and bytes of their bodies, may lack an answer at once."""

from __future__ import annotations


class Window:
    """Counts requests in flight against the accepter's limits; both sides keep one."""

    def __init__(self, requests_max: int, bytes_max: int) -> None:
        self.requests_max = requests_max
        self.bytes_max = bytes_max
        self._bytes = 0
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def room_for(self, body_bytes: int) -> bool:
        """Whether one more request with such a body fits."""
        return len(self._open) < self.requests_max and self._bytes + body_bytes <= self.bytes_max

    def begin(self, request_id: int, body_bytes: int) -> None:
        """A request went out or came in."""
        self._open[request_id] = body_bytes
        self._bytes += body_bytes

    def end(self, request_id: int) -> bool:
        """Its answer did; False if there is no such request."""
        body_bytes = self._open.pop(request_id, None)
        if body_bytes is None:
            return False
        self._bytes -= body_bytes
        return True
