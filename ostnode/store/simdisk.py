"""A disk in memory that forgets what was not synced, like a real one.

Writes and truncations that no `sync` followed are kept by 512-byte sector, at random, when the
power goes; so are creations and removals that no `sync_names` followed. A killed process loses
nothing it wrote, but nothing more becomes durable by that. A failed `sync` loses what it should
have made durable while reads go on showing it (the page cache marked clean).

With a capacity it fills up as ext4 does: a write that does not fit writes what fits, a refused
allocation keeps what it got until it is truncated, and what is removed or punched is free at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from typing_extensions import Buffer, override

from ostnode.store.disk import Disk, File
from ostnode.store.errors import StoreLockedError, disk_error
from ostnode.store.keyspace import Covered
from ostnode.store.memoryindex import MemoryIndex
from ostnode.store.siminode import Inode, Truncate, Write

INDEX_PAGE_BYTES: Final = 4096
_EVEN: Final = 0.5


class SimCrash(BaseException):
    """The machine or the process stops here."""


class SimIndex(MemoryIndex):
    """A key index that survives the power only when it was closed cleanly.

    On a disk with a capacity a third of its commits need another page, which is never given back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clean = False
        self.disk: SimDisk | None = None
        self.pages = 0

    @override
    def commit(self, changes: Mapping[bytes, bytes | None], covered: Covered) -> None:
        disk = self.disk
        if disk is not None:
            disk.fail("commit", "data.mdb")
            if disk.faults.capacity is not None and disk.rng.random() < 1 / 3:
                disk.need(INDEX_PAGE_BYTES, "data.mdb")
                self.pages += 1
        super().commit(changes, covered)

    @override
    def reset(self) -> None:
        super().reset()
        self.pages = 0

    @override
    def open(self) -> Covered | None:
        self.clean = False
        return super().open()

    @override
    def close(self, *, clean: bool) -> None:
        self.clean = clean


@dataclass
class Faults:
    """What goes wrong, by the running number of the disk's operations."""

    crash_at: int | None = None
    sync_errors: frozenset[int] = frozenset()
    lazy_sync: bool = False
    """`sync` lies: nothing becomes durable by it."""
    lazy_names: bool = False
    """`sync_names` lies."""
    allocate_errno: int | None = None
    preallocates: bool = True
    """Whether the file system can."""
    capacity: int | None = None
    """Bytes of the disk, of which other programs' files take `foreign`."""
    foreign: int = 0
    thief: bool = False
    """Whether they take at once what the reserve gives up."""
    errors: dict[str, int] = field(default_factory=dict)
    """Errno by what fails: `write`, `sync`, `allocate`, `create`, `sync names`, `commit`, for every
    file, or `write 00000001.seg` for one."""


class SimDisk(Disk):
    """One data directory. `operations` counts every change and every sync."""

    def __init__(self, seed: int = 0, faults: Faults | None = None) -> None:
        self.rng = Random(seed)  # noqa: S311  repeatable on purpose
        self.faults = faults or Faults()
        self.operations = 0
        self.index = SimIndex()
        self.index.disk = self
        self.kept = 0
        self.files: dict[str, Inode] = {}
        self.durable_files: dict[str, Inode] = {}
        self.pending_names: list[tuple[str, Inode | None]] = []
        self.log: list[str] = []
        self.open_files = 0
        self._locked = False

    def step(self, what: str) -> bool:
        """Count an operation; True when the crash is due in the middle of it."""
        self.operations += 1
        self.log.append(what)
        return self.operations == self.faults.crash_at

    def power_lost(self, seed: int) -> SimDisk:
        """What the machine finds after the power came back."""
        after = SimDisk(seed)
        names = dict(self.durable_files)
        for name, inode in self.pending_names:
            if after.rng.random() < _EVEN:
                _apply_name(names, name, inode)
        after.files = {name: inode.twin() for name, inode in names.items()}
        for inode in after.files.values():
            inode.keep_some(after.rng)
            inode.seen = bytearray(inode.durable)
        after.durable_files = dict(after.files)
        after.kept = self.kept
        if self.index.clean:
            after.index = copy_index(self.index)
            after.index.disk = after
        return after

    def killed(self, seed: int) -> SimDisk:
        """What the next process finds after this one was killed."""
        after = SimDisk(seed)
        inodes = [*self.files.values(), *self.durable_files.values()]
        inodes += [inode for _, inode in self.pending_names if inode is not None]
        twins = {id(inode): inode.twin() for inode in inodes}
        after.files = {name: twins[id(inode)] for name, inode in self.files.items()}
        after.durable_files = {name: twins[id(inode)] for name, inode in self.durable_files.items()}
        after.pending_names = [
            (name, None if inode is None else twins[id(inode)])
            for name, inode in self.pending_names
        ]
        after.kept = self.kept
        after.index = copy_index(self.index)
        after.index.disk = after
        return after

    def used(self) -> int:
        """Bytes that all files take, other programs' too."""
        segments = sum(len(inode.seen) - inode.punched for inode in self.files.values())
        return segments + self.kept + INDEX_PAGE_BYTES * self.index.pages + self.faults.foreign

    def room(self) -> int:
        """Bytes that are free."""
        total = 1 << 30 if self.faults.capacity is None else self.faults.capacity
        return max(0, total - self.used())

    def need(self, nbytes: int, name: str) -> None:
        """Raise NoSpaceError unless so many bytes more fit."""
        if nbytes > 0 and nbytes > self.room():
            raise disk_error(errno.ENOSPC, name)

    def fail(self, what: str, name: str) -> None:
        """Raise the error that this is to meet, if any."""
        errors = self.faults.errors
        code = errors.get(what) or errors.get(f"{what} {name}")
        if code is not None:
            self.log.append(f"failed {what} {name}")
            if "sync" in what:
                raise OSError(code, os.strerror(code), name)
            raise disk_error(code, name)

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
    def open(self, name: str, *, create: bool = False, write: bool = False) -> SimFile:
        if create:
            if name in self.files:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            self.fail("create", name)
            crash = self.step(f"create {name}")
            inode = Inode()
            self._change_name(name, inode)
            if crash:
                raise SimCrash
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return SimFile(self, self.files[name], writable=create or write, name=name)

    @override
    def remove(self, name: str) -> None:
        crash = self.step(f"remove {name}")
        self._change_name(name, None)
        if crash:
            raise SimCrash

    def _change_name(self, name: str, inode: Inode | None) -> None:
        _apply_name(self.files, name, inode)
        self.pending_names.append((name, inode))

    @override
    def sync_names(self) -> None:
        crash = self.step("sync names")
        self.fail("sync names", "segments")
        if crash and self.rng.random() < _EVEN:
            raise SimCrash
        if not self.faults.lazy_names:
            self.durable_files = dict(self.files)
            self.pending_names.clear()
        if crash:
            raise SimCrash

    @override
    def space(self) -> tuple[int, int]:
        total = 1 << 30 if self.faults.capacity is None else self.faults.capacity
        return total, self.room()

    @override
    def reserve(self, length: int) -> None:
        crash = self.step(f"reserve {length}")
        self.need(length - self.kept, "reserve")
        if self.faults.thief:
            self.faults.foreign += max(0, self.kept - length)
        self.kept = length
        if crash:
            raise SimCrash

    @override
    def reserved(self) -> int:
        return self.kept

    @override
    def key_index(self) -> SimIndex:
        return self.index

    def flip(self, name: str, offset: int, mask: int = 1) -> None:
        """Damage a byte at rest."""
        inode = self.files[name]
        inode.seen[offset] ^= mask
        inode.durable = bytearray(inode.seen)
        inode.pending.clear()


class SimFile(File):
    """An open file of a SimDisk. `unreadable` pages answer EIO."""

    def __init__(self, disk: SimDisk, inode: Inode, *, writable: bool, name: str = "") -> None:
        self._disk, self._inode, self._writable, self._name = disk, inode, writable, name
        self._open = True
        disk.open_files += 1

    @override
    def size(self) -> int:
        return len(self._inode.seen)

    @override
    def read_into(self, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        assert self._open
        data = self._inode.seen[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    @override
    def next_data(self, offset: int) -> int:
        return offset

    @override
    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(bytes(memoryview(buffer)) for buffer in buffers)
        crash = self._change(f"write {offset}+{len(data)}")
        self._disk.fail("write", self._name)
        growth = offset + len(data) - len(self._inode.seen)
        if growth > max(0, self._disk.room()):
            short = data[: max(0, len(data) - growth + self._disk.room())]
            self._inode.do(Write(offset, short))
            raise disk_error(errno.ENOSPC, self._name)
        if crash:
            data = data[: self._disk.rng.randint(0, len(data))]
        self._inode.do(Write(offset, data))
        if crash:
            raise SimCrash

    @override
    def allocate(self, length: int) -> None:
        if self._disk.faults.allocate_errno is not None:
            raise disk_error(self._disk.faults.allocate_errno, self._name)
        self._disk.fail("allocate", self._name)
        growth = length - len(self._inode.seen)
        if growth <= 0 or not self._disk.faults.preallocates:
            return
        if growth > self._disk.room():
            self.truncate(len(self._inode.seen) + self._disk.room())
            raise disk_error(errno.ENOSPC, self._name)
        self.truncate(length)

    @override
    def truncate(self, length: int) -> None:
        crash = self._change(f"truncate {length}")
        self._inode.do(Truncate(length))
        if crash:
            raise SimCrash

    @override
    def punch(self, offset: int, length: int) -> bool:
        crash = self._change(f"punch {offset}+{length}")
        data = bytes(length)
        if crash:
            data = data[: self._disk.rng.randint(0, length)]
        self._inode.do(Write(offset, data))
        self._inode.punched += len(data)
        if crash:
            raise SimCrash
        return True

    @override
    def allocated(self) -> int:
        return len(self._inode.seen) - self._inode.punched

    @override
    def drop_cache(self, offset: int, length: int) -> None:
        pass

    @override
    def sync(self) -> None:
        crash = self._change("sync")
        self._disk.fail("sync", self._name)
        if self._disk.operations in self._disk.faults.sync_errors:
            self._inode.keep_some(self._disk.rng)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if crash and self._disk.rng.random() < _EVEN:
            raise SimCrash
        if not self._disk.faults.lazy_sync:
            for change in self._inode.pending:
                change.apply(self._inode.durable)
            self._inode.pending.clear()
        if crash:
            raise SimCrash

    def _change(self, what: str) -> bool:
        assert self._open
        assert self._writable
        return self._disk.step(what)

    @override
    def close(self) -> None:
        assert self._open
        self._open = False
        self._disk.open_files -= 1


def _apply_name(names: dict[str, Inode], name: str, inode: Inode | None) -> None:
    if inode is None:
        names.pop(name, None)
    else:
        names[name] = inode


def copy_index(index: SimIndex) -> SimIndex:
    """An index of its own with the same rows and position."""
    twin = SimIndex()
    covered = MemoryIndex.open(index)
    if covered is not None:
        changes: Mapping[bytes, bytes | None] = dict(index.page(b"", None, 1 << 30))
        twin.commit(changes, covered)
    return twin
