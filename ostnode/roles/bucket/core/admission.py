"""May a grant be used now, by this caller, for this? What pushes and forwards check alike."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Final

from blake3 import blake3

from ostnode.codec import encode
from ostnode.errors import (
    AccessorDeletedError,
    BlobBlockedError,
    BusyError,
    GrantClosedError,
    GrantExpiredError,
    GrantInvalidError,
    InvalidArgumentError,
    NotAuthorizedError,
    OstError,
    UserUnknownError,
)
from ostnode.identity.tokens import Grant
from ostnode.ids import NULL_ACCESSOR, BlobId, Principal, Uid
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.closing import close_upload, remove_reference
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.core.rules import Rules
from ostnode.roles.bucket.records import GrantClosed, Reason, Upload, User
from ostnode.roles.bucket.views import View, closed_payload
from ostnode.wire import messages as m

_LOOKED_AT_MAX: Final = 1024
"""References looked at to find one that counts. The sweeper keeps expired ones far below."""
_REMOVED_MAX: Final = 64
"""References that count no more, removed with a request, some 20 ms; more are left to the sweeper's
slices."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One push or forward: who asks, with which verified grant, for what, and when."""

    caller: Principal
    grant: Grant
    upload: Upload
    now: float


def ask_for(
    caller: Principal, grant: Grant, request: m.PushChunk | m.AddReference, now: float
) -> Ask:
    """What a request and its grant say together. No accessors stand for the null accessor."""
    upload = Upload(
        grant_id=grant.grant_id,
        uid=grant.uid,
        blob_id=grant.blob_id,
        size=grant.size,
        chunk_bytes=grant.chunk_bytes,
        reserved=grant.reserved,
        end=grant.expires_at,
        accessors=tuple(dict.fromkeys(request.accessors)) or (NULL_ACCESSOR,),
        ref_id=request.ref_id,
        content_type=request.content_type,
        filename=request.filename,
        expires_at=request.expires_at,
    )
    return Ask(caller, grant, upload, now)


def admit(draft: Draft, rules: Rules, ask: Ask) -> m.PushResult | OstError | None:
    """None when the grant may be used.

    A PushResult is the answer to a completed grant's request made again. An error that is
    returned goes with records that must be staged first; one that is raised changes nothing.
    """
    upload = ask.upload
    require_user(draft, ask.caller, ask.grant)
    if draft.blocked(ask.caller):
        raise NotAuthorizedError("this principal is blocked")
    _check_grant(draft, ask)
    grant = draft.grant(upload.grant_id)
    if isinstance(grant, t.ClosedGrant):
        return answer_again(draft, rules, upload, grant, ask.now)
    if draft.deleted(upload.uid):
        raise UserUnknownError("this registration has been deleted")
    if all(draft.burned(accessor) for accessor in _accessors(draft, grant, upload)):
        if grant is None:
            raise AccessorDeletedError
        close_upload(draft, upload, Reason.ACCESSOR_DELETED)
        return AccessorDeletedError()
    if draft.blob_blocked(upload.blob_id):
        raise BlobBlockedError
    if 0 < upload.expires_at <= ask.now:
        raise InvalidArgumentError("the reference would have expired already")
    return refuse_unheld(draft, upload, ask.now)


def _accessors(view: View, grant: t.OpenGrant | None, upload: Upload) -> tuple[Principal, ...]:
    """Whom the use is for: an upload that was begun keeps its word, whatever is asked now."""
    begun = None if grant is None else view.upload(grant.number)
    return (begun or upload).accessors


def require_user(view: View, caller: Principal, grant: Grant) -> None:
    """Raise GrantInvalidError unless the grant is the caller's.

    It follows its registration: to the principal it was signed for, and to the present one.
    """
    if caller != grant.user and not view.owns(caller, grant.uid):
        raise GrantInvalidError("the grant is another user's")


def _check_grant(view: View, ask: Ask) -> None:
    incarnation, _ = view.feed_cursor()
    if incarnation and ask.grant.grant_id.incarnation != incarnation:
        raise GrantInvalidError("the grant is of another life of the index; allocate again")
    if ask.grant.bucket_incarnation != view.number(t.INCARNATION):
        # Verified a moment ago, while the bucket learned that it was set back.
        raise GrantInvalidError("the grant is of another life of this bucket; allocate again")
    if ask.grant.expires_at <= view.number(t.FLOOR):
        raise GrantExpiredError("the grant is over; allocate again")


def answer_again(
    view: View, rules: Rules, upload: Upload, closed: t.ClosedGrant, now: float
) -> m.PushResult:
    """A completed grant's answer, to the same request, while what it made stands.

    Raises GrantClosedError otherwise.
    """
    payload = closed_payload(closed)
    same = (payload.reason, payload.uid, closed.blob_id, payload.parameters) == (
        Reason.COMPLETED,
        upload.uid,
        upload.blob_id,
        parameters_digest(upload),
    )
    if same and all(view.stands(name, now) for name in _names(payload, closed.blob_id)):
        return completed_answer(rules, payload, closed.blob_id)
    raise _closed_error(payload.reason)


def completed_answer(rules: Rules, payload: GrantClosed, blob_id: BlobId) -> m.PushResult:
    """What the completion of a grant is answered with, every time."""
    reference = m.BlobReference(
        blob_id, payload.size, rules.bucket, payload.uid, payload.accessors, payload.ref_id
    )
    return m.PushResult(0, reference)


def _names(payload: GrantClosed, blob_id: BlobId) -> list[t.ReferenceId]:
    return [
        t.ReferenceId(blob_id, accessor, payload.uid, payload.ref_id)
        for accessor in payload.accessors
    ]


def _closed_error(reason: str) -> GrantClosedError:
    """The refusal of a dead grant."""
    return GrantClosedError(f"the grant is closed ({reason}); allocate again", reason=str(reason))


def parameters_digest(upload: Upload) -> bytes:
    """Digest of what a request says beside its grant: equal for the same request made again."""
    said = [
        list(upload.accessors),
        upload.ref_id,
        upload.content_type,
        upload.filename,
        upload.expires_at,
    ]
    return blake3(encode(said)).digest()


def refuse_unheld(draft: Draft, upload: Upload, now: float) -> GrantClosedError | None:
    """Close a grant that reserves nothing because of a charge whose references are gone, or going.

    A grant that reserves nothing for an empty blob has reserved all it needs.
    """
    if upload.reserved == upload.size:
        return None
    evicting = draft.evicting(upload.uid, upload.blob_id)
    if not evicting and _holds(draft, upload.uid, upload.blob_id, now):
        return None
    close_upload(draft, upload, Reason.NOT_HELD)
    return _closed_error(Reason.NOT_HELD)


def _holds(draft: Draft, uid: Uid, blob_id: BlobId, now: float) -> bool:
    """Whether a reference of the uid to the blob counts; if none does, they go.

    Expired or of deleted accessors: the index drops the charge now, and not before its references.
    """
    names = list(islice(draft.references_of(uid, blob_id), _LOOKED_AT_MAX + 1))
    if any(draft.stands(name, now) for name in names[:_LOOKED_AT_MAX]):
        return True
    if len(names) > _REMOVED_MAX:
        raise BusyError("references are being swept; try again")
    for name in names:
        remove_reference(draft, name)
    return False


def learn_user(draft: Draft, ask: Ask) -> None:
    """Remember whose uid this is when the feed has not told yet."""
    if draft.user(ask.upload.uid) is None:
        draft.add(User(ask.upload.uid, ask.grant.user, version=0, bytes_left=0, deleted=False))
