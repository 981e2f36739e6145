"""What happened, as a running hash: two runs of one seed have the same."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

_TAIL_LINES: Final = 2000


class Trace:
    """Lines with their virtual times. The last ones are kept, for whoever looks at a failure.

    Nothing may stand in a line that differs between two processes: no object's id or address.
    """

    def __init__(self, sink: Callable[[str], None] | None = None) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._sink = sink
        self._start = trio.current_time()
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.lines = 0

    def __call__(self, line: str) -> None:
        """Add a line."""
        whole = f"{trio.current_time() - self._start:.6f} {line}"
        self._hash.update(whole.encode() + b"\n")
        self.lines += 1
        self.tail.append(whole)
        if self._sink is not None:
            self._sink(whole)

    def digest(self) -> str:
        """The hash of all lines so far."""
        return self._hash.hexdigest()
