"""The seam for the disk: every blocking call of the segment log goes through it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from typing_extensions import Buffer, override

from ostnode.store.errors import NoSpaceError, NotAFileError, StoreLockedError, disk_error
from ostnode.store.keyspace import KeyIndex
from ostnode.store.lmdbindex import LmdbIndex

_IOV_MAX: Final = 1024
"""Buffers per pwritev (Linux UIO_MAXIOV)."""
_FILE_MODE: Final = 0o600
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NO_PREALLOCATION: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
_KEEP_SIZE: Final = 1
_PUNCH_HOLE: Final = 2
"""FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE of linux/falloc.h."""
_ZEROS: Final = bytes(256 << 10)
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class File(Protocol):
    """An open segment file. Errors are OSError; NoSpaceError where there is no room."""

    def size(self) -> int:
        """Its length in bytes."""
        ...

    def read_into(self, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        """Fill `buffer` from `offset`; the count is short only at the end of the file.

        Without `wait` it reads what the page cache holds and may stop anywhere.
        """
        ...

    def next_data(self, offset: int) -> int:
        """Where, from `offset` on, anything but zeros may be; the end of the file if nowhere.

        What is allocated and was never written need not be read to know that.
        """
        ...

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write all of `buffers`, one after the other, from `offset` on. Not durable yet."""
        ...

    def allocate(self, length: int) -> None:
        """Reserve space up to `length` where the file system can; raises NoSpaceError.

        What a refused call leaves allocated is given back by `truncate`.
        """
        ...

    def truncate(self, length: int) -> None:
        """Cut or extend to `length`."""
        ...

    def punch(self, offset: int, length: int) -> bool:
        """Give a range's space back; it reads as zeros. False where that cannot be done.

        What a crash leaves of it is the old bytes or zeros, block by block.
        """
        ...

    def allocated(self) -> int:
        """Bytes of the disk that it takes."""
        ...

    def drop_cache(self, offset: int, length: int) -> None:
        """Ask that the next read of a synced range come from the disk itself."""
        ...

    def sync(self) -> None:
        """Make the contents and the length durable. After an error the contents are in doubt."""
        ...

    def close(self) -> None:
        """Release it; nothing is made durable."""
        ...


class Disk(Protocol):
    """One data directory."""

    def lock(self) -> None:
        """Take it for this process, or raise StoreLockedError."""
        ...

    def unlock(self) -> None:
        """Give it back."""
        ...

    def names(self) -> list[str]:
        """Names of the segment files, sorted."""
        ...

    def open(self, name: str, *, create: bool = False, write: bool = False) -> File:
        """Open a segment file; `create` makes it and fails when it is there.

        Raises FileNotFoundError, and NotAFileError when something else has the name.
        """
        ...

    def remove(self, name: str) -> None:
        """Unlink a segment file."""
        ...

    def sync_names(self) -> None:
        """Make creations and removals durable."""
        ...

    def space(self) -> tuple[int, int]:
        """Bytes in all and bytes free for this process."""
        ...

    def reserve(self, length: int) -> None:
        """Keep exactly that many bytes aside in a file of their own; raises NoSpaceError.

        A refused call keeps what was kept before.
        """
        ...

    def reserved(self) -> int:
        """Bytes kept aside, also by an earlier process."""
        ...

    def key_index(self) -> KeyIndex:
        """The key index kept beside the segments."""
        ...


class RealFile(File):
    """A segment file of the operating system."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._fd, self._path = descriptor, path
        self._no_wait = os.RWF_NOWAIT

    @override
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    @override
    def read_into(self, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        done = 0
        while done < len(buffer):
            try:
                flags = 0 if wait else self._no_wait
                count = os.preadv(self._fd, [buffer[done:]], offset + done, flags)
            except BlockingIOError:
                break
            except OSError as error:
                if wait or error.errno != errno.EOPNOTSUPP:
                    raise
                break
            if count == 0:
                break
            done += count
        return done

    @override
    def next_data(self, offset: int) -> int:
        try:
            return os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as error:
            return self.size() if error.errno == errno.ENXIO else offset

    @override
    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        with _named(self._path):
            for at in range(0, len(views), _IOV_MAX):
                offset = self._write_some(offset, views[at : at + _IOV_MAX])

    def _write_some(self, offset: int, views: list[memoryview]) -> int:
        """Write at most IOV_MAX buffers; returns the offset behind them."""
        while views:
            written = count = os.pwritev(self._fd, views, offset)
            offset += count
            while views and count >= len(views[0]):
                count -= len(views.pop(0))
            if views:
                if not written:
                    raise OSError(errno.EIO, "nothing was written")
                views[0] = views[0][count:]
        return offset

    @override
    def allocate(self, length: int) -> None:
        # Not posix_fallocate: where the file system cannot, glibc writes into every block instead.
        code = _fallocate(self._fd, 0, 0, length)
        if code and code not in _NO_PREALLOCATION:
            raise disk_error(code, self._path)

    @override
    def truncate(self, length: int) -> None:
        with _named(self._path):
            os.ftruncate(self._fd, length)

    @override
    def punch(self, offset: int, length: int) -> bool:
        code = _fallocate(self._fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length)
        if code in _NO_PREALLOCATION:
            return False
        if code:
            raise disk_error(code, self._path)
        return True

    @override
    def allocated(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    @override
    def drop_cache(self, offset: int, length: int) -> None:
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    @override
    def sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    @override
    def close(self) -> None:
        os.close(self._fd)


class RealDisk(Disk):
    """A data directory: `segments/*.seg`, `reserve`, `keyindex/` and `node.lock`, all made when
    missing.
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir
        self._segments = data_dir / "segments"
        self._reserve = data_dir / "reserve"
        self._lock: int | None = None

    @override
    def lock(self) -> None:
        _make_directory(self._segments)
        path = self._dir / "node.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            self._take(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor

    def _take(self, descriptor: int, path: Path) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise StoreLockedError(
                f"{self._dir} is in use by process {holder}: one process may own a data directory"
            ) from None
        with suppress(NoSpaceError), _named(path):  # the number is for people
            written = os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            os.ftruncate(descriptor, written)

    @override
    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @override
    def names(self) -> list[str]:
        return sorted(path.name for path in self._segments.iterdir())

    @override
    def open(self, name: str, *, create: bool = False, write: bool = False) -> RealFile:
        flags = os.O_CLOEXEC | (os.O_RDWR if write or create else os.O_RDONLY)
        flags |= os.O_CREAT | os.O_EXCL if create else 0
        path = self._segments / name
        if not create:
            _check_is_file(path)
            return RealFile(os.open(path, flags, _FILE_MODE), path)
        with _named(path):
            return RealFile(os.open(path, flags, _FILE_MODE), path)

    @override
    def remove(self, name: str) -> None:
        (self._segments / name).unlink()

    @override
    def sync_names(self) -> None:
        sync_directory(self._segments)

    @override
    def space(self) -> tuple[int, int]:
        stat = os.statvfs(self._dir)
        return stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize

    @override
    def reserve(self, length: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        with _named(self._reserve):
            descriptor = os.open(self._reserve, flags, _FILE_MODE)
            try:
                before = os.fstat(descriptor).st_size
                try:
                    _fill(descriptor, before, length)
                except OSError:
                    os.ftruncate(descriptor, before)
                    raise
            finally:
                os.close(descriptor)

    @override
    def reserved(self) -> int:
        with suppress(FileNotFoundError):
            return self._reserve.stat().st_size
        return 0

    @override
    def key_index(self) -> KeyIndex:
        return LmdbIndex(self._dir / "keyindex", _BOOT_ID.read_text("ascii").strip())


def _check_is_file(path: Path) -> None:
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        if not path.is_symlink():
            raise
        is_file = False
    if not is_file:
        what = "a link to no file" if path.is_symlink() else "no file"
        raise NotAFileError(f"{path} is {what}: bring the segment back, or move this away")


def _fallocate(descriptor: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2), which Python does not have; returns the errno, 0 for success."""
    while _libc.fallocate(descriptor, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            return code
    return 0


def _fill(descriptor: int, before: int, length: int) -> None:
    """Make a file of `before` allocated bytes one of `length`."""
    if length <= before:
        os.ftruncate(descriptor, length)
        os.fsync(descriptor)  # what is freed can be used once the journal says so
        return
    code = _fallocate(descriptor, 0, 0, length)
    if code in _NO_PREALLOCATION:
        while before < length:
            before += os.pwrite(descriptor, _ZEROS[: length - before], before)
        os.fsync(descriptor)
    elif code:
        raise OSError(code, os.strerror(code))


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of writes and allocations name the file, and say when it was for want of space."""
    try:
        yield
    except OSError as error:
        raise disk_error(error.errno, path) from error


def _make_directory(path: Path) -> None:
    """Make it and what is missing above it, every name durable."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in it durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
