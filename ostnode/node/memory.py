"""What a bucket remembers of its cluster: a file beside its log, for its owner alone.

It holds which index the bucket has joined, so that a join token is needed once, and the newest
roster, so that an older one is refused after a restart too. Written whole, durable, and put in
the place of the one before in one step.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Protocol

from typing_extensions import override

from ostnode.codec import CBOR_BYTES_MAX
from ostnode.errors import InvalidArgumentError
from ostnode.ids import ClusterId, Principal
from ostnode.node.errors import StartError
from ostnode.wire.fields import Address, Amount, Bounds, Message
from ostnode.wire.membership import ROSTER_BYTES_MAX
from ostnode.wire.roster import KEYS_MAX, RosterKey
from ostnode.wire.schema import decode_message, encode_message

FILE_NAME: Final = "membership"
_FILE_BYTES_MAX: Final = CBOR_BYTES_MAX
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Remembered(Message):
    """The bucket's name, which its first key gave it, its index, and where that listens for peers.

    `index` is the key under which the bucket first knew it, `keys` are those of the newest roster;
    that is empty before the first.
    """

    cluster_id: ClusterId
    bucket: Principal
    index: Principal
    index_peer: Address
    epoch: Amount = 0
    keys: Annotated[tuple[RosterKey, ...], Bounds(0, KEYS_MAX)] = ()
    roster: Annotated[bytes, Bounds(0, ROSTER_BYTES_MAX)] = b""

    def index_names(self) -> set[Principal]:
        """The keys by which a config may name this index."""
        return {self.index, *(each.key for each in self.keys)}


class Memory(Protocol):
    """Where a bucket remembers. Its methods block."""

    def load(self) -> Remembered | None:
        """What is remembered; None before the first time. Raises StartError."""
        ...

    def save(self, remembered: Remembered) -> None:
        """Remember from now on; raises OSError."""
        ...


class MembershipFile(Memory):
    """The file in a bucket's data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / FILE_NAME

    @override
    def load(self) -> Remembered | None:
        try:
            with self.path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                content = file.read(_FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StartError(f"{self.path}: {error.strerror}", "check who owns it") from error
        if mode & _OTHERS:
            raise StartError(f"{self.path}: others may use it", f"chmod 600 {self.path}")
        try:
            return decode_message(Remembered, content)
        except InvalidArgumentError as error:
            hint = (
                "copy it back from a backup; a bucket that has never changed its key may do "
                "without: move it away, and name index and index_peer in its config"
            )
            raise StartError(f"{self.path} is damaged: {error.message}", hint) from None

    @override
    def save(self, remembered: Remembered) -> None:
        write_private(self.path, encode_message(remembered))


def write_private(path: Path, content: bytes) -> None:
    """Put a file for its owner alone in place, whole and durable. Blocks; raises OSError."""
    draft = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # whatever the umask took away
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
