"""The operating system's side of the seam."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ostnode.store.disk import RealDisk, RealFile
from ostnode.store.errors import NoSpaceError, StoreLockedError


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
