"""Remembering what has been verified, so that a hot token costs one look-up."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class VerifiedCache(Generic[T]):
    """Bounded memory of verified statements by their bytes, until they expire.

    Only what the bytes alone decide may be remembered: `get` vouches for the signature, the form
    and the end, and the asker still compares accessor, cluster, scope, target and caller with the
    request. The least recently used entry leaves first; anybody can sign tokens of a key of their
    own, so being full is normal, never an error.
    """

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[bytes, tuple[int, T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, data: bytes, now: float) -> T | None:
        """What these bytes were verified to be; None if unknown, or if their time is over."""
        entry = self._entries.get(data)
        if entry is None:
            return None
        expires_at, value = entry
        if now >= expires_at:
            del self._entries[data]
            return None
        self._entries.move_to_end(data)
        return value

    def put(self, data: bytes, value: T, expires_at: int) -> None:
        """Remember a verified statement until `expires_at` (seconds since 1970, without skew)."""
        self._entries[data] = (expires_at, value)
        self._entries.move_to_end(data)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
