"""Which records of the log are still needed: what compaction goes by.

LIVE is a record that the rows still say. TOMBSTONE is one that only takes effects of older ones
back. DEAD is the rest, for good.

The rules, with the reducer, keep this: drop any records that were found DEAD, at any time since,
and TOMBSTONEs with no DEAD record before them; what remains gives the same rows. For that

* whatever takes an effect back makes the record it came from DEAD in the same batch, so that no
  segment judged after a tombstone is taken for clean while it holds what the tombstone undoes;
* a tombstone undoes the effects of records, never those of another tombstone;
* what two records say of one row, the later one says alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from ostnode.roles.bucket import records as r
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.counting import number_at
from ostnode.roles.bucket.payloads import decode_payload
from ostnode.roles.bucket.records import Kind
from ostnode.roles.bucket.reducer import finding_key
from ostnode.roles.bucket.referencerows import reference_key
from ostnode.roles.bucket.uploadrows import progress_at
from ostnode.store.keyspace import Reader
from ostnode.store.record import Record
from ostnode.store.schema import Worth
from ostnode.wire.fields import Message

P = TypeVar("P", bound=Message)


def worth_of(record: Record, rows: Reader) -> Worth:
    """What a durable record is needed for. Raises KeyError for a kind of a newer version."""
    kind = Kind(record.kind)
    if kind in _FOR_EVER:
        return Worth.LIVE
    if kind in _UNDOING:
        return Worth.TOMBSTONE
    if kind is Kind.SWEPT:
        return _swept(record)
    if kind is Kind.TOMBSTONE:
        due = rows.get(t.SWEEPS + t.SWEEP_CHUNKS + t.u64(record.number)) is not None
        return Worth.LIVE if due else Worth.TOMBSTONE
    return Worth.LIVE if _STANDS[kind](record, rows) else Worth.DEAD


_FOR_EVER: Final = frozenset({Kind.INIT, Kind.ACCESSOR_BURNED})
_UNDOING: Final = frozenset({
    Kind.REFERENCE_REMOVED,
    Kind.GRANTS_FORGOTTEN,
    Kind.SINGLE_USE_FORGOTTEN,
    Kind.CHUNKS_DROPPED,
    Kind.HEALED,
})


_TAKEN_BACK: Final = frozenset({t.SWEEP_CHUNKS, t.SWEEP_EVICTION})
"""What leaves nothing in the log that would have it swept again."""


def _swept(record: Record) -> Worth:
    """A burned accessor and a deleted uid stay in the log, so what was swept for them does too."""
    target = _payload(record, r.Swept).target
    return Worth.TOMBSTONE if target[:1] in _TAKEN_BACK else Worth.LIVE


def _upload_opened(record: Record, rows: Reader) -> bool:
    return rows.get(t.UPLOADS + t.u64(record.number)) is not None


def _chunk(record: Record, rows: Reader) -> bool:
    row = rows.get(t.chunk_key(record.number, record.chunk_index))
    return row == t.ChunkRow(record.extent, record.digest).pack()


def _chunk_matched(record: Record, rows: Reader) -> bool:
    return rows.get(t.chunk_key(record.number, record.chunk_index)) == t.MATCHED


def _commit(record: Record, rows: Reader) -> bool:
    row = rows.get(t.BLOBS + record.blob)
    return row is not None and t.BlobRow.unpack(row).commit == record.seq


def _reference_added(record: Record, rows: Reader) -> bool:
    return rows.get(reference_key(record.seq)) is not None


def _grant_renewed(record: Record, rows: Reader) -> bool:
    progress = progress_at(rows, record.number)
    return progress is not None and progress.end == _payload(record, r.GrantRenewed).end


def _grant_closed(record: Record, rows: Reader) -> bool:
    """No grant is forgotten while a sweep is due, so one of its upload's chunks finds it."""
    row = rows.get(t.GRANTS + _payload(record, r.GrantClosed).grant_id)
    grant = None if row is None else t.unpack_grant(row)
    return isinstance(grant, t.ClosedGrant) and grant.payload == record.payload


def _grants_ended(record: Record, rows: Reader) -> bool:
    for named in _payload(record, r.GrantsEnded).ends:
        row = rows.get(t.GRANTS + named.grant_id)
        if row is not None and row[:1] == t.CLOSED:
            return True
    return False


def _floor(record: Record, rows: Reader) -> bool:
    return number_at(rows, t.FLOOR) == _payload(record, r.Floor).floor


def _user(record: Record, rows: Reader) -> bool:
    said = _payload(record, r.User)
    user = t.UserRow(said.principal, said.version, said.bytes_left, said.deleted)
    return rows.get(t.USERS + said.uid) == user.pack()


def _blocked(record: Record, rows: Reader) -> bool:
    said = _payload(record, r.Blocked)
    row = t.pack_blocked(said.version, blocked=said.blocked)
    return rows.get(t.BLOCKED + said.principal) == row


def _blob_blocked(record: Record, rows: Reader) -> bool:
    said = _payload(record, r.BlobBlocked)
    row = t.pack_blocked(said.version, blocked=said.blocked)
    return rows.get(t.BLOCKED_BLOBS + record.blob) == row


def _eviction(record: Record, rows: Reader) -> bool:
    uid = _payload(record, r.Eviction).uid
    return rows.get(t.SWEEPS + t.SWEEP_EVICTION + uid + record.blob) is not None


def _single_use(record: Record, rows: Reader) -> bool:
    said = _payload(record, r.SingleUse)
    return rows.get(t.SINGLE_USES + said.token) == t.u64(said.until) + said.target


def _outbox(record: Record, rows: Reader) -> bool:
    return rows.get(t.OUTBOX + t.u64(record.number)) == record.payload


def _outbox_acked(record: Record, rows: Reader) -> bool:
    return number_at(rows, t.OUTBOX_ACKED) == _payload(record, r.OutboxAcked).through


def _feed_cursor(record: Record, rows: Reader) -> bool:
    said = _payload(record, r.FeedCursor)
    place = number_at(rows, t.FEED_INCARNATION), number_at(rows, t.FEED_SEQ)
    read = number_at(rows, t.FEED_LEVEL), number_at(rows, t.FEED_LIFE)
    return (*place, *read) == (said.incarnation, said.seq, said.level or 0, said.life or 0)


def _quarantined(record: Record, rows: Reader) -> bool:
    return rows.get(finding_key(record.blob, _payload(record, r.Quarantined))) == record.payload


def _scrub_position(record: Record, rows: Reader) -> bool:
    return rows.get(t.SCRUB) == record.payload


def _payload(record: Record, cls: type[P]) -> P:
    payload = decode_payload(record.kind, record.payload)
    assert isinstance(payload, cls)
    return payload


_STANDS: Final[dict[Kind, Callable[[Record, Reader], bool]]] = {
    Kind.UPLOAD_OPENED: _upload_opened,
    Kind.CHUNK: _chunk,
    Kind.CHUNK_MATCHED: _chunk_matched,
    Kind.COMMIT: _commit,
    Kind.REFERENCE_ADDED: _reference_added,
    Kind.GRANT_RENEWED: _grant_renewed,
    Kind.GRANT_CLOSED: _grant_closed,
    Kind.GRANTS_ENDED: _grants_ended,
    Kind.FLOOR: _floor,
    Kind.USER: _user,
    Kind.PRINCIPAL_BLOCKED: _blocked,
    Kind.SINGLE_USE: _single_use,
    Kind.OUTBOX: _outbox,
    Kind.OUTBOX_ACKED: _outbox_acked,
    Kind.FEED_CURSOR: _feed_cursor,
    Kind.QUARANTINED: _quarantined,
    Kind.SCRUB_POSITION: _scrub_position,
    Kind.EVICTION: _eviction,
    Kind.BLOB_BLOCKED: _blob_blocked,
}
"""Whether the rows say what the record says."""
