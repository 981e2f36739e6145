"""What a verified grant's use ends in: references, a charge, and a dead grant, all at once."""

from __future__ import annotations

from ostnode.errors import (
    AccessorDeletedError,
    AllowanceExceededError,
    BlobBlockedError,
    OstError,
    UserUnknownError,
)
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.admission import (
    completed_answer,
    parameters_digest,
    refuse_unheld,
)
from ostnode.roles.bucket.core.closing import add_closed, close_upload
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.core.healing import store_anew
from ostnode.roles.bucket.core.rules import Rules
from ostnode.roles.bucket.records import (
    Commit,
    GrantClosed,
    Reason,
    ReferenceAdded,
    ReferenceRemoved,
    Upload,
)
from ostnode.wire import events as e
from ostnode.wire import messages as m


def complete(
    draft: Draft, rules: Rules, upload: Upload, number: int, now: float
) -> m.PushResult | OstError:
    """Make the references of a grant whose blob is known to be whole, and close the grant.

    The chunks of upload `number` become the blob unless a sound copy is stored already; then the
    number does not matter. User, accessors, holding and denylist are checked here and now, because
    hashing took time. An error that is returned goes with records; one that is raised changes
    nothing.
    """
    if draft.deleted(upload.uid):
        close_upload(draft, upload, Reason.USER_DELETED)
        return UserUnknownError("this registration has been deleted")
    if draft.blob_blocked(upload.blob_id):
        raise BlobBlockedError
    refusal = refuse_unheld(draft, upload, now)
    if refusal is not None:
        return refusal
    accessors = tuple(acc for acc in upload.accessors if not draft.burned(acc))
    if not accessors:
        close_upload(draft, upload, Reason.ACCESSOR_DELETED)
        return AccessorDeletedError()
    names = [t.ReferenceId(upload.blob_id, acc, upload.uid, upload.ref_id) for acc in accessors]
    _check_count(draft, rules, names)
    if draft.sound_blob(upload.blob_id) is None:
        commit = Commit(upload.size, upload.chunk_bytes, int(now))
        store_anew(draft, upload.blob_id, number, commit)
    for name in names:
        _refer(draft, upload, name, now)
    closed = GrantClosed(
        grant_id=upload.grant_id,
        uid=upload.uid,
        reason=Reason.COMPLETED,
        seen=upload.end,
        parameters=parameters_digest(upload),
        size=upload.size,
        accessors=accessors,
        ref_id=upload.ref_id,
    )
    add_closed(draft, closed, upload.blob_id)
    draft.tell(e.Completed(upload.grant_id, upload.uid, upload.blob_id, upload.size))
    return completed_answer(rules, closed, upload.blob_id)


def _check_count(draft: Draft, rules: Rules, names: list[t.ReferenceId]) -> None:
    count = draft.reference_count(names[0].uid)
    needed = sum(draft.reference(name) is None for name in names)
    if count + needed > rules.user_references_max:
        raise AllowanceExceededError(
            f"a user has at most {rules.user_references_max} references",
            references_max=rules.user_references_max,
            references=count,
        )


def _refer(draft: Draft, upload: Upload, name: t.ReferenceId, now: float) -> None:
    """Add a reference; one that is there stays as it is, one that has expired gives way.

    Its uid goes on holding the blob, so nothing is released in between.
    """
    row = draft.reference(name)
    if row is not None and not row.expired(now):
        return
    if row is not None:
        draft.add(ReferenceRemoved(name.uid, name.accessor, name.ref_id), blob=name.blob_id)
    added = ReferenceAdded(
        uid=name.uid,
        accessor=name.accessor,
        ref_id=name.ref_id,
        content_type=upload.content_type,
        filename=upload.filename,
        expires_at=upload.expires_at,
        created_at=int(now),
    )
    draft.add(added, blob=name.blob_id)
