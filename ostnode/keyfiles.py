"""Secret keys on disk: one 32-byte seed in a text file that only its owner can read.

    ost-ed25519-seed:<64 lower-case hex digits>

The file is created whole and durable before its key is used, is never overwritten, and is refused
when others may read or write it.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from ostnode.env import Rng, SystemRng

_SEED_BYTES: Final = 32
_MODE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FILE_BYTES_MAX: Final = 256
_DRAFT_BYTES: Final = 8
_FORM: Final = re.compile(rb"ost-ed25519-seed:([0-9a-f]{64})\n?")


class KeyFileError(Exception):
    """A key file that cannot be used, and what to do about it. Never quotes the file's content."""

    def __init__(self, path: Path, problem: str, hint: str) -> None:
        super().__init__(f"{path}: {problem} (hint: {hint})")
        self.path = path
        self.problem = problem
        self.hint = hint


def create_key_file(path: Path, rng: Rng | None = None) -> bytes:
    """Make a new seed, write it to a new file of mode 0600, and return it once it is durable.

    Raises KeyFileError if the path exists, as a key that is in use must not be lost, or if it
    cannot be written.
    """
    rng = rng or SystemRng()
    seed = rng.token(_SEED_BYTES)
    draft = path.with_name(f".{path.name}.{rng.token(_DRAFT_BYTES).hex()}")
    try:
        _write_new(draft, path, b"ost-ed25519-seed:%s\n" % seed.hex().encode())
    except FileExistsError:
        hint = "keep it, or move it away yourself if nobody uses it"
        raise KeyFileError(path, "it exists already", hint) from None
    except OSError as error:
        hint = "check that the directory exists and may be written"
        raise KeyFileError(path, f"it cannot be created: {error.strerror}", hint) from None
    return seed


def load_seed(path: Path) -> bytes:
    """The seed in a key file; raises KeyFileError."""
    try:
        content, mode = _read(path)
    except FileNotFoundError:
        raise KeyFileError(path, "it does not exist", "make it with `ostnode key gen`") from None
    except OSError as error:
        hint = "check that it is a file and who owns it"
        raise KeyFileError(path, f"it cannot be read: {error.strerror}", hint) from None
    if mode & _OTHERS:
        problem = f"others may use it: its mode is {mode:04o}"
        raise KeyFileError(path, problem, f"chmod 600 {path}")
    match = _FORM.fullmatch(content)
    if match is None:
        raise KeyFileError(path, "it holds no key", "make one with `ostnode key gen`")
    return bytes.fromhex(match[1].decode())


def successor_of(path: Path) -> Path:
    """Where the key that will follow the one in a key file waits for its turn."""
    return path.with_name(f"{path.name}.next")


def put_in_place(successor: Path, path: Path) -> None:
    """Put one key file in another's place, durable, in one step; the other's key is gone.

    Raises KeyFileError.
    """
    try:
        successor.replace(path)
        _sync_directory(path.parent)
    except OSError as error:
        hint = f"{successor} holds the new key: see to the directory and do this again"
        raise KeyFileError(path, f"it cannot be replaced: {error.strerror}", hint) from None


def _write_new(draft: Path, path: Path, content: bytes) -> None:
    """Under its own name the file is whole from the first moment: a link is made or is not."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(draft, flags, _MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), _MODE)  # whatever the umask took away
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)
    finally:
        draft.unlink()
    try:
        _sync_directory(path.parent)
    except OSError:
        path.unlink()
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> tuple[bytes, int]:
    """The content, one byte over the limit at most, and the permission bits."""
    # O_NONBLOCK: opening a named pipe must not wait for somebody to write.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        return file.read(_FILE_BYTES_MAX + 1), stat.S_IMODE(status.st_mode)
