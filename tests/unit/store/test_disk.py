"""The operating system's side of the seam."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ostnode.store.disk import RealDisk, RealFile
from ostnode.store.errors import NoSpaceError, NotAFileError, StoreError, StoreLockedError


@pytest.fixture
def disk(tmp_path: Path):
    disk = RealDisk(tmp_path / "deep" / "data")
    disk.lock()
    yield disk
    disk.unlock()


@pytest.fixture
def file(disk: RealDisk):
    file = disk.open("1.seg", create=True)
    yield file
    file.close()


def fail_with(code: int):
    def failing(*_args: object) -> None:
        raise OSError(code, os.strerror(code))

    return failing


def test_b46_the_second_process_is_told_who_has_it(disk: RealDisk, tmp_path: Path) -> None:
    with pytest.raises(StoreLockedError, match=f"in use by process {os.getpid()}"):
        RealDisk(tmp_path / "deep" / "data").lock()
    disk.unlock()
    disk.unlock()
    again = RealDisk(tmp_path / "deep" / "data")
    again.lock()
    again.unlock()


def test_files_are_made_once_and_private(disk: RealDisk, tmp_path: Path) -> None:
    disk.open("1.seg", create=True).close()
    path = tmp_path / "deep" / "data" / "segments" / "1.seg"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        disk.open("1.seg", create=True)
    assert disk.names() == ["1.seg"]
    disk.sync_names()
    disk.remove("1.seg")
    assert disk.names() == []
    with pytest.raises(FileNotFoundError):
        disk.open("1.seg")


@pytest.mark.parametrize("what", ["directory", "link to nothing", "link to a directory", "pipe"])
def test_what_is_no_file_is_not_opened(disk: RealDisk, tmp_path: Path, what: str) -> None:
    path = tmp_path / "deep" / "data" / "segments" / "1.seg"
    match what:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "link to nothing":
            path.symlink_to(tmp_path / "nothing")
        case _:
            path.symlink_to(tmp_path)
    message = "a link to no file" if what.startswith("link") else "no file"
    for write in (False, True):
        with pytest.raises(NotAFileError, match=rf"1\.seg is {message}") as raised:
            disk.open("1.seg", write=write)
        assert isinstance(raised.value, StoreError)


def test_a_link_to_a_file_is_as_good_as_one(disk: RealDisk, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"data")
    (tmp_path / "deep" / "data" / "segments" / "1.seg").symlink_to(tmp_path / "elsewhere")
    file = disk.open("1.seg")
    assert file.size() == 4
    file.close()


def test_write_and_read(file: RealFile) -> None:
    buffers = [bytes([i % 256]) * (i % 5) for i in range(3000)]  # more than one iovec
    file.write(10, buffers)
    file.sync()
    whole = b"".join(buffers)
    assert file.size() == 10 + len(whole)
    data = bytearray(len(whole) + 5)
    assert file.read_into(10, memoryview(data)) == len(whole)
    assert data[: len(whole)] == whole
    assert file.read_into(10, memoryview(data), wait=False) == len(whole)


def test_short_writes_go_on(file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite

    def short(fd: int, buffers: list[memoryview], offset: int) -> int:
        return pwrite(fd, b"".join(buffers)[:7], offset)

    monkeypatch.setattr(os, "pwritev", short)
    file.write(3, [b"abc", b"defgh", b"", b"ijklmnopqrstuvw", b"xyz"])
    data = bytearray(26)
    assert file.read_into(3, memoryview(data)) == 26
    assert bytes(data) == b"abcdefghijklmnopqrstuvwxyz"


def test_allocate_and_truncate(file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.allocate(100_000)
    assert file.size() == 100_000
    file.truncate(5)
    assert file.size() == 5
    monkeypatch.setattr("ostnode.store.disk._fallocate", lambda *_: errno.EOPNOTSUPP)
    file.allocate(100_000)
    assert file.size() == 5
    monkeypatch.setattr("ostnode.store.disk._fallocate", lambda *_: errno.ENOSPC)
    with pytest.raises(NoSpaceError, match=r"No space left on device: .*1\.seg"):
        file.allocate(100_000)


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EOPNOTSUPP])
def test_a_read_that_would_wait_stops(
    file: RealFile, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write(0, [b"data"])
    monkeypatch.setattr(os, "preadv", fail_with(code))
    assert file.read_into(0, memoryview(bytearray(4)), wait=False) == 0


@pytest.mark.parametrize("wait", [True, False])
def test_a_read_error_is_raised(
    file: RealFile, wait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", fail_with(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        file.read_into(0, memoryview(bytearray(4)), wait=wait)


def test_space(disk: RealDisk) -> None:
    total, free = disk.space()
    assert 0 < free <= total


def test_a_write_that_writes_nothing_is_an_error(
    file: RealFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    with pytest.raises(OSError, match=r"Input/output error: .*1\.seg"):
        file.write(0, [b"data"])


def test_errors_of_writes_and_syncs_name_the_file(
    file: RealFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a write may be made again where there was no space; a sync never is."""
    for code, kind in ((errno.EIO, OSError), (errno.ENOSPC, NoSpaceError)):
        monkeypatch.setattr(os, "pwritev", fail_with(code))
        with pytest.raises(OSError, match=r"1\.seg") as failed:
            file.write(0, [b"data"])
        assert (type(failed.value), failed.value.errno) == (kind, code)
        monkeypatch.setattr(os, "fdatasync", fail_with(code))
        with pytest.raises(OSError, match=r"1\.seg") as failed:
            file.sync()
        assert (type(failed.value), failed.value.errno) == (OSError, code)


def test_an_interrupted_allocation_goes_on(file: RealFile, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [errno.EINTR, errno.EINTR, 0]
    monkeypatch.setattr("ostnode.store.disk._libc", InterruptedLibc(codes))
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EINTR)
    file.allocate(100)
    assert codes == []


class InterruptedLibc:
    """fallocate(2) that is interrupted a few times."""

    def __init__(self, codes: list[int]) -> None:
        self._codes = codes

    def fallocate(self, *_: int) -> int:
        return -1 if self._codes.pop(0) else 0


@pytest.mark.parametrize("preallocates", [True, False])
def test_the_reserve_takes_its_blocks(
    disk: RealDisk, tmp_path: Path, preallocates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not preallocates:
        monkeypatch.setattr("ostnode.store.disk._fallocate", lambda *_: errno.EOPNOTSUPP)
    assert disk.reserved() == 0
    disk.reserve(1_000_000)
    status = (tmp_path / "deep" / "data" / "reserve").stat()
    assert (disk.reserved(), status.st_blocks * 512 >= 1_000_000) == (1_000_000, True)
    disk.reserve(4096)
    assert disk.reserved() == 4096
    monkeypatch.setattr("ostnode.store.disk._fallocate", lambda *_: errno.ENOSPC)
    with pytest.raises(NoSpaceError, match="reserve"):
        disk.reserve(1_000_000)
    assert disk.reserved() == 4096


def test_a_lock_that_fails_is_let_go(
    disk: RealDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.unlock()
    again = RealDisk(tmp_path / "deep" / "data")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fail_with(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            again.lock()
        patched.setattr(os, "pwrite", fail_with(errno.ENOSPC))
        again.lock()  # the number in it is for people
    again.unlock()
