"""The key index as somebody else's: read beside the process that owns it, never written."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import lmdb
from typing_extensions import override

from ostnode.store.errors import IndexDamagedError
from ostnode.store.keyspace import Covered
from ostnode.store.lmdbindex import DATABASES_MAX, MAP_BYTES_MAX, LmdbIndex

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class IndexView(LmdbIndex):
    """The LMDB environment in `directory`, opened for reading alone.

    A reader takes its slot in LMDB's lock file, so the owner does not reuse pages under it. Each
    look-up is a transaction of its own: none is held open, which would let the file grow.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, _BOOT_ID.read_text("ascii").strip())

    @override
    def open(self) -> Covered | None:
        """None when it is missing, damaged, or nothing that the next start would trust."""
        covered = None
        if self._trusted():
            with suppress(lmdb.Error, OSError):
                self._open_environment()
                covered = self._read_covered()
        return covered

    @override
    def _open_environment(self) -> None:
        environment = lmdb.open(
            str(self._dir),
            readonly=True,
            create=False,
            map_size=MAP_BYTES_MAX,  # the owner may make the file longer meanwhile
            max_dbs=DATABASES_MAX,
        )
        self._use(environment)

    @override
    def reset(self) -> None:
        raise lmdb.ReadonlyError("a view is not emptied")

    @override
    def commit(self, changes: Mapping[bytes, bytes | None], covered: Covered) -> None:
        raise lmdb.ReadonlyError("a view is not written to")

    @override
    def close(self, *, clean: bool = False) -> None:
        self._close_environment()


class ScratchIndex(LmdbIndex):
    """A key index in a directory of its own; a copy of `original`, if one is named."""

    def __init__(self, directory: Path, original: Path | None = None) -> None:
        super().__init__(directory, _BOOT_ID.read_text("ascii").strip())
        self.covered: Covered | None = None
        """How far the copy had come when it was opened; None when it cannot be trusted."""
        self.was_reset = False
        """The copy was of no use, and the next start would have begun anew too."""
        directory.mkdir(mode=0o700)
        if original is not None:
            for name in ("data.mdb", "state"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(original / name, directory / name)

    def says_clean(self) -> bool:
        """Whether its state says that it was closed cleanly: then it is trusted, or damaged."""
        with suppress(OSError, ValueError):
            return (self._dir / "state").read_text("ascii").startswith("clean ")
        return False

    @override
    def open(self) -> Covered | None:
        self.covered = super().open()
        if not self.is_proven:
            try:
                for _ in self.audit():
                    pass
            except IndexDamagedError:
                self.reset()
                self.covered = None
        return self.covered

    @override
    def reset(self) -> None:
        self.was_reset = True
        super().reset()
