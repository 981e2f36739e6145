"""A FUSE file system that forgets what was not synced when its power goes.

When it goes, of every file a random part of what was not synced is kept, by 512-byte sectors; so
are names that no sync of their directory followed. From then on everything fails with EIO until it
is switched on again. The rules are those of `simdisk`, here under a real kernel and the store's own
system calls. fallocate(2) is not supported, mmap neither.
"""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from ostnode.store.siminode import Inode, Truncate, Write

ROOT = Path(__file__).parents[2]


class Lossy:
    """The state of the file system: paths, what they name, and what of it is safe."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: dict[str, Inode] = {}
        self.durable: dict[str, Inode] = {}
        self.directories = {"/"}
        self.pending: list[tuple[str, Inode | None]] = []
        self.left: int | None = None
        self.seed = 0
        self.off = False

    def arm(self, operations: int, seed: int) -> None:
        self.left, self.seed = operations, seed

    def step(self) -> bool:
        """Count an operation; True when the power goes in the middle of it."""
        if self.off:
            raise OSError(errno.EIO, "the power is off")
        if self.left is None:
            return False
        self.left -= 1
        return self.left == 0

    def cut(self) -> None:
        """The power goes."""
        rng = Random(self.seed)
        for path, inode in self.pending:
            if rng.random() < 0.5:
                self._name(self.durable, path, inode)
        self.pending.clear()
        self.files = dict(self.durable)
        for inode in self.files.values():
            inode.keep_some(rng)
            inode.seen = bytearray(inode.durable)
        self.left, self.off = None, True
        raise OSError(errno.EIO, "the power went")

    def change(self, path: str, change: Write | Truncate) -> None:
        cut = self.step()
        self.at(path).do(change)
        if cut:
            self.cut()

    def rename(self, path: str, inode: Inode | None) -> None:
        cut = self.step()
        self._name(self.files, path, inode)
        self.pending.append((path, inode))
        if cut:
            self.cut()

    def sync(self, path: str) -> None:
        """Half of the syncs that the power goes in have done their work."""
        if self.step() and Random(self.seed).random() < 0.5:
            self.cut()
        inode = self.at(path)
        for change in inode.pending:
            change.apply(inode.durable)
        inode.pending.clear()
        self.cut_if_due()

    def sync_names(self, directory: str) -> None:
        if self.step() and Random(self.seed).random() < 0.5:
            self.cut()
        inside = [entry for entry in self.pending if entry[0].rpartition("/")[0] == directory]
        for path, inode in inside:
            self._name(self.durable, path, inode)
        self.pending = [entry for entry in self.pending if entry not in inside]
        self.cut_if_due()

    def cut_if_due(self) -> None:
        if self.left == 0:
            self.cut()

    def at(self, path: str) -> Inode:
        if path not in self.files:
            raise OSError(errno.ENOENT, path)
        return self.files[path]

    @staticmethod
    def _name(names: dict[str, Inode], path: str, inode: Inode | None) -> None:
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode


class Switch:
    """The power of a mounted file system."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def arm(self, operations: int, seed: int) -> None:
        """At so many changes and syncs from now on the power goes."""
        self._tell(f"arm {operations} {seed}")

    def on(self) -> bool:
        """Power is there; whether it was gone."""
        return self._tell("on") == "off"

    def _tell(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def mounted(mount: Path) -> Iterator[Switch]:
    """The file system at `mount`, until the block ends."""
    mount.mkdir()
    command = [sys.executable, "-m", "tests.support.lossyserver", str(mount)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            switch = Switch(process)
            while not mount.is_mount():
                if process.poll() is not None:
                    raise OSError(process.returncode, "the file system did not mount")
            yield switch
        finally:
            subprocess.run(["fusermount3", "-u", "-z", str(mount)], check=False)
            try:
                process.wait(10)
            finally:
                process.kill()
