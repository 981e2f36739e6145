"""Who may read what. Absent, unreferenced and denied are one refusal: NotFoundError, no details."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ostnode.errors import BusyError, DataCorruptError, NotFoundError, TokenInvalidError
from ostnode.identity.tokens import AccessToken
from ostnode.ids import BlobId, Principal
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.views import View

_LOOKED_AT_MAX: Final = 1024
"""References looked at to find one that counts: some 8 ms, in which nobody else gets a turn."""


@dataclass(frozen=True, slots=True)
class Access:
    """A caller's way to a blob: through an accessor's token, or as an owner without one.

    Whoever makes one has verified the token for the accessor. An owner names its own principal.
    """

    caller: Principal
    accessor: Principal
    blob_id: BlobId
    token: AccessToken | None


@dataclass(frozen=True, slots=True)
class Readable:
    """What a read goes by: a reference that counts, and the stored blob."""

    name: t.ReferenceId
    reference: t.ReferenceRow
    blob: t.BlobRow


def find_readable(view: View, access: Access, now: float) -> Readable:
    """The way to the bytes. Nothing about the blob is looked up before the token is good.

    Raises DataCorruptError, which tells that there is a blob only to those who may read it, and
    BusyError when it lies behind too many references that wait to be swept.
    """
    if view.blocked(access.caller) or view.blob_blocked(access.blob_id):
        raise NotFoundError
    for looked_at, name in enumerate(_candidates(view, access)):
        if looked_at == _LOOKED_AT_MAX:
            raise BusyError("references are being swept; try again")
        reference = view.stands(name, now)
        if reference is not None:
            if view.quarantined(access.blob_id):
                raise DataCorruptError("the blob is quarantined")
            blob = view.blob(access.blob_id)
            if blob is not None:
                return Readable(name, reference, blob)
    raise NotFoundError


def still_readable(view: View, access: Access, known: Readable, now: float) -> Readable:
    """The same a moment later: the known reference if it still counts, else another one."""
    blob = view.sound_blob(access.blob_id)
    blocked = view.blob_blocked(access.blob_id)
    if blob is not None and not blocked and view.stands(known.name, now) is not None:
        return Readable(known.name, known.reference, blob)
    return find_readable(view, access, now)


def _candidates(view: View, access: Access) -> Iterator[t.ReferenceId]:
    if access.token is None:
        if access.accessor == access.caller:
            for uid in view.uids(access.caller):
                yield from view.references_of(uid, access.blob_id)
        return
    try:
        access.token.require_read(access.blob_id, access.caller)
    except TokenInvalidError:
        raise NotFoundError from None
    if not view.burned(access.accessor):
        yield from view.references_to(access.blob_id, access.accessor)
