"""The denylist of blobs, as operators keep it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from ostnode.ids import BlobId
from ostnode.wire.fields import Bounds, Message, Request

BLOCKED_TOLD_MAX: Final = 500
"""Of one page."""


@dataclass(frozen=True, slots=True)
class BlockBlob(Request):
    """Have a blob refused everywhere, or no longer; it need not be stored."""

    blob_id: BlobId
    blocked: bool = True


@dataclass(frozen=True, slots=True)
class ListBlocked(Request):
    """A page of the blobs that are blocked, those whose id comes after `after`."""

    after: BlobId | None = None


@dataclass(frozen=True, slots=True)
class BlockedPage(Message):
    """Blobs in order of their ids; there are more when there are BLOCKED_TOLD_MAX of them."""

    blobs: Annotated[tuple[BlobId, ...], Bounds(0, BLOCKED_TOLD_MAX)] = ()
