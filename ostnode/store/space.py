"""Room on the disk: segment files made before they are needed, and an emergency reserve.

What is staged always has its place: the file of the segment it goes to is there, with every block
allocated. So a full disk is met while a file is made, when nothing depends on it yet, and not in
the middle of a batch. What cannot be allocated ahead, the growth of the key index above all, may
still meet it: then a part of the reserve is given up and the write made again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from ostnode.store.disk import Disk, File
from ostnode.store.errors import NoSpaceError
from ostnode.store.segment import segment_name
from ostnode.store.staging import Want

T = TypeVar("T")

_RESERVE_BYTES_MAX: Final = 16 << 20
_RESERVE_BYTES_MIN: Final = 32 << 10
_RESERVE_STEPS: Final = 4
"""The reserve goes in parts: another program that eats what is freed gets no more than one."""
_SHRINKS: Final = (1, 4, 16)
"""A disk that has no room for a whole segment may have it for a part of one."""
_SEGMENT_BYTES_MIN: Final = 16 << 10


def reserve_bytes(segment_bytes: int) -> int:
    """How much is kept aside: 60,000 deletions with segments of 64 MiB and more."""
    return min(_RESERVE_BYTES_MAX, max(_RESERVE_BYTES_MIN, segment_bytes // 4))


class Space:
    """The files made ahead and the reserve. Blocking; one thread at a time.

    `whole` and `free` (bytes, when last looked at) may be read by others.
    """

    def __init__(self, disk: Disk, segment_bytes: int) -> None:
        self._disk, self._segment_bytes = disk, segment_bytes
        self._reserve_bytes = reserve_bytes(segment_bytes)
        self._step = self._reserve_bytes // _RESERVE_STEPS
        self._kept = disk.reserved()
        self._made: dict[int, int] = {}
        self.free = 0

    @property
    def whole(self) -> bool:
        """Whether all of the reserve is there: if not, the disk is full."""
        return self._kept >= self._reserve_bytes

    def provide(self, want: Want | None) -> int:
        """Make the reserve whole, then a segment's file; returns its length, 0 without room.

        Beside the file as much as the reserve is left free, for the key index to grow into. A
        file that deletions wait for is made out of the reserve if need be, except its last part:
        what deletions change in the key index needs room, too.
        """
        self._refill()
        if want is None:
            return 0
        length = self._made.get(want.number, 0)
        for part in _SHRINKS:
            target = self._segment_bytes // part
            if target <= length or target < _SEGMENT_BYTES_MIN:
                break
            if target - length <= self.free - self._reserve_bytes and self._make(want, target):
                return target
        while want.urgent and not length and self._kept > self._step and self.give_up():
            if self._make(want, self._step):
                return self._step
        return length

    def open(self, number: int) -> tuple[File, int]:
        """The file made for a segment, open, and its length."""
        return self._disk.open(segment_name(number), write=True), self._made[number]

    def taken(self, number: int) -> None:
        """The segment has begun: its file is the log's."""
        del self._made[number]

    def having_room(self, action: Callable[[], T]) -> T:
        """Do what may be done again, giving the reserve up bit by bit while there is no space."""
        while True:
            try:
                return action()
            except NoSpaceError:
                if not self.give_up():
                    raise

    def give_up(self) -> bool:
        """Free a part of the reserve; False when nothing is left of it."""
        if not self._kept:
            return False
        self._kept = max(0, self._kept - self._step)
        self._disk.reserve(self._kept)
        return True

    def remove_unused(self) -> None:
        """Leave none of the files behind that were not needed."""
        for number in self._made:
            self._disk.remove(segment_name(number))

    def _refill(self) -> None:
        if not self.whole:
            try:
                self._disk.reserve(self._reserve_bytes)
                self._kept = self._reserve_bytes
            except NoSpaceError:
                pass
        self.free = self._disk.space()[1]

    def _make(self, want: Want, target: int) -> bool:
        """Give a segment's file its length, with its name durable; False when it has no room."""
        name = segment_name(want.number)
        length = self._made.get(want.number, 0)
        try:
            file = self._disk.open(name, create=want.number not in self._made, write=True)
        except NoSpaceError:
            return False
        self._made[want.number] = length
        try:
            file.allocate(target)
        except NoSpaceError:
            file.truncate(length)
            return False
        finally:
            file.close()
        self._made[want.number] = target
        if not length:
            self._disk.sync_names()
        return True
