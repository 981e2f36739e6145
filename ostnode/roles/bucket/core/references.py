"""Forwarding and removing references."""

from __future__ import annotations

from blake3 import blake3

from ostnode.errors import (
    DataCorruptError,
    GrantInvalidError,
    NotFoundError,
    OstError,
    TokenInvalidError,
)
from ostnode.identity.tokens import AccessToken
from ostnode.ids import Principal
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.admission import Ask, admit, learn_user
from ostnode.roles.bucket.core.closing import remove_reference
from ostnode.roles.bucket.core.completion import complete
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.core.reading import Access, find_readable
from ostnode.roles.bucket.core.rules import Rules
from ostnode.roles.bucket.records import SingleUse
from ostnode.wire import messages as m


def forward(draft: Draft, rules: Rules, ask: Ask, access: Access | None) -> m.PushResult | OstError:
    """Make a blob that the caller can read visible to others, charged to the caller's uid.

    `access` is None when what the caller showed was no good; that is told as late as all else.
    An error that is returned goes with records that must be staged first; one that is raised
    changes nothing.
    """
    answer = admit(draft, rules, ask)
    if answer is not None:
        return answer
    if access is None:
        raise NotFoundError
    try:
        readable = find_readable(draft, access, ask.now)
    except DataCorruptError:
        # As when it is absent: whoever has the bytes pushes them, and all references are healed.
        raise NotFoundError from None
    if readable.blob.size != ask.upload.size:
        raise GrantInvalidError("the grant states another size than the blob has")
    learn_user(draft, ask)
    return complete(draft, rules, ask.upload, readable.blob.number, ask.now)


def remove(
    draft: Draft,
    rules: Rules,
    key: m.ReferenceKey,
    caller: Principal,
    token: AccessToken | None,
    now: float,
) -> None:
    """Remove one reference: for its owner, or by a token that was verified for the accessor.

    A token's first result is kept: the same request gets it again, any other is refused.
    Raises NotFoundError for a reference that does not count (an expired row goes even so), and
    TokenInvalidError.
    """
    name = t.ReferenceId(key.blob_id, key.accessor, key.owner, key.ref_id)
    if token is None:
        if not draft.owns(caller, key.owner):
            raise NotFoundError
        _remove(draft, name, now)
        return
    token.require_reference_deletion(key.blob_id, key.owner, key.ref_id, caller)
    used = blake3(token.accessor + token.cti).digest()
    target = blake3(name.pack()).digest()
    before = draft.single_use(used)
    if before is None:
        _remove(draft, name, now)
        draft.add(SingleUse(used, target, token.expires_at + rules.skew_s))
    elif before != target:
        raise TokenInvalidError("the token was used for another reference")


def _remove(draft: Draft, name: t.ReferenceId, now: float) -> None:
    counted = draft.stands(name, now) is not None
    if draft.reference(name) is not None:
        remove_reference(draft, name)
    if not counted:
        raise NotFoundError
