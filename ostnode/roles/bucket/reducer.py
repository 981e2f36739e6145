"""The only thing that changes the bucket's tables: what each record of the log does to them.

Deterministic, and told nothing but the record: a rebuild from the log gives the same rows. A
record whose effect is there already changes nothing, nor does one whose cause was lost to damage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from ostnode.ids import BlobId, GrantId
from ostnode.roles.bucket import records as r
from ostnode.roles.bucket import referencerows as references
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket import uploadrows as u
from ostnode.roles.bucket.counting import add_to, number_at, raise_to
from ostnode.roles.bucket.payloads import decode_payload
from ostnode.roles.bucket.records import Kind
from ostnode.store.keyspace import Writer
from ostnode.store.record import ZERO_32, Record
from ostnode.wire.fields import Message

P = TypeVar("P", bound=Message)


def reduce_record(record: Record, rows: Writer) -> None:
    """Apply one record. Raises KeyError for a kind of a newer version."""
    _APPLY[record.kind](record, rows)


def _init(rows: Writer, payload: r.Init) -> None:
    rows.put(t.INCARNATION, t.u64(payload.incarnation))
    rows.put(t.INDEX, payload.index)
    raise_to(rows, t.OUTBOX_NEXT, 1)


def _reference_added(record: Record, rows: Writer, payload: r.ReferenceAdded) -> None:
    """A row that is there gives way: the removal between the two may have been dropped."""
    name = t.ReferenceId(BlobId(record.blob), payload.accessor, payload.uid, payload.ref_id)
    row = t.ReferenceRow(
        payload.expires_at, payload.created_at, payload.content_type, payload.filename
    )
    if references.add(rows, record.seq, name, row):
        add_to(rows, t.COUNTS + name.uid, 1)


def _reference_removed(record: Record, rows: Writer, payload: r.ReferenceRemoved) -> None:
    name = t.ReferenceId(BlobId(record.blob), payload.accessor, payload.uid, payload.ref_id)
    if references.remove(rows, name):
        add_to(rows, t.COUNTS + name.uid, -1)


def _grant_closed(record: Record, rows: Writer, payload: r.GrantClosed) -> None:
    """The last word counts. The chunks of the upload in the header are garbage, or a blob."""
    key = t.GRANTS + payload.grant_id
    row = rows.get(key)
    grant = None if row is None else t.unpack_grant(row)
    if isinstance(grant, t.OpenGrant):
        u.end_upload(rows, grant.number)
    elif grant is not None and grant.end:
        rows.delete(t.end_key(grant.end, payload.grant_id))
    closed = t.ClosedGrant(payload.end, payload.seen, BlobId(record.blob), record.payload)
    rows.put(key, closed.pack())
    if payload.end:
        rows.put(t.end_key(payload.end, payload.grant_id), b"")
    if record.number:
        u.sweep_unless_used(rows, record.blob, record.number)


def _grants_ended(rows: Writer, payload: r.GrantsEnded) -> None:
    """Whatever the index names, a grant is kept until no bytes seen here can be in time again."""
    for named in payload.ends:
        grant = _closed(rows, named.grant_id)
        if grant is None:
            continue
        end = max(named.end, grant.end, grant.seen)
        if grant.end:
            rows.delete(t.end_key(grant.end, named.grant_id))
        row = t.ClosedGrant(end, grant.seen, grant.blob_id, grant.payload)
        rows.put(t.GRANTS + named.grant_id, row.pack())
        rows.put(t.end_key(end, named.grant_id), b"")


def _grants_forgotten(rows: Writer, payload: r.GrantsForgotten) -> None:
    """Ends the uploads too whose closing compaction has dropped. Their chunks were swept before:
    no grant is forgotten while a sweep is due.
    """
    for grant_id in payload.grants:
        row = rows.get(t.GRANTS + grant_id)
        grant = None if row is None else t.unpack_grant(row)
        if isinstance(grant, t.OpenGrant):
            u.end_upload(rows, grant.number)
        elif grant is not None and grant.end:
            rows.delete(t.end_key(grant.end, grant_id))
        rows.delete(t.GRANTS + grant_id)


def _floor(rows: Writer, payload: r.Floor) -> None:
    raise_to(rows, t.FLOOR, payload.floor)


def _accessor_burned(rows: Writer, payload: r.AccessorBurned) -> None:
    if rows.get(t.BURNED + payload.accessor) is None:
        rows.put(t.BURNED + payload.accessor, b"")
        rows.put(t.SWEEPS + t.SWEEP_ACCESSOR + payload.accessor, b"")


def _user(rows: Writer, payload: r.User) -> None:
    row = rows.get(t.USERS + payload.uid)
    known = None if row is None else t.UserRow.unpack(row)
    if known is not None and (known.deleted or payload.version < known.version):
        return
    if known is not None:
        rows.delete(t.PRINCIPALS + known.principal + payload.uid)
    user = t.UserRow(payload.principal, payload.version, payload.bytes_left, payload.deleted)
    rows.put(t.USERS + payload.uid, user.pack())
    if payload.deleted:
        rows.put(t.SWEEPS + t.SWEEP_USER + payload.uid, b"")
    else:
        rows.put(t.PRINCIPALS + payload.principal + payload.uid, b"")


def _blocked(rows: Writer, payload: r.Blocked) -> None:
    key = t.BLOCKED + payload.principal
    row = rows.get(key)
    if row is None or t.unpack_blocked(row)[0] <= payload.version:
        rows.put(key, t.pack_blocked(payload.version, blocked=payload.blocked))


def _blob_blocked(record: Record, rows: Writer, payload: r.BlobBlocked) -> None:
    key = t.BLOCKED_BLOBS + record.blob
    row = rows.get(key)
    if row is None or t.unpack_blocked(row)[0] <= payload.version:
        rows.put(key, t.pack_blocked(payload.version, blocked=payload.blocked))


def _eviction(record: Record, rows: Writer, payload: r.Eviction) -> None:
    rows.put(t.SWEEPS + t.SWEEP_EVICTION + payload.uid + record.blob, b"")


def _single_use(rows: Writer, payload: r.SingleUse) -> None:
    if rows.get(t.SINGLE_USES + payload.token) is None:
        rows.put(t.SINGLE_USES + payload.token, t.u64(payload.until) + payload.target)
        rows.put(t.SINGLE_USE_ENDS + t.u64(payload.until) + payload.token, b"")


def _single_use_forgotten(rows: Writer, payload: r.SingleUseForgotten) -> None:
    for token in payload.tokens:
        row = rows.get(t.SINGLE_USES + token)
        if row is not None:
            rows.delete(t.SINGLE_USES + token)
            rows.delete(t.SINGLE_USE_ENDS + row[:8] + token)


def _outbox(record: Record, rows: Writer) -> None:
    if record.number > number_at(rows, t.OUTBOX_ACKED):
        rows.put(t.OUTBOX + t.u64(record.number), record.payload)
    raise_to(rows, t.OUTBOX_NEXT, record.number + 1)


def _outbox_acked(rows: Writer, payload: r.OutboxAcked) -> None:
    """Compaction may have dropped the events, which also told what number is next."""
    last = t.OUTBOX + t.u64(payload.through)
    acked = []
    for key, _ in rows.scan(t.OUTBOX):
        if key > last:
            break
        acked.append(key)
    for key in acked:
        rows.delete(key)
    raise_to(rows, t.OUTBOX_ACKED, payload.through)
    raise_to(rows, t.OUTBOX_NEXT, payload.through + 1)


def _feed_cursor(rows: Writer, payload: r.FeedCursor) -> None:
    rows.put(t.FEED_INCARNATION, t.u64(payload.incarnation))
    rows.put(t.FEED_SEQ, t.u64(payload.seq))
    rows.put(t.FEED_LEVEL, t.u64(payload.level or 0))
    rows.put(t.FEED_LIFE, t.u64(payload.life or 0))


def _swept(rows: Writer, payload: r.Swept) -> None:
    rows.delete(t.SWEEPS + payload.target)


def _quarantined(record: Record, rows: Writer, payload: r.Quarantined) -> None:
    rows.put(finding_key(record.blob, payload), record.payload)


def _healed(record: Record, rows: Writer, payload: r.Healed) -> None:
    rows.delete(t.FINDINGS + record.blob + payload.finding)


def _scrub_position(record: Record, rows: Writer) -> None:
    rows.put(t.SCRUB, record.payload)


def finding_key(blob: bytes, payload: r.Quarantined) -> bytes:
    """One row for each quarantined blob; other damage is named by its record, or by its place."""
    if blob != ZERO_32:
        return t.FINDINGS + blob
    place = t.u64(payload.segment) + t.u64(payload.offset)
    return t.FINDINGS + ZERO_32 + t.u64(payload.seq) + (b"" if payload.seq else place)


def _closed(rows: Writer, grant_id: GrantId) -> t.ClosedGrant | None:
    row = rows.get(t.GRANTS + grant_id)
    grant = None if row is None else t.unpack_grant(row)
    return grant if isinstance(grant, t.ClosedGrant) else None


def _payload(kind: int, data: bytes, cls: type[P]) -> P:
    payload = decode_payload(kind, data)
    assert isinstance(payload, cls)
    return payload


Apply = Callable[[Record, Writer], None]


def _decoded(cls: type[P], apply: Callable[[Record, Writer, P], None]) -> Apply:
    """An effect of a record and its payload."""

    def decode_and_apply(record: Record, rows: Writer) -> None:
        apply(record, rows, _payload(record.kind, record.payload, cls))

    return decode_and_apply


def _alone(cls: type[P], apply: Callable[[Writer, P], None]) -> Apply:
    """An effect of a payload that says all."""

    def decode_and_apply(record: Record, rows: Writer) -> None:
        apply(rows, _payload(record.kind, record.payload, cls))

    return decode_and_apply


_APPLY: Final[dict[int, Apply]] = {
    Kind.INIT: _alone(r.Init, _init),
    Kind.UPLOAD_OPENED: _decoded(r.Upload, u.upload_opened),
    Kind.CHUNK: u.chunk,
    Kind.CHUNK_MATCHED: u.chunk_matched,
    Kind.COMMIT: _decoded(r.Commit, u.commit),
    Kind.REFERENCE_ADDED: _decoded(r.ReferenceAdded, _reference_added),
    Kind.REFERENCE_REMOVED: _decoded(r.ReferenceRemoved, _reference_removed),
    Kind.TOMBSTONE: _decoded(r.Tombstone, u.tombstone),
    Kind.GRANT_RENEWED: _decoded(r.GrantRenewed, u.grant_renewed),
    Kind.GRANT_CLOSED: _decoded(r.GrantClosed, _grant_closed),
    Kind.GRANTS_ENDED: _alone(r.GrantsEnded, _grants_ended),
    Kind.GRANTS_FORGOTTEN: _alone(r.GrantsForgotten, _grants_forgotten),
    Kind.FLOOR: _alone(r.Floor, _floor),
    Kind.ACCESSOR_BURNED: _alone(r.AccessorBurned, _accessor_burned),
    Kind.USER: _alone(r.User, _user),
    Kind.PRINCIPAL_BLOCKED: _alone(r.Blocked, _blocked),
    Kind.SINGLE_USE: _alone(r.SingleUse, _single_use),
    Kind.SINGLE_USE_FORGOTTEN: _alone(r.SingleUseForgotten, _single_use_forgotten),
    Kind.OUTBOX: _outbox,
    Kind.OUTBOX_ACKED: _alone(r.OutboxAcked, _outbox_acked),
    Kind.FEED_CURSOR: _alone(r.FeedCursor, _feed_cursor),
    Kind.CHUNKS_DROPPED: _decoded(r.ChunksDropped, u.chunks_dropped),
    Kind.SWEPT: _alone(r.Swept, _swept),
    Kind.QUARANTINED: _decoded(r.Quarantined, _quarantined),
    Kind.HEALED: _decoded(r.Healed, _healed),
    Kind.SCRUB_POSITION: _scrub_position,
    Kind.EVICTION: _decoded(r.Eviction, _eviction),
    Kind.BLOB_BLOCKED: _decoded(r.BlobBlocked, _blob_blocked),
}
