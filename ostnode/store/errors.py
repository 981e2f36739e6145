"""What the store raises on its own account; none of these is ever sent to a caller of a node."""

from __future__ import annotations


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
