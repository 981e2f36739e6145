"""Ends: of grants, and of references."""

from __future__ import annotations

from dataclasses import replace

from ostnode.ids import BlobId
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.records import GrantClosed, Reason, ReferenceRemoved, Upload
from ostnode.wire import events as e


def close_upload(draft: Draft, upload: Upload, reason: Reason) -> None:
    """Kill the grant of an upload, begun or not, and all it has stored."""
    closed = GrantClosed(upload.grant_id, upload.uid, reason, seen=upload.end)
    close_grant(draft, closed, upload.blob_id)


def close_grant(draft: Draft, closed: GrantClosed, blob_id: BlobId) -> None:
    """Kill a grant that is not closed yet, without a completion, and tell the index.

    A blob that only the grant's upload kept goes as well.
    """
    add_closed(draft, closed, blob_id)
    draft.tell(e.GrantClosed(closed.grant_id, closed.uid, blob_id, closed.reason))
    draft.release(blob_id)


def add_closed(draft: Draft, closed: GrantClosed, blob_id: BlobId) -> None:
    """The record, which says all: whose upload ends, and the latest end that was seen."""
    grant = draft.grant(closed.grant_id)
    number = grant.number if isinstance(grant, t.OpenGrant) else 0
    seen = max(closed.seen, draft.progress(number).end)
    draft.add(replace(closed, seen=seen), blob=blob_id, number=number)


def remove_reference(draft: Draft, name: t.ReferenceId) -> None:
    """Remove a reference that has a row. The last of its uid frees the charge, the last of all
    the blob.
    """
    stored = draft.blob(name.blob_id)
    draft.add(ReferenceRemoved(name.uid, name.accessor, name.ref_id), blob=name.blob_id)
    if not draft.has_references(name.uid, name.blob_id):
        # The index frees what it charged; the size is for the reader of an event. It is unknown
        # when damage took the commit.
        size = 0 if stored is None else stored.size
        draft.tell(e.Released(name.uid, name.blob_id, size))
    draft.release(name.blob_id)
