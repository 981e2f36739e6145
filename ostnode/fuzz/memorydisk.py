"""A bucket's data directory in memory: the fuzzer needs no durability and no real disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from typing_extensions import Buffer, override

from ostnode.store.disk import Disk, File
from ostnode.store.errors import StoreLockedError, disk_error
from ostnode.store.keyspace import KeyIndex
from ostnode.store.memoryindex import MemoryIndex

DISK_BYTES: Final = 64 << 20


class MemoryDisk(Disk):
    """Files by name, `DISK_BYTES` of room. What is written is there; nothing survives it."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self._kept = 0
        self._locked = False
        self._index = MemoryIndex()

    def room(self) -> int:
        """Bytes that are free."""
        return max(0, DISK_BYTES - self._kept - sum(map(len, self.files.values())))

    @override
    def lock(self) -> None:
        if self._locked:
            raise StoreLockedError("in use")
        self._locked = True

    @override
    def unlock(self) -> None:
        self._locked = False

    @override
    def names(self) -> list[str]:
        return sorted(self.files)

    @override
    def open(self, name: str, *, create: bool = False, write: bool = False) -> File:
        if create:
            if name in self.files:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            self.files[name] = bytearray()
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return _MemoryFile(self, name)

    @override
    def remove(self, name: str) -> None:
        del self.files[name]

    @override
    def sync_names(self) -> None:
        pass

    @override
    def space(self) -> tuple[int, int]:
        return DISK_BYTES, self.room()

    @override
    def reserve(self, length: int) -> None:
        if length - self._kept > self.room():
            raise disk_error(errno.ENOSPC, "reserve")
        self._kept = length

    @override
    def reserved(self) -> int:
        return self._kept

    @override
    def key_index(self) -> KeyIndex:
        return self._index


class _MemoryFile(File):
    """An open file; removed while open, it can still be read."""

    def __init__(self, disk: MemoryDisk, name: str) -> None:
        self._disk, self._name = disk, name
        self._data = disk.files[name]

    @override
    def size(self) -> int:
        return len(self._data)

    @override
    def read_into(self, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        data = self._data[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    @override
    def next_data(self, offset: int) -> int:
        return offset

    @override
    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(memoryview(buffer).tobytes() for buffer in buffers)
        self.allocate(offset + len(data))
        self._data[offset : offset + len(data)] = data

    @override
    def allocate(self, length: int) -> None:
        growth = length - len(self._data)
        if growth > self._disk.room():
            raise disk_error(errno.ENOSPC, self._name)
        if growth > 0:
            self._data.extend(bytes(growth))

    @override
    def truncate(self, length: int) -> None:
        del self._data[length:]
        self._data.extend(bytes(length - len(self._data)))

    @override
    def punch(self, offset: int, length: int) -> bool:
        self._data[offset : offset + length] = bytes(length)
        return True

    @override
    def allocated(self) -> int:
        return len(self._data)

    @override
    def drop_cache(self, offset: int, length: int) -> None:
        pass

    @override
    def sync(self) -> None:
        pass

    @override
    def close(self) -> None:
        pass
