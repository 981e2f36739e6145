"""What operators read: findings of comparisons, and outbox events that were set aside."""

from __future__ import annotations

from typing import Final

from ostnode.errors import InvalidArgumentError
from ostnode.ids import BlobId, Principal, Uid
from ostnode.roles.index.core.checking import Kind
from ostnode.roles.index.core.rows import Finding
from ostnode.roles.index.core.tables import Tables
from ostnode.wire import checking as c

_START: Final = (b"", "", b"")
_PRINCIPAL_BYTES: Final = 32
DISMISSED_MAX: Final = 500


def list_findings(tables: Tables, request: c.ListFindings) -> c.FindingPage:
    """A page behind the place `after`; raises InvalidArgumentError for one that is none."""
    place = _place_of(request.after) if request.after else _START
    if request.bucket is not None:
        place = max(place, (bytes(request.bucket), "", b""))
    rows = tables.findings_after(place, c.FINDINGS_TOLD_MAX)
    told = [row for row in rows if request.bucket in {None, row.bucket}]
    more = len(told) == c.FINDINGS_TOLD_MAX
    return c.FindingPage(tuple(map(_told, told)), _as_bytes(told[-1]) if more else b"")


def list_rejected(tables: Tables, request: c.ListRejected) -> c.RejectedPage:
    """A page of events that could not be applied."""
    rows = tables.rejected_after(request.bucket or b"", request.seq, c.REJECTED_TOLD_MAX + 1)
    events = tuple(
        c.SetAside(row.bucket, row.seq, row.reason, row.event, row.rejected_at)
        for row in rows[: c.REJECTED_TOLD_MAX]
    )
    return c.RejectedPage(events, more=len(rows) > c.REJECTED_TOLD_MAX)


def dismiss(tables: Tables, request: c.DismissRejected) -> None:
    """Forget one event, or up to DISMISSED_MAX of a bucket; one that is gone is no error."""
    if request.seq:
        tables.rejected.drop(request.bucket, request.seq)
        return
    for row in tables.rejected_after(request.bucket, 0, DISMISSED_MAX):
        if row.bucket == request.bucket:
            tables.rejected.drop(row.bucket, row.seq)


def _told(row: Finding) -> c.CheckFinding:
    kind, key = Kind(row.kind), row.key
    by_uid = kind is not Kind.ORPHAN_RESERVATION and len(key) in {8, 40}
    by_blob = len(key) in {32, 40}
    return c.CheckFinding(
        kind=row.kind,
        bucket=Principal(row.bucket) if row.bucket else None,
        uid=Uid(key[:8]) if by_uid else None,
        blob_id=BlobId(key[-32:]) if by_blob else None,
        grant_id=b"" if by_uid or by_blob else key,
        # A damaged sum may have fallen below 0, and no message carries that.
        expected=max(0, row.expected),
        found=max(0, row.found),
        found_at=row.found_at,
        repaired=row.repaired,
    )


def _as_bytes(row: Finding) -> bytes:
    bucket = row.bucket.rjust(_PRINCIPAL_BYTES, b"\0")
    return bucket + len(row.kind).to_bytes(1, "big") + row.kind.encode() + row.key


def _place_of(data: bytes) -> tuple[bytes, str, bytes]:
    bucket, rest = data[:_PRINCIPAL_BYTES], data[_PRINCIPAL_BYTES:]
    length = 1 + rest[0] if rest else 0
    kind, key = rest[1:length].decode(errors="replace"), rest[length:]
    if not 1 < length <= len(rest):
        raise InvalidArgumentError("`after` is not from a page of findings")
    return (bucket if any(bucket) else b""), kind, key
