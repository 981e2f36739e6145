"""Serves the lossy file system: `lossyserver.py MOUNT`, until it is unmounted.

Commands come on stdin, each answered on stdout by whether the power was on or off: `arm N SEED` has
it go at the Nth change or sync from now on, `on` brings it back.
"""

from __future__ import annotations

import errno
import stat
import sys
import threading
from pathlib import PurePosixPath

import mfusepy

from ostnode.store.siminode import Inode, Truncate, Write
from tests.support.lossyfs import Lossy

_CAPACITY = 1 << 30


class Operations(mfusepy.Operations):
    """One call of the kernel after the other; OSError is what it is answered with."""

    use_ns = True

    def __init__(self, state: Lossy) -> None:
        self._state = state

    def getattr(self, path, fh=None):
        with self._state.lock:
            if path in self._state.directories:
                return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
            size = len(self._state.at(path).seen)
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size}

    def readdir(self, path, fh):
        with self._state.lock:
            below = map(PurePosixPath, [*self._state.files, *self._state.directories - {"/"}])
            names = [each.name for each in below if str(each.parent) == path]
        return [".", "..", *names]

    def mkdir(self, path, mode):
        with self._state.lock:
            self._state.directories.add(path)
        return 0

    def create(self, path, mode, fi=None):
        with self._state.lock:
            self._state.rename(path, Inode())
        return 0

    def open(self, path, flags):
        with self._state.lock:
            if self._state.off:
                raise OSError(errno.EIO, path)
            self._state.at(path)
        return 0

    def read(self, path, size, offset, fh):
        with self._state.lock:
            if self._state.off:
                raise OSError(errno.EIO, path)
            return bytes(self._state.at(path).seen[offset : offset + size])

    def write(self, path, data, offset, fh):
        with self._state.lock:
            self._state.change(path, Write(offset, data))
        return len(data)

    def truncate(self, path, length, fh=None):
        with self._state.lock:
            self._state.change(path, Truncate(length))
        return 0

    def unlink(self, path):
        with self._state.lock:
            self._state.rename(path, None)
        return 0

    def fsync(self, path, datasync, fh):
        with self._state.lock:
            self._state.sync(path)
        return 0

    def fsyncdir(self, path, datasync, fh):
        with self._state.lock:
            self._state.sync_names(path)
        return 0

    def statfs(self, path):
        blocks = _CAPACITY // 4096
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": blocks, "f_bavail": blocks}


def obey(state: Lossy) -> None:
    for line in sys.stdin:
        word, *numbers = line.split()
        with state.lock:
            answer = "off" if state.off else "on"
            if word == "arm":
                state.arm(*map(int, numbers))
            else:
                state.off, state.left = False, None
        print(answer, flush=True)


if __name__ == "__main__":
    served = Lossy()
    threading.Thread(target=obey, args=(served,), daemon=True).start()
    mfusepy.FUSE(
        Operations(served),
        sys.argv[1],
        foreground=True,
        nothreads=True,
        direct_io=True,
        hard_remove=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )
