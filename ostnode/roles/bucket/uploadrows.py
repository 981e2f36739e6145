"""What records of uploads, chunks and blobs do to the tables.

A chunk has its row whether or not its upload is known: compaction drops the opening of an upload
that has ended, and keeps the chunks that a stored blob is made of. Only an open upload has
PROGRESS and PINS, and room that is PROMISED.
"""

from __future__ import annotations

from ostnode.roles.bucket import records as r
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.counting import add_to
from ostnode.roles.bucket.payloads import decode_payload
from ostnode.roles.bucket.records import Kind
from ostnode.store.keyspace import Reader, Writer
from ostnode.store.record import Record
from ostnode.wire.chunks import chunk_length


def upload_opened(record: Record, rows: Writer, payload: r.Upload) -> None:
    """Unless the grant was used before."""
    number = t.u64(record.number)
    if rows.get(t.GRANTS + payload.grant_id) is not None:
        return
    rows.put(t.GRANTS + payload.grant_id, t.OPEN + number)
    rows.put(t.UPLOADS + number, record.payload)
    rows.put(t.PROGRESS + number, t.Progress(0, 0, payload.end).pack())
    rows.put(t.USER_UPLOADS + payload.uid + payload.blob_id + number, b"")
    add_to(rows, t.PROMISED, payload.size)


def chunk(record: Record, rows: Writer) -> None:
    """The latest bytes for a place are the ones that count."""
    _receive(record, rows, t.ChunkRow(record.extent, record.digest).pack())


def chunk_matched(record: Record, rows: Writer) -> None:
    """The stored blob it equals is pinned while the upload is open."""
    _receive(record, rows, t.MATCHED)


def _receive(record: Record, rows: Writer, row: bytes) -> None:
    number, key = record.number, t.chunk_key(record.number, record.chunk_index)
    before = rows.get(key)
    rows.put(key, row)
    upload = upload_at(rows, number)
    if upload is None:
        return
    if before is None:
        _progress_by(rows, number, 1, length_of(upload, record.chunk_index))
    matched = (row == t.MATCHED) - (before == t.MATCHED)
    if matched:
        add_to(rows, t.PINS + upload.blob_id + t.u64(number), matched)


def chunks_dropped(record: Record, rows: Writer, payload: r.ChunksDropped) -> None:
    """An open upload misses them again."""
    number, last = record.number, t.chunk_key(record.number, payload.through)
    before = t.chunk_key(number, payload.first - 1) if payload.first else b""
    dropped = []
    for key, row in rows.scan(t.chunks_key(number), before):
        if key > last:
            break
        dropped.append((key, row))
    for key, row in dropped:
        rows.delete(key)
        if row != t.MATCHED:
            rows.forget(t.ChunkRow.unpack(row).extent)
    upload = upload_at(rows, number)
    if upload is None or not dropped:
        return
    length = sum(length_of(upload, t.chunk_place(key)[1]) for key, _ in dropped)
    _progress_by(rows, number, -len(dropped), -length)
    matched = sum(row == t.MATCHED for _, row in dropped)
    if matched:
        add_to(rows, t.PINS + upload.blob_id + t.u64(number), -matched)


def grant_renewed(record: Record, rows: Writer, payload: r.GrantRenewed) -> None:
    """Nothing without an open upload."""
    progress = progress_at(rows, record.number)
    if progress is not None and payload.end > progress.end:
        renewed = t.Progress(progress.chunks, progress.length, payload.end)
        rows.put(t.PROGRESS + t.u64(record.number), renewed.pack())


def commit(record: Record, rows: Writer, payload: r.Commit) -> None:
    """A commit that it takes the place of lost its tombstone to damage; its chunks are garbage."""
    key = t.BLOBS + record.blob
    before = rows.get(key)
    row = t.BlobRow(record.number, record.seq, payload.size, payload.chunk_bytes)
    rows.put(key, row.pack())
    if before is not None:
        sweep_unless_used(rows, record.blob, t.BlobRow.unpack(before).number)


def tombstone(record: Record, rows: Writer, payload: r.Tombstone) -> None:
    """Compaction may have dropped the commit; its chunks are swept even so."""
    key = t.BLOBS + record.blob
    row = rows.get(key)
    if row is not None and t.BlobRow.unpack(row).commit == payload.commit:
        rows.delete(key)
    sweep_unless_used(rows, record.blob, record.number)


def sweep_unless_used(rows: Writer, blob: bytes, number: int) -> None:
    """An upload's chunks are garbage once it has ended, unless a stored blob is made of them."""
    stored = rows.get(t.BLOBS + blob)
    if stored is not None and t.BlobRow.unpack(stored).number == number:
        return
    packed = t.u64(number)
    if rows.get(t.UPLOADS + packed) is None and _any(rows, t.chunks_key(number)):
        rows.put(t.SWEEPS + t.SWEEP_CHUNKS + packed, b"")


def end_upload(rows: Writer, number: int) -> None:
    """Forget an open upload; its chunks are left."""
    packed = t.u64(number)
    upload = upload_at(rows, number)
    progress = progress_at(rows, number)
    if upload is None or progress is None:
        return
    rows.delete(t.UPLOADS + packed)
    rows.delete(t.PROGRESS + packed)
    rows.delete(t.USER_UPLOADS + upload.uid + upload.blob_id + packed)
    rows.delete(t.PINS + upload.blob_id + packed)
    add_to(rows, t.PROMISED, progress.length - upload.size)


def upload_at(rows: Reader, number: int) -> r.Upload | None:
    """An open upload."""
    row = rows.get(t.UPLOADS + t.u64(number))
    if row is None:
        return None
    upload = decode_payload(Kind.UPLOAD_OPENED, row)
    assert isinstance(upload, r.Upload)
    return upload


def progress_at(rows: Reader, number: int) -> t.Progress | None:
    """An open upload's progress."""
    row = rows.get(t.PROGRESS + t.u64(number))
    return None if row is None else t.Progress.unpack(row)


def length_of(upload: r.Upload, index: int) -> int:
    """Bytes of one chunk of it."""
    return chunk_length(index, upload.size, upload.chunk_bytes)


def _progress_by(rows: Writer, number: int, chunks: int, length: int) -> None:
    progress = progress_at(rows, number)
    if progress is not None:
        after = t.Progress(progress.chunks + chunks, progress.length + length, progress.end)
        rows.put(t.PROGRESS + t.u64(number), after.pack())
        add_to(rows, t.PROMISED, -length)


def _any(rows: Reader, prefix: bytes) -> bool:
    return next(iter(rows.scan(prefix)), None) is not None
