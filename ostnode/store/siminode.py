"""A file in memory that knows which of its changes are durable."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

SECTOR_BYTES: Final = 512
"""A disk keeps a sector of a write or loses it, whole."""


@dataclass
class Write:
    """Bytes at an offset."""

    offset: int
    data: bytes

    def sectors(self) -> list[Write]:
        """The same bytes, cut where sectors end."""
        cuts = [self.offset]
        while cuts[-1] < self.offset + len(self.data):
            cuts.append((cuts[-1] // SECTOR_BYTES + 1) * SECTOR_BYTES)
        starts = [cut - self.offset for cut in cuts]
        return [
            Write(cut, self.data[start:end])
            for cut, start, end in zip(cuts, starts, starts[1:], strict=False)
        ]

    def apply(self, content: bytearray) -> None:
        """Make the change."""
        content.extend(bytes(max(0, self.offset + len(self.data) - len(content))))
        content[self.offset : self.offset + len(self.data)] = self.data


@dataclass
class Truncate:
    """A new length; what is added is zero."""

    length: int

    def apply(self, content: bytearray) -> None:
        """Make the change."""
        del content[self.length :]
        content.extend(bytes(self.length - len(content)))


@dataclass
class Inode:
    """A file's contents, under whatever names."""

    seen: bytearray = field(default_factory=bytearray)
    """What reads show."""
    durable: bytearray = field(default_factory=bytearray)
    """What surely survives."""
    pending: list[Write | Truncate] = field(default_factory=list)
    punched: int = 0

    def do(self, change: Write | Truncate) -> None:
        """Make a change, to be kept when the next sync ends."""
        change.apply(self.seen)
        self.pending.append(change)

    def twin(self) -> Inode:
        """One of its own with the same contents; what is pending is never changed."""
        return replace(
            self,
            seen=bytearray(self.seen),
            durable=bytearray(self.durable),
            pending=list(self.pending),
        )

    def keep_some(self, rng: Random) -> None:
        """A random part of what is pending reaches the disk, the rest never does."""
        mood = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for change in self.pending:
            parts = change.sectors() if isinstance(change, Write) else [change]
            for part in parts:
                if rng.random() < mood:
                    part.apply(self.durable)
        self.pending.clear()
