"""The key index in LMDB.

Commits are not synced: the log is the truth, and a crash of the process alone loses nothing of
them. What a crash of the machine leaves is unknown, so an index is trusted only when it was closed
cleanly and is byte for byte what was closed, or when the machine has not been restarted since.
The file `state` beside the database says which: `opening`, `running <boot id>` or
`clean <BLAKE3 of data.mdb>`. An index whose last recovery never ended (`opening`) may be what
crashed it, and is rebuilt too. Rebuilding is always right, only slower.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import lmdb
from blake3 import blake3
from typing_extensions import override

from ostnode.store.errors import NoSpaceError, disk_error
from ostnode.store.keyspace import Covered, KeyIndex, Row

MAP_BYTES: Final = 1 << 40
"""Address space, not disk: the file is only as long as its pages."""
_LOCK_BYTES: Final = 16 << 10
"""More than LMDB's table of 126 readers takes."""
_ROWS: Final = b"rows"
_META: Final = b"meta"
_COVERED: Final = struct.Struct("<Q16sQ")
_COVERED_KEY: Final = b"covered"


class LmdbIndex(KeyIndex):
    """One LMDB environment in `directory`; `boot_id` names the machine's present start."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        self._dir = directory
        self._boot_id = boot_id
        self._data = directory / "data.mdb"

    @override
    def open(self) -> Covered | None:
        covered = None
        trusted = self._trusted()
        with self._told():
            self._write_state("opening", durable=True)
        if trusted:
            with suppress(lmdb.Error, struct.error):
                self._open_environment()
                covered = self._read_covered()
        if covered is None:
            self.reset()
        return covered

    def _trusted(self) -> bool:
        """Whether the files may be opened as they are; LMDB itself keeps no checksums."""
        with suppress(OSError, ValueError):
            word, _, value = (self._dir / "state").read_text("ascii").partition(" ")
            if word == "clean":
                return value == self._digest()
            return word == "running" and value == self._boot_id
        return False

    def _close_environment(self) -> None:
        if hasattr(self, "_env"):
            self._env.close()

    def _open_environment(self) -> None:
        environment = lmdb.open(
            str(self._dir),
            map_size=MAP_BYTES,
            sync=False,
            metasync=False,
            writemap=False,
            max_dbs=2,
            mode=0o600,
        )
        self._use(environment)

    def _use(self, environment: lmdb.Environment) -> None:
        self._env = environment
        pages = self._env.info()["last_pgno"] + 1
        if self._data.stat().st_size < pages * self._env.stat()["psize"]:
            self._env.close()
            raise lmdb.CorruptedError("the data file is shorter than its pages")
        self._rows = self._env.open_db(_ROWS)
        self._meta = self._env.open_db(_META)

    def _read_covered(self) -> Covered | None:
        with self._env.begin(db=self._meta) as transaction:
            data = transaction.get(_COVERED_KEY)
        return None if data is None else Covered(*_COVERED.unpack(data))

    @override
    def reset(self) -> None:
        self._close_environment()
        for name in ("data.mdb", "lock.mdb"):
            (self._dir / name).unlink(missing_ok=True)
        with self._told():
            # LMDB maps this file and writes through the map: a block that is not there is SIGBUS.
            (self._dir / "lock.mdb").write_bytes(bytes(_LOCK_BYTES))
            self._open_environment()

    @override
    def recovered(self) -> None:
        with self._told():
            self._write_state(f"running {self._boot_id}", durable=False)

    @override
    def get(self, key: bytes) -> bytes | None:
        with self._env.begin(db=self._rows) as transaction:
            value: bytes | None = transaction.get(key)
        return value

    @override
    def page(self, low: bytes, high: bytes | None, limit: int) -> list[Row]:
        rows: list[Row] = []
        with self._env.begin(db=self._rows) as transaction, transaction.cursor() as cursor:
            if cursor.set_range(low):
                for key, value in cursor.iternext():
                    if len(rows) == limit or (high is not None and key >= high):
                        break
                    rows.append((key, value))
        return rows

    @override
    def commit(self, changes: Mapping[bytes, bytes | None], covered: Covered) -> None:
        position = _COVERED.pack(covered.segment, covered.uuid, covered.batch)
        with self._told(), self._env.begin(write=True, db=self._rows) as transaction:
            for key, value in changes.items():
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)
            transaction.put(_COVERED_KEY, position, db=self._meta)

    @override
    def close(self, *, clean: bool) -> None:
        if not clean:
            self._close_environment()
            return
        # On a full disk it stays `running`: good until the machine is restarted.
        with suppress(NoSpaceError), self._told():
            try:
                self._env.sync(force=True)
            finally:
                self._close_environment()
            self._write_state(f"clean {self._digest()}", durable=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the disk as the log's are told; LMDB's own codes are below zero."""
        try:
            yield
        except lmdb.Error as error:
            code = getattr(error, "code", 0)
            if code <= 0:
                raise
            raise disk_error(code, self._data) from error
        except OSError as error:
            raise disk_error(error.errno, self._dir) from error

    def _digest(self) -> str:
        return blake3(max_threads=blake3.AUTO).update_mmap(self._data).hexdigest()

    def _write_state(self, text: str, *, durable: bool) -> None:
        """Replace the state file in one step."""
        self._dir.mkdir(mode=0o700, exist_ok=True)
        draft = self._dir / "state.new"
        with draft.open("w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        draft.replace(self._dir / "state")
        if durable:
            descriptor = os.open(self._dir, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
