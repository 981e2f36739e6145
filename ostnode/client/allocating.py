"""Rounds of allocate-and-use: what uploads and forwards have in common.

A grant can die under way: its time ends, the bucket fills up, it was closed, the blob's bucket
is another now. Then the index is asked for a new one, up to a number of rounds without progress.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from ostnode.client.calls import IndexCalls
from ostnode.client.options import ClientOptions
from ostnode.env import Rng
from ostnode.errors import (
    BucketFullError,
    BusyError,
    GrantClosedError,
    GrantExpiredError,
    OstError,
    WrongBucketError,
)
from ostnode.ids import BlobId, Principal
from ostnode.wire import messages as m

ALLOCATE_ANEW: Final = (GrantClosedError, GrantExpiredError, BucketFullError, WrongBucketError)

Use = Callable[[m.Allocation], Awaitable[m.BlobReference | None]]
"""Uses an allocation; None when another upload of the same blob is still finishing."""


@dataclass(frozen=True, slots=True)
class ReferenceParams:
    """What a new reference says; the same with every chunk of an upload."""

    accessors: tuple[Principal, ...]
    ref_id: bytes
    content_type: str
    filename: str | None
    expires_at: int


@dataclass(frozen=True, slots=True)
class UploadedBlob:
    """A blob that is stored and referred to.

    `reference` goes into the chat message, `bucket` says where it is now. `chunks_sent` of
    `chunks_total` were accepted from this call: the rest had arrived before, or no bytes were
    needed.
    """

    reference: m.BlobReference
    bucket: m.BucketAddress
    chunks_sent: int = 0
    chunks_total: int = 0


@dataclass(frozen=True, slots=True)
class Allocating:
    """Allocates at the index, within the options' limits."""

    index: IndexCalls
    options: ClientOptions
    rng: Rng

    async def rounds(
        self, blob_id: BlobId, size: int, use: Use, progress: Callable[[], int] = lambda: 0
    ) -> tuple[m.BlobReference, m.BucketAddress]:
        """Use one allocation after the other until there is a reference.

        `progress` counts what has been achieved; rounds in which it stands still are bounded,
        the last one's error is raised. All other refusals are raised at once.
        """
        fruitless, achieved = 0, progress()
        while True:
            error: OstError = BusyError("another upload of this blob is not finished yet")
            try:
                allocation = await self.index.allocated_bucket(blob_id, size)
                reference = await use(allocation)
                if reference is not None:
                    return reference, allocation.bucket
            except ALLOCATE_ANEW as refusal:
                error = refusal
            if progress() > achieved:
                fruitless, achieved = 0, progress()
            fruitless += 1
            if fruitless >= self.options.fruitless_rounds_max:
                raise error
            ceiling_s = self.options.retry.ceiling_s(fruitless)
            await trio.sleep(self.rng.uniform(0.0, ceiling_s))
