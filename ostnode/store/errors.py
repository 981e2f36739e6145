"""What the store raises on its own account; none of these is ever sent to a caller of a node."""

from __future__ import annotations

import errno
import os
from typing import Final

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class StoreError(Exception):
    """The base of the store's own errors."""


class StoreFailedError(StoreError):
    """A write, sync or index commit failed, or the store is closed: nothing more is accepted.

    Whether the records that were waiting are stored is unknown until the next start. A failed
    sync is never retried: the kernel may have dropped the pages and marked them clean
    (https://wiki.postgresql.org/wiki/Fsync_Errors).
    """


class StoreLockedError(StoreError):
    """Another process owns the data directory."""


class StoreOwnerError(StoreError):
    """The data directory belongs to another bucket, or to a newer version."""


class StoreFullError(StoreError):
    """The disk has no room for a group: nothing was staged, nothing has changed.

    `needed` and `free` are bytes: of the group, and of the file system when it was last looked at.
    The store takes such groups again by itself, a second or so after there is room.
    """

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(
            f"the disk is full: {needed} bytes do not fit, {free} are free on its file system; "
            "free some or make it larger, and the store goes on by itself"
        )
        self.needed, self.free = needed, free


class IndexLimitError(StoreError):
    """The key index cannot grow: nothing of the commit was done, all before it stays."""

    def __init__(self, nbytes: int, reason: str) -> None:
        super().__init__(f"the key index has filled its map of {nbytes} bytes: {reason}")


class IndexDamagedError(StoreError):
    """The key index is not what was written. The log is: the next start makes it anew."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the key index is damaged, {what}; the next start makes it anew")


class NotAFileError(StoreError, OSError):
    """A segment's name is that of a directory, or of a link that leads nowhere.

    What it should lead to may hold records, so nothing is done until an operator has looked.
    """


class NoSpaceError(OSError):
    """A write or an allocation met ENOSPC or EDQUOT; it may be made again, the same bytes.

    Never raised for a sync: one that fails leaves in doubt what the disk holds, whatever its errno.
    """


def disk_error(code: int | None, path: object) -> OSError:
    """The error of a write or an allocation, with the file's name: NoSpaceError where it is one."""
    number = code or errno.EIO
    kind = NoSpaceError if number in _NO_SPACE else OSError
    return kind(number, os.strerror(number), str(path))
