"""What follows from deletions and from time, in slices small enough to stand between requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from ostnode.ids import BlobId, Principal, Uid
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.closing import close_upload, remove_reference
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.records import (
    ChunksDropped,
    GrantsForgotten,
    Reason,
    SingleUseForgotten,
    Swept,
)
from ostnode.wire import events as e

REFERENCES_MAX: Final = 16
"""Removed in one slice: some 4 ms of the event loop, for which every other request may have to wait
(`bench/delete_accessor.py`: with 64 the slowest hundredth of them took three times as long)."""
UPLOADS_MAX: Final = 64
"""Closed in one slice."""
CHUNKS_MAX: Final = 512
"""Rows dropped in one slice."""
FORGOTTEN_MAX: Final = 250
"""Closed grants or used tokens in one record."""
GRACE_S: Final = 120
"""Past its end, a grant's upload waits this long for a chunk under the renewed grant."""


def sweep_slice(draft: Draft, now: float) -> bool:
    """Draw a slice of what is to be drawn; whether there may be more, of the same or behind it."""
    targets = draft.sweeps(1)
    if targets:
        _sweep(draft, targets[0])
    else:
        _forget(draft, now)
        _expire_references(draft, now)
    return bool(draft.records)


def _sweep(draft: Draft, target: bytes) -> None:
    """One slice for a burned accessor, a deleted uid, an eviction, or an ended upload's chunks."""
    done = _SWEEPS[target[:1]](draft, target[1:])
    if done:
        draft.add(Swept(target))


def _sweep_accessor(draft: Draft, name: bytes) -> bool:
    return _remove_some(draft, draft.references_for(Principal(name)))


def _sweep_user(draft: Draft, name: bytes) -> bool:
    """A deleted uid's open uploads go first."""
    uid = Uid(name)
    numbers = list(islice(draft.uploads_of(uid), UPLOADS_MAX))
    for number in numbers:
        upload = draft.upload(number)
        if upload is not None:
            close_upload(draft, upload, Reason.USER_DELETED)
    return not numbers and _remove_some(draft, draft.references_of(uid))


def _sweep_eviction(draft: Draft, name: bytes) -> bool:
    """The index hears of the end even when there was nothing: it waits for that."""
    uid, blob_id = Uid(name[: Uid.length]), BlobId(name[Uid.length :])
    done = _remove_some(draft, draft.references_of(uid, blob_id))
    if done:
        draft.tell(e.Evicted(uid, blob_id))
    return done


def _remove_some(draft: Draft, references: Iterable[t.ReferenceId]) -> bool:
    some = list(islice(references, REFERENCES_MAX))
    for name in some:
        remove_reference(draft, name)
    return len(some) < REFERENCES_MAX


def _sweep_chunks(draft: Draft, name: bytes) -> bool:
    number = t.number_of(name)
    indexes = draft.chunk_indexes(number, CHUNKS_MAX)
    if indexes:
        draft.add(ChunksDropped(indexes[-1]), number=number)
    # Never due without a chunk left: closings and tombstones say so when the log is read again.
    return not draft.chunk_indexes(number, 1)


_SWEEPS: Final[dict[bytes, Callable[[Draft, bytes], bool]]] = {
    t.SWEEP_ACCESSOR: _sweep_accessor,
    t.SWEEP_USER: _sweep_user,
    t.SWEEP_CHUNKS: _sweep_chunks,
    t.SWEEP_EVICTION: _sweep_eviction,
}


def _expire_references(draft: Draft, now: float) -> None:
    for name in draft.expired_references(now, REFERENCES_MAX):
        remove_reference(draft, name)


def _forget(draft: Draft, now: float) -> None:
    """Closed grants that the floor has passed, and used tokens that are over."""
    grants = draft.grants_ended(draft.number(t.FLOOR), FORGOTTEN_MAX)
    if grants:
        draft.add(GrantsForgotten(tuple(grants)))
    tokens = draft.single_uses_ended(now, FORGOTTEN_MAX)
    if tokens:
        draft.add(SingleUseForgotten(tuple(tokens)))


def expire_upload(draft: Draft, number: int, *, stalled: bool) -> None:
    """Close an open upload whose grant is over, or that has stalled."""
    upload = draft.upload(number)
    if upload is None:
        return
    if stalled or draft.progress(number).end + GRACE_S <= draft.number(t.FLOOR):
        close_upload(draft, upload, Reason.EXPIRED)
