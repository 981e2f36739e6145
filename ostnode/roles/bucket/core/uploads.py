"""Pushing: what one chunk does to its grant's upload.

Uploads are keyed by grant, so nobody can touch another's. Each function decides on one state,
in the order that `push_chunk` is specified, and leaves in the draft what must be written.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from ostnode.errors import (
    BucketFullError,
    BusyError,
    GrantExpiredError,
    HashMismatchError,
    NotFoundError,
    OstError,
    UploadConflictError,
)
from ostnode.ids import BlobId, Principal
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.admission import Ask, admit, answer_again, learn_user
from ostnode.roles.bucket.core.chunks import check_chunk, count_chunks
from ostnode.roles.bucket.core.closing import close_upload
from ostnode.roles.bucket.core.completion import complete
from ostnode.roles.bucket.core.draft import Draft, Pushed
from ostnode.roles.bucket.core.healing import must_come_again
from ostnode.roles.bucket.core.rules import Rules
from ostnode.roles.bucket.records import ChunkMatched, GrantRenewed, Reason, Upload
from ostnode.roles.bucket.views import View
from ostnode.wire import messages as m


@dataclass(frozen=True, slots=True)
class Received:
    """The chunk is the upload's; so many are missing."""

    number: int
    missing: int


def accept(
    draft: Draft, rules: Rules, ask: Ask, pushed: Pushed, free: int
) -> Received | m.PushResult | OstError:
    """One chunk of several. `free` is the disk's room in bytes.

    An error that is returned goes with records that must be staged first; one that is raised
    changes nothing.
    """
    answer = admit(draft, rules, ask)
    if answer is not None:
        return answer
    upload = ask.upload
    check_chunk(upload, pushed.index, len(pushed.body))
    number = _continued(draft, ask)
    if number is not None and draft.has_chunk(number, pushed.index):
        return Received(number, missing(draft, number, upload))
    if number is None:
        _check_uploads(draft, rules, upload)
        refusal = _refuse_without_room(draft, rules, upload, free)
        if refusal is not None:
            return refusal
        number = _open(draft, ask)
    left = missing(draft, number, upload) - 1
    commit = _matched(draft, upload, pushed)
    if commit is None:
        draft.add_chunk(upload.blob_id, number, pushed)
    else:
        matched = ChunkMatched(commit)
        draft.add(matched, blob=upload.blob_id, number=number, chunk_index=pushed.index)
    return Received(number, left)


def accept_whole(
    draft: Draft, rules: Rules, ask: Ask, pushed: Pushed, free: int
) -> m.PushResult | OstError:
    """The only chunk of a blob: everything from opening to completion in one group.

    Room is asked for even when a copy is stored, so that the answer does not tell.
    """
    answer = admit(draft, rules, ask)
    if answer is not None:
        return answer
    upload = ask.upload
    check_chunk(upload, pushed.index, len(pushed.body))
    if not pushed.verified:
        close_upload(draft, upload, Reason.HASH_MISMATCH)
        return HashMismatchError()
    refusal = _refuse_without_room(draft, rules, upload, free)
    if refusal is not None:
        return refusal
    if draft.sound_blob(upload.blob_id) is not None:
        learn_user(draft, ask)
        return complete(draft, rules, upload, 0, ask.now)
    number = _open(draft, ask)
    draft.add_chunk(upload.blob_id, number, pushed)
    return complete(draft, rules, upload, number, ask.now)


def finish(
    draft: Draft, rules: Rules, upload: Upload, number: int, now: float, *, verified: bool
) -> m.PushResult | OstError | None:
    """All chunks of an upload are there and were hashed; much may have happened meanwhile.

    None when some must be looked at again: what they equalled is damaged.
    """
    grant = draft.grant(upload.grant_id)
    if isinstance(grant, t.ClosedGrant):
        return answer_again(draft, rules, upload, grant, now)
    if grant is None:
        raise GrantExpiredError("the grant is over; allocate again")
    if draft.progress(number).end <= draft.number(t.FLOOR):
        raise GrantExpiredError("the grant is over; allocate again")
    if must_come_again(draft, number, upload):
        return None
    left = missing(draft, number, upload)
    if left:  # found damaged after they were hashed: dropped, to be pushed again
        return m.PushResult(left)
    if not verified:
        close_upload(draft, upload, Reason.HASH_MISMATCH)
        return HashMismatchError()
    return complete(draft, rules, upload, number, now)


def missing(view: View, number: int, upload: Upload) -> int:
    """How many chunks an open upload still waits for."""
    return count_chunks(upload) - view.progress(number).chunks


def _matched(view: View, upload: Upload, pushed: Pushed) -> int | None:
    """The commit of a stored copy of the blob that has the same bytes at the same place."""
    stored = view.sound_blob(upload.blob_id)
    if stored is None or (stored.size, stored.chunk_bytes) != (upload.size, upload.chunk_bytes):
        return None
    row = view.chunk(stored.number, pushed.index)
    if row is None or row.digest != pushed.digest:
        return None
    return stored.commit


def _continued(draft: Draft, ask: Ask) -> int | None:
    """The grant's open upload, if its first chunk said the same; its end moves with the grant's."""
    grant = draft.grant(ask.upload.grant_id)
    if not isinstance(grant, t.OpenGrant):
        return None
    upload = draft.upload(grant.number)
    if upload is None or _said(upload) != _said(ask.upload):
        raise UploadConflictError("the upload was begun with other parameters")
    if ask.upload.end > draft.progress(grant.number).end:
        draft.add(GrantRenewed(ask.upload.end), blob=upload.blob_id, number=grant.number)
    return grant.number


def _said(upload: Upload) -> tuple[object, ...]:
    """All of an upload that must stay the same from chunk to chunk."""
    return (
        upload.uid,
        upload.blob_id,
        upload.size,
        upload.chunk_bytes,
        upload.accessors,
        upload.ref_id,
        upload.content_type,
        upload.filename,
        upload.expires_at,
    )


def _open(draft: Draft, ask: Ask) -> int:
    learn_user(draft, ask)
    number = draft.next_seq
    draft.add(ask.upload, blob=ask.upload.blob_id, number=number)
    return number


def _check_uploads(view: View, rules: Rules, upload: Upload) -> None:
    most = rules.user_uploads_max
    if len(list(islice(view.uploads_of(upload.uid), most))) == most:
        raise BusyError(f"a user has at most {most} uploads at once")


def _refuse_without_room(
    draft: Draft, rules: Rules, upload: Upload, free: int
) -> BucketFullError | None:
    """The first chunk asks for the room of all; a bucket that has none hands the grant back."""
    if upload.size + draft.number(t.PROMISED) + rules.free_bytes_min <= free:
        return None
    close_upload(draft, upload, Reason.BUCKET_FULL)
    return BucketFullError()


def find_upload(view: View, caller: Principal, blob_id: BlobId) -> tuple[int, Upload]:
    """The caller's latest open upload of a blob; raises NotFoundError when there is none."""
    numbers = [number for uid in view.uids(caller) for number in view.uploads_of(uid, blob_id)]
    for number in sorted(numbers, reverse=True):
        upload = view.upload(number)
        if upload is not None:
            return number, upload
    raise NotFoundError


def cancel(draft: Draft, caller: Principal, blob_id: BlobId) -> None:
    """Give up every open upload that the caller has of a blob; none is as good as cancelled."""
    for uid in draft.uids(caller):
        for number in list(draft.uploads_of(uid, blob_id)):
            upload = draft.upload(number)
            if upload is not None:
                close_upload(draft, upload, Reason.CANCELLED)
