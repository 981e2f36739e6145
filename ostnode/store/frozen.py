"""A data directory on which everything can be done and nothing is changed.

What is written, cut off or removed stays in memory: recovery can be tried on a log, and the log is
afterwards what it was. Recovery writes little (the last batch, a footer), so this takes little.
"""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import Buffer, override

from ostnode.store.disk import Disk, File
from ostnode.store.keyspace import KeyIndex


class _Content:
    """What a file would hold: `kept` bytes of the real one, and what was written over it."""

    def __init__(self, size: int) -> None:
        self.size = self.kept = self.length = size
        self.patches: list[tuple[int, bytes]] = []

    @property
    def is_as_it_was(self) -> bool:
        """Whether nothing was written to it and nothing cut off."""
        return not self.patches and self.kept == self.length == self.size

    def write(self, offset: int, data: bytes) -> None:
        self.patches.append((offset, data))
        self.length = max(self.length, offset + len(data))

    def truncate(self, length: int) -> None:
        self.kept, self.length = min(self.kept, length), length
        self.patches = [(at, data[: max(length - at, 0)]) for at, data in self.patches]

    def apply(self, offset: int, view: memoryview) -> None:
        """Put what was written over a piece that was read."""
        end = offset + len(view)
        for at, data in self.patches:
            low, high = max(at, offset), min(at + len(data), end)
            if low < high:
                view[low - offset : high - offset] = data[low - at : high - at]


class _FrozenFile(File):
    def __init__(self, file: File, content: _Content) -> None:
        self._file, self._content = file, content

    @override
    def size(self) -> int:
        return self._content.length

    @override
    def read_into(self, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        content = self._content
        length = max(min(content.length - offset, len(buffer)), 0)
        real = max(min(content.kept - offset, length), 0)
        real = self._file.read_into(offset, buffer[:real])
        buffer[real:length] = bytes(length - real)
        content.apply(offset, buffer[:length])
        return length

    @override
    def next_data(self, offset: int) -> int:
        return self._file.next_data(offset) if self._content.is_as_it_was else offset

    @override
    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        self._content.write(offset, b"".join(buffers))

    @override
    def allocate(self, length: int) -> None:
        pass

    @override
    def truncate(self, length: int) -> None:
        self._content.truncate(length)

    @override
    def punch(self, offset: int, length: int) -> bool:
        return False

    @override
    def allocated(self) -> int:
        return self._file.allocated()

    @override
    def drop_cache(self, offset: int, length: int) -> None:
        self._file.drop_cache(offset, length)

    @override
    def sync(self) -> None:
        pass

    @override
    def close(self) -> None:
        self._file.close()


class FrozenDisk(Disk):
    """The segments of `disk` as they would be. Nothing may be created, and it takes no lock."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._contents: dict[str, _Content] = {}
        self._removed: set[str] = set()

    @override
    def lock(self) -> None:
        pass

    @override
    def unlock(self) -> None:
        pass

    @override
    def names(self) -> list[str]:
        return [name for name in self._disk.names() if name not in self._removed]

    @override
    def open(self, name: str, *, create: bool = False, write: bool = False) -> File:
        if create:
            raise PermissionError(f"{name} is not to be made")
        if name in self._removed:
            raise FileNotFoundError(name)
        file = self._disk.open(name)
        return _FrozenFile(file, self._contents.setdefault(name, _Content(file.size())))

    @override
    def remove(self, name: str) -> None:
        self._removed.add(name)

    @override
    def sync_names(self) -> None:
        pass

    @override
    def space(self) -> tuple[int, int]:
        return self._disk.space()

    @override
    def reserve(self, length: int) -> None:
        pass

    @override
    def reserved(self) -> int:
        return self._disk.reserved()

    @override
    def key_index(self) -> KeyIndex:
        raise PermissionError("its key index is not to be opened")
