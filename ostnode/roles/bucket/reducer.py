"""The only thing that changes the bucket's tables: what each record of the log does to them.

Deterministic, and told nothing but the record: a rebuild from the log gives the same rows. A
record whose effect is there already changes nothing, nor does one whose cause was lost to damage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from ostnode.ids import BlobId, GrantId
from ostnode.roles.bucket import records as r
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.records import Kind
from ostnode.store.keyspace import Writer
from ostnode.store.record import Record
from ostnode.wire.chunks import chunk_length
from ostnode.wire.fields import Message

P = TypeVar("P", bound=Message)


def reduce_record(record: Record, rows: Writer) -> None:
    """Apply one record. Raises KeyError for a kind of a newer version."""
    _APPLY[record.kind](record, rows)


def _init(rows: Writer, payload: r.Init) -> None:
    rows.put(t.INCARNATION, t.u64(payload.incarnation))
    rows.put(t.INDEX, payload.index)
    rows.put(t.OUTBOX_NEXT, t.u64(1))


def _upload_opened(record: Record, rows: Writer, payload: r.Upload) -> None:
    number = t.u64(record.number)
    if rows.get(t.GRANTS + payload.grant_id) is not None:
        return
    rows.put(t.GRANTS + payload.grant_id, t.OPEN + number)
    rows.put(t.UPLOADS + number, record.payload)
    rows.put(t.PROGRESS + number, t.Progress(0, 0, payload.end).pack())
    rows.put(t.USER_UPLOADS + payload.uid + payload.blob_id + number, b"")
    _add(rows, t.PROMISED, payload.size)


def _chunk(record: Record, rows: Writer) -> None:
    _receive(record, rows, t.ChunkRow(record.extent, record.digest).pack())


def _chunk_matched(record: Record, rows: Writer, payload: r.ChunkMatched) -> None:
    row = rows.get(t.BLOBS + record.blob)
    if row is None or (blob := t.BlobRow.unpack(row)).commit != payload.commit:
        return
    _receive(record, rows, t.pack_matched(blob.number))
    rows.put(t.PINS + record.blob + t.u64(record.number), b"")


def _receive(record: Record, rows: Writer, row: bytes) -> None:
    key = t.chunk_key(record.number, record.chunk_index)
    opened = rows.get(t.UPLOADS + t.u64(record.number))
    if opened is None or rows.get(key) is not None:
        return
    rows.put(key, row)
    upload = _payload(Kind.UPLOAD_OPENED, opened, r.Upload)
    length = chunk_length(record.chunk_index, upload.size, upload.chunk_bytes)
    progress = _progress(rows, record.number)
    rows.put(
        t.PROGRESS + t.u64(record.number),
        t.Progress(progress.chunks + 1, progress.length + length, progress.end).pack(),
    )
    _add(rows, t.PROMISED, -length)


def _commit(record: Record, rows: Writer, payload: r.Commit) -> None:
    row = t.BlobRow(record.number, record.seq, payload.size, payload.chunk_bytes)
    rows.put(t.BLOBS + record.blob, row.pack())


def _reference_added(record: Record, rows: Writer, payload: r.ReferenceAdded) -> None:
    name = t.ReferenceId(BlobId(record.blob), payload.accessor, payload.uid, payload.ref_id)
    if rows.get(name.key) is not None:
        return
    row = t.ReferenceRow(
        payload.expires_at, payload.created_at, payload.content_type, payload.filename
    )
    rows.put(name.key, row.pack())
    rows.put(name.user_key, b"")
    rows.put(t.ACCESSOR_BLOBS + name.accessor + name.blob_id, b"")
    if payload.expires_at:
        rows.put(_expiry_key(name, payload.expires_at), b"")
    _add(rows, t.COUNTS + name.uid, 1)


def _reference_removed(record: Record, rows: Writer, payload: r.ReferenceRemoved) -> None:
    name = t.ReferenceId(BlobId(record.blob), payload.accessor, payload.uid, payload.ref_id)
    row = rows.get(name.key)
    if row is None:
        return
    rows.delete(name.key)
    rows.delete(name.user_key)
    expires_at = t.ReferenceRow.unpack(row).expires_at
    if expires_at:
        rows.delete(_expiry_key(name, expires_at))
    if next(iter(rows.scan(t.REFERENCES + name.blob_id + name.accessor)), None) is None:
        rows.delete(t.ACCESSOR_BLOBS + name.accessor + name.blob_id)
    _add(rows, t.COUNTS + name.uid, -1)


def _tombstone(record: Record, rows: Writer, payload: r.Tombstone) -> None:
    key = t.BLOBS + record.blob
    row = rows.get(key)
    if row is None or (blob := t.BlobRow.unpack(row)).commit != payload.commit:
        return
    rows.delete(key)
    rows.put(t.SWEEPS + t.SWEEP_CHUNKS + t.u64(blob.number), b"")


def _grant_renewed(record: Record, rows: Writer, payload: r.GrantRenewed) -> None:
    progress = _progress(rows, record.number)
    if payload.end > progress.end:
        renewed = t.Progress(progress.chunks, progress.length, payload.end)
        rows.put(t.PROGRESS + t.u64(record.number), renewed.pack())


def _grant_closed(record: Record, rows: Writer, payload: r.GrantClosed) -> None:
    key = t.GRANTS + payload.grant_id
    row = rows.get(key)
    grant = None if row is None else t.unpack_grant(row)
    if isinstance(grant, t.ClosedGrant):
        return
    seen = payload.seen
    if grant is not None:
        seen = max(seen, _progress(rows, grant.number).end)
        _end_upload(rows, grant.number)
    closed = t.ClosedGrant(payload.end, seen, BlobId(record.blob), record.payload)
    rows.put(key, closed.pack())
    if payload.end:
        rows.put(t.end_key(payload.end, payload.grant_id), b"")


def _end_upload(rows: Writer, number: int) -> None:
    """Forget an open upload; its chunks are garbage unless a stored blob is made of them."""
    packed = t.u64(number)
    opened = rows.get(t.UPLOADS + packed)
    if opened is None:
        return
    upload = _payload(Kind.UPLOAD_OPENED, opened, r.Upload)
    progress = _progress(rows, number)
    rows.delete(t.UPLOADS + packed)
    rows.delete(t.PROGRESS + packed)
    rows.delete(t.USER_UPLOADS + upload.uid + upload.blob_id + packed)
    rows.delete(t.PINS + upload.blob_id + packed)
    _add(rows, t.PROMISED, progress.length - upload.size)
    stored = rows.get(t.BLOBS + upload.blob_id)
    kept = stored is not None and t.BlobRow.unpack(stored).number == number
    if progress.chunks and not kept:
        rows.put(t.SWEEPS + t.SWEEP_CHUNKS + packed, b"")


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
    for grant_id in payload.grants:
        grant = _closed(rows, grant_id)
        if grant is not None:
            rows.delete(t.GRANTS + grant_id)
            rows.delete(t.end_key(grant.end, grant_id))


def _floor(rows: Writer, payload: r.Floor) -> None:
    rows.put(t.FLOOR, t.u64(max(payload.floor, _number(rows, t.FLOOR))))


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
    rows.put(t.OUTBOX + t.u64(record.number), record.payload)
    rows.put(t.OUTBOX_NEXT, t.u64(record.number + 1))


def _outbox_acked(rows: Writer, payload: r.OutboxAcked) -> None:
    acked = _number(rows, t.OUTBOX_ACKED)
    for number in range(acked + 1, payload.through + 1):
        rows.delete(t.OUTBOX + t.u64(number))
    rows.put(t.OUTBOX_ACKED, t.u64(max(acked, payload.through)))


def _feed_cursor(rows: Writer, payload: r.FeedCursor) -> None:
    rows.put(t.FEED_INCARNATION, t.u64(payload.incarnation))
    rows.put(t.FEED_SEQ, t.u64(payload.seq))


def _chunks_dropped(record: Record, rows: Writer, payload: r.ChunksDropped) -> None:
    last = t.chunk_key(record.number, payload.through)
    keys = []
    for key, _ in rows.scan(t.CHUNKS + t.u64(record.number)):
        if key > last:
            break
        keys.append(key)
    for key in keys:
        rows.delete(key)


def _swept(rows: Writer, payload: r.Swept) -> None:
    rows.delete(t.SWEEPS + payload.target)


def _number(rows: Writer, key: bytes) -> int:
    row = rows.get(key)
    return 0 if row is None else t.number_of(row)


def _add(rows: Writer, key: bytes, amount: int) -> None:
    total = _number(rows, key) + amount
    if total > 0:
        rows.put(key, t.u64(total))
    else:
        rows.delete(key)


def _progress(rows: Writer, number: int) -> t.Progress:
    row = rows.get(t.PROGRESS + t.u64(number))
    return t.Progress(0, 0, 0) if row is None else t.Progress.unpack(row)


def _closed(rows: Writer, grant_id: GrantId) -> t.ClosedGrant | None:
    row = rows.get(t.GRANTS + grant_id)
    grant = None if row is None else t.unpack_grant(row)
    return grant if isinstance(grant, t.ClosedGrant) else None


def _expiry_key(name: t.ReferenceId, expires_at: int) -> bytes:
    return t.EXPIRIES + t.u64(expires_at) + name.key[1:]


def _payload(kind: int, data: bytes, cls: type[P]) -> P:
    payload = r.decode_payload(kind, data)
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
    Kind.UPLOAD_OPENED: _decoded(r.Upload, _upload_opened),
    Kind.CHUNK: _chunk,
    Kind.CHUNK_MATCHED: _decoded(r.ChunkMatched, _chunk_matched),
    Kind.COMMIT: _decoded(r.Commit, _commit),
    Kind.REFERENCE_ADDED: _decoded(r.ReferenceAdded, _reference_added),
    Kind.REFERENCE_REMOVED: _decoded(r.ReferenceRemoved, _reference_removed),
    Kind.TOMBSTONE: _decoded(r.Tombstone, _tombstone),
    Kind.GRANT_RENEWED: _decoded(r.GrantRenewed, _grant_renewed),
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
    Kind.CHUNKS_DROPPED: _decoded(r.ChunksDropped, _chunks_dropped),
    Kind.SWEPT: _alone(r.Swept, _swept),
}
