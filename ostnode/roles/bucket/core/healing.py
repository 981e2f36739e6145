"""Damage: what it takes from a blob or an upload, and how that comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ostnode.ids import BlobId
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.chunks import count_chunks
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.records import ChunksDropped, Commit, Healed, Tombstone, Upload
from ostnode.wire import events as e
from ostnode.wire import messages as m

LOST_MAX: Final = 512
"""Chunks dropped in one decision."""
_NO_NEWS: Final = e.FloorRaised(0)
"""An event that tells nothing: no grant ends at or before 0."""


def store_anew(draft: Draft, blob_id: BlobId, number: int, commit: Commit) -> None:
    """The verified chunks of an upload become the blob, in the place of a damaged copy.

    All references to it read the new one.
    """
    stored = draft.blob(blob_id)
    if stored is not None:
        draft.add(Tombstone(stored.commit), blob=blob_id, number=stored.number)
    if draft.quarantined(blob_id):
        draft.add(Healed(), blob=blob_id)
    draft.add(commit, blob=blob_id, number=number)


def lose_chunks(draft: Draft, number: int, indexes: Sequence[int]) -> m.PushResult | None:
    """Drop chunks of an open upload whose bytes are no good: the client pushes them again.

    None when the upload has ended.
    """
    upload = draft.upload(number)
    if upload is None:
        return None
    for index in indexes:
        if draft.has_chunk(number, index):
            draft.add(ChunksDropped(index, index), blob=upload.blob_id, number=number)
    return m.PushResult(count_chunks(upload) - draft.progress(number).chunks)


def must_come_again(draft: Draft, number: int, upload: Upload) -> bool:
    """Whether some of its chunks are only the stored blob's, and that is damaged or gone."""
    if draft.sound_blob(upload.blob_id) is not None:
        return False
    return draft.number(t.PINS + upload.blob_id + t.u64(number)) > 0


def fill_outbox(draft: Draft, numbers: Sequence[int]) -> None:
    """Events that were lost leave gaps, which the index would not go past; these say nothing."""
    for number in numbers:
        draft.tell_as(number, _NO_NEWS)
