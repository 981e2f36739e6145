"""A small ext4 file system of its own, on a loop device: one that can really be full."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_LOOP_CTL_GET_FREE = 0x4C82
_libc = ctypes.CDLL(None, use_errno=True)


def need(*tools: str) -> None:
    """Skip without these programs; where CI is "true" they have to be there."""
    for tool in tools:
        if shutil.which(tool) is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f"{tool} is not installed")
            pytest.skip(f"{tool} is not installed")


@contextmanager
def mounted_ext4(directory: Path, size: int) -> Iterator[Path]:
    """The mount point of an empty file system of `size` bytes; gone afterwards, whatever happens.

    Skips where the kernel refuses, with its errno.
    """
    need("mkfs.ext4", "losetup")
    _ask_for_loop_devices()
    image, mount = directory / "image", directory / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    found = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    )
    device = found.stdout.strip()
    try:
        if _libc.mount(device.encode(), bytes(mount), b"ext4", 0, None) != 0:
            code = ctypes.get_errno()
            pytest.skip(f"mount: {errno.errorcode[code]}")
        try:
            yield mount
        finally:
            if _libc.umount2(bytes(mount), 0) != 0:
                raise OSError(ctypes.get_errno(), "umount")
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def fill(path: Path) -> None:
    """Let a file take the last byte of its file system."""
    with path.open("ab", buffering=0) as file:
        for piece in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(piece))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def _ask_for_loop_devices() -> None:
    try:
        with open("/dev/loop-control", "rb") as control:  # noqa: PTH123
            fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    except OSError as error:
        pytest.skip(f"loop devices: {errno.errorcode[error.errno or 0]}")
