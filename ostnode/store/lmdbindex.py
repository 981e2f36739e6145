"""The key index in LMDB.

Commits are not synced: the log is the truth, and a crash of the process alone loses nothing of
them. What a crash of the machine leaves is unknown, so an index is trusted only when it was closed
cleanly and is byte for byte what was closed, or when the machine has not been restarted since. The
file `state` beside the database says which:

- `clean <BLAKE3 of data.mdb>`: closed, and its rows were proven;
- `closed <BLAKE3 of data.mdb>`: closed before they were;
- `opening`: its last recovery never ended, and it may be what crashed it: it is rebuilt;
- `running <boot id>`;
- `auditing <boot id> <n>`: n starts, one after the other, ended while an audit was reading it. The
  second one may be no chance: it is rebuilt;
- `damaged`: an audit has found it so: it is rebuilt.

Rebuilding is always right, only slower.

LMDB keeps no checksums. Every commit therefore stores how many rows there are and the sum of their
CRCs. A clean index is hashed when it is opened, 0.1 s per GiB. Any other is opened as it is and
audited in the background, some seconds per million rows: what it answers until then rests on rows
that nobody has proven. One row changed, lost or out of place is found. An audit is due once in
every scrub, too, which bounds how long damage goes unnoticed that comes while the index is open
and that a clean close hashes as it is. A page so mangled that LMDB itself dies of it ends the
process when a look-up, a commit or the audit comes to it; `opening` or `auditing` is then what it
leaves behind.

An audit reads one snapshot, so that pages which commits free meanwhile are not used again: the
file may grow by what is written while it lasts.

Each table (first byte of a key) is a B-tree of its own: keys that only ever grow then fill their
pages wholly. In one tree for all, LMDB splits the page they share with the next table in halves.

The map starts small, as limits on address space and strict overcommit count all of it, and is
doubled when it is full: nobody may be reading then, which the lock is for (0.15 of 2 µs a look-up).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Final

import lmdb
from blake3 import blake3
from typing_extensions import override

from ostnode.store.errors import IndexDamagedError, IndexLimitError, NoSpaceError, disk_error
from ostnode.store.indexaudit import SUM_MASK, prove, row_sum
from ostnode.store.keyspace import Covered, KeyIndex, Row

MAP_BYTES_MIN: Final = 64 << 20
MAP_BYTES_MAX: Final = 1 << 40
"""Address space, not disk: the file is only as long as its pages."""
DATABASES_MAX: Final = 257
"""A table for every first byte of a key, and `meta`."""
LAYOUT: Final = 3
"""Of what is in the index, the rows of roles included: one of another layout is rebuilt."""
_LOCK_BYTES: Final = 16 << 10
"""More than LMDB's table of 126 readers takes."""
_WRITE_BYTES: Final = 1 << 20
"""More than LMDB writes at once (64 pages)."""
_META: Final = b"meta"
_COVERED: Final = struct.Struct("<IQ16sQQQ")
_COVERED_KEY: Final = b"covered"
_AUDITED_STARTS_MAX: Final = 2
_DAMAGE: Final = (
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.InvalidError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
)
"""What LMDB says of pages that are not what it wrote."""


class LmdbIndex(KeyIndex):
    """One LMDB environment in `directory`; `boot_id` names the machine's present start."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        self._dir = directory
        self._boot_id = boot_id
        self._data = directory / "data.mdb"
        self._tables: dict[bytes, lmdb._Database] = {}
        self._count, self._sum = 0, 0
        self._lock = Lock()
        """Held by readers, and while the map grows."""
        self._committing, self._auditing = Lock(), Lock()
        """Held by a commit, and by a step of the audit; both are free for each other but once."""
        self._audit: Generator[None] | None = None
        self._is_proven, self._is_damaged = True, False
        self._starts = 0
        """How many starts before this one ended within an audit."""

    @property
    @override
    def is_proven(self) -> bool:
        return self._is_proven

    @override
    def open(self) -> Covered | None:
        covered = None
        word = self._trusted()
        with self._told():
            self._write_state("opening", durable=True)
        if word:
            with suppress(lmdb.Error, ValueError):
                self._open_environment()
                covered = self._read_covered()
        self._is_proven, self._is_damaged = word == "clean", False
        if covered is None:
            self.reset()
        return covered

    def _trusted(self) -> str:
        """The state in which the files may be opened as they are; empty when there is none."""
        self._starts = 0
        with suppress(OSError, ValueError):
            text = (self._dir / "state").read_text("ascii")
            word, value, starts = (*text.split(" "), "0")[:3]
            if word in {"clean", "closed"} and value == self._digest():
                return word
            self._starts = int(starts)
            is_ours = value == self._boot_id and self._starts < _AUDITED_STARTS_MAX
            if word in {"running", "auditing"} and is_ours:
                return word
        return ""

    def _close_environment(self) -> None:
        if hasattr(self, "_env"):
            self._end_audit()
            self._env.close()

    def _open_environment(self) -> None:
        size = self._data.stat().st_size if self._data.exists() else 0
        self._open_map(max(MAP_BYTES_MIN, 1 << size.bit_length()))

    def _open_map(self, map_bytes: int) -> None:
        environment = lmdb.open(
            str(self._dir),
            map_size=map_bytes,
            sync=False,
            metasync=False,
            writemap=False,
            max_dbs=DATABASES_MAX,
            mode=0o600,
        )
        self._use(environment)

    def _use(self, environment: lmdb.Environment) -> None:
        self._env = environment
        pages = self._env.info()["last_pgno"] + 1
        if self._data.stat().st_size < pages * self._env.stat()["psize"]:
            self._env.close()
            raise lmdb.CorruptedError("the data file is shorter than its pages")
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            names = list(cursor.iternext(values=False))
        self._tables = {_first_byte(name): self._env.open_db(name, create=False) for name in names}

    def _read_covered(self) -> Covered | None:
        if _META not in self._tables:
            return None
        with self._env.begin(db=self._tables[_META]) as transaction:
            data = transaction.get(_COVERED_KEY)
        if data is None or len(data) != _COVERED.size:
            return None
        layout, *position, self._count, self._sum = _COVERED.unpack(data)
        return Covered(*position) if layout == LAYOUT else None

    @override
    def reset(self) -> None:
        self._close_environment()
        self._count, self._sum = 0, 0
        self._is_proven = True
        for name in ("data.mdb", "lock.mdb"):
            (self._dir / name).unlink(missing_ok=True)
        with self._told():
            # LMDB maps this file and writes through the map: a block that is not there is SIGBUS.
            (self._dir / "lock.mdb").write_bytes(bytes(_LOCK_BYTES))
            self._open_environment()

    @override
    def recovered(self) -> None:
        with self._told():
            self._write_state(self._running(), durable=False)

    def _running(self) -> str:
        """The state while it is in use. It is of no account once the machine has restarted."""
        if self._is_proven:
            return f"running {self._boot_id}"
        return f"auditing {self._boot_id} {self._starts + 1}"

    @override
    def get(self, key: bytes) -> bytes | None:
        with self._lock:
            table = self._tables.get(key[:1])
            if table is None:
                return None
            try:
                with self._env.begin(db=table) as transaction:
                    value: bytes | None = transaction.get(key)
            except _DAMAGE as error:
                raise IndexDamagedError(str(error)) from error
        return value

    @override
    def page(self, low: bytes, high: bytes | None, limit: int) -> list[Row]:
        try:
            with self._lock, self._env.begin() as transaction:
                return self._page(transaction, low, high, limit)
        except _DAMAGE as error:
            raise IndexDamagedError(str(error)) from error

    def _page(
        self, transaction: lmdb.Transaction[bytes], low: bytes, high: bytes | None, limit: int
    ) -> list[Row]:
        rows: list[Row] = []
        for name in sorted(self._tables):
            if name == _META or name < low[:1] or (high is not None and name >= high):
                continue
            with transaction.cursor(self._tables[name]) as cursor:
                if cursor.set_range(low):
                    for key, value in cursor:
                        if len(rows) == limit or (high is not None and key >= high):
                            return rows
                        rows.append((key, value))
        return rows

    @override
    def commit(self, changes: Mapping[bytes, bytes | None], covered: Covered) -> None:
        while True:
            try:
                with self._told(), self._committing:
                    self._write(changes, covered)
            except lmdb.MapFullError:
                self._grow()
            else:
                return

    def _write(self, changes: Mapping[bytes, bytes | None], covered: Covered) -> None:
        tables, count, total = dict(self._tables), self._count, self._sum
        with self._env.begin(write=True) as transaction:
            for name in {_META, *(key[:1] for key in changes)} - tables.keys():
                tables[name] = self._env.open_db(_name(name), txn=transaction)
            for key in sorted(changes):
                value, table = changes[key], tables[key[:1]]
                if value is None:
                    before = transaction.pop(key, db=table)
                else:
                    before = transaction.replace(key, value, db=table)
                    count += 1
                    total += row_sum(key, value)
                if before is not None:
                    count -= 1
                    total -= row_sum(key, before)
            total &= SUM_MASK
            position = (covered.segment, covered.uuid, covered.batch, count, total)
            packed = _COVERED.pack(LAYOUT, *position)
            transaction.put(_COVERED_KEY, packed, db=tables[_META])
        self._tables, self._count, self._sum = tables, count, total

    def _grow(self) -> None:
        """Double the map. What was committed stays whether that works or not."""
        size = int(self._env.info()["map_size"])
        if size >= MAP_BYTES_MAX:
            raise IndexLimitError(size, "that is as large as it gets")
        with self._lock, self._auditing:
            self._close_environment()
            try:
                self._open_map(size * 2)
            except lmdb.Error as error:
                # LMDB leaves no map at all behind when the larger one is refused.
                self._open_map(size)
                raise IndexLimitError(size, f"more address space is refused: {error}") from error

    @override
    def audit(self) -> Generator[None]:
        with suppress(OSError):
            starts = self._starts if not self._is_proven else 0
            self._write_state(f"auditing {self._boot_id} {starts + 1}", durable=False)
        try:
            while self._audit_some():
                yield
        except (IndexDamagedError, lmdb.Error) as error:
            self._is_damaged = True
            with suppress(OSError):
                self._write_state("damaged", durable=True)
            if isinstance(error, IndexDamagedError):
                raise
            raise IndexDamagedError(str(error)) from error
        finally:
            with self._auditing:
                self._end_audit()
        self._is_proven = True
        with suppress(OSError):
            self._write_state(self._running(), durable=False)

    def _audit_some(self) -> bool:
        """Prove some rows; False when that was all. After the map has grown it begins anew."""
        with self._auditing:
            if self._audit is None:
                self._audit = self._proving()
            return next(self._audit, self) is None

    def _proving(self) -> Generator[None]:
        with self._committing:
            transaction, tables = self._env.begin(), dict(self._tables)
        with transaction:
            meta = tables.pop(_META, None)
            if meta is not None:
                data = transaction.get(_COVERED_KEY, db=meta)
                if data is None or len(data) != _COVERED.size:
                    raise IndexDamagedError("it has no position")
                *_, count, total = _COVERED.unpack(data)
                yield from prove(transaction, tables, count, total)

    def _end_audit(self) -> None:
        if self._audit is not None:
            self._audit.close()
            self._audit = None

    @override
    def nbytes(self) -> int:
        with suppress(FileNotFoundError):
            return self._data.stat().st_size
        return 0

    @override
    def close(self, *, clean: bool) -> None:
        if not clean or self._is_damaged:
            self._close_environment()
            return
        # On a full disk it stays `running`: good until the machine is restarted.
        with suppress(NoSpaceError), self._told():
            try:
                self._env.sync(force=True)
            finally:
                self._close_environment()
            word = "clean" if self._is_proven else "closed"
            self._write_state(f"{word} {self._digest()}", durable=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the disk as the log's are told; LMDB's own codes are below zero."""
        try:
            yield
        except lmdb.Error as error:
            if isinstance(error, _DAMAGE):
                raise IndexDamagedError(str(error)) from error
            code = getattr(error, "code", 0)
            if code <= 0:
                raise
            if code == errno.EIO and self._is_full():
                code = errno.ENOSPC  # what LMDB makes of a short write (mdb_page_flush)
            raise disk_error(code, self._data) from error
        except OSError as error:
            raise disk_error(error.errno, self._dir) from error

    def _is_full(self) -> bool:
        stat = os.statvfs(self._dir)
        return stat.f_bavail * stat.f_frsize < _WRITE_BYTES

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


def _name(table: bytes) -> bytes:
    """What LMDB calls a table; its names end at the first zero byte."""
    return table if table == _META else table.hex().encode("ascii")


def _first_byte(name: bytes) -> bytes:
    """The inverse of `_name`."""
    return name if name == _META else bytes.fromhex(name.decode("ascii"))
