"""References in the tables: a row each under its record's sequence number, and ways to it.

The row has the full names. The ways (by blob and accessor, by uid, by accessor, by expiry) have
eight bytes of each: 32-byte names in every one of them took twice the space. What a way leads to
is compared with the row, so names that share eight bytes are slower and never mistaken for each
other. A blob's are the beginning of its id, which is a hash; an accessor may be any 32 bytes
that somebody chose, so its are hashed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from blake3 import blake3

from ostnode.ids import BlobId, Principal, Uid
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.packing import sortable, sorted_number
from ostnode.store.keyspace import Reader, Writer

_TAG_BYTES: Final = 8
_UID_BYTES: Final = 8
_TAGS_END: Final = b"\xff" * 16
"""Behind every number that a way ends with."""


def reference_key(seq: int) -> bytes:
    """REFERENCES: the reference that the record with this sequence number added."""
    return t.REFERENCES + sortable(seq)


def add(rows: Writer, seq: int, name: t.ReferenceId, row: t.ReferenceRow) -> bool:
    """Add a reference; False when it takes the place of one of the same name."""
    taken = remove(rows, name)
    rows.put(reference_key(seq), name.pack() + row.pack())
    for way in _ways(seq, name, row):
        rows.put(way, b"")
    return not taken


def remove(rows: Writer, name: t.ReferenceId) -> bool:
    """Remove a reference; False when there is none of that name."""
    found = find(rows, name)
    if found is None:
        return False
    seq, row = found
    rows.delete(reference_key(seq))
    for way in _ways(seq, name, row):
        rows.delete(way)
    return True


def find(rows: Reader, name: t.ReferenceId) -> tuple[int, t.ReferenceRow] | None:
    """A reference's sequence number and row."""
    for seq, found, row in _behind(rows, _to(name.blob_id, name.accessor)):
        if found == name:
            return seq, row
    return None


def references_to(
    rows: Reader, blob_id: BlobId, accessor: Principal | None = None
) -> Iterator[t.ReferenceId]:
    """References of a blob, to one accessor if one is named."""
    for _, name, _ in _behind(rows, _to(blob_id, accessor)):
        if name.blob_id == blob_id and accessor in {None, name.accessor}:
            yield name


def references_of(rows: Reader, uid: Uid, blob_id: BlobId | None = None) -> Iterator[t.ReferenceId]:
    """A user's references, to one blob if one is named."""
    for _, name, _ in _behind(rows, t.USER_REFERENCES + uid + (blob_id or b"")[:_TAG_BYTES]):
        if blob_id in {None, name.blob_id}:
            yield name


def held(rows: Reader, after: bytes) -> Iterator[tuple[Uid, BlobId]]:
    """Uids and the blobs they refer to, each once and in order, behind a place (uid and blob id).

    A step for each, however many references it has.
    """
    seek = t.USER_REFERENCES + after[: _UID_BYTES + _TAG_BYTES]
    while (way := next(iter(rows.scan(t.USER_REFERENCES, seek)), None)) is not None:
        group = way[0][1 : 1 + _UID_BYTES + _TAG_BYTES]
        uid = Uid(group[:_UID_BYTES])
        for blob_id in sorted(_blobs_in(rows, uid, group[_UID_BYTES:])):
            if uid + blob_id > after:
                yield uid, blob_id
        seek = t.USER_REFERENCES + group + _TAGS_END


def _blobs_in(rows: Reader, uid: Uid, tag: bytes) -> Iterator[BlobId]:
    """The uid's blobs whose ids begin alike: almost always one.

    Another is looked for among those stored or quarantined: not among the uid's references, which
    may be a million.
    """
    found = _behind(rows, t.USER_REFERENCES + uid + tag)
    first = next((name.blob_id for _, name, _ in found), None)
    known = {key[1:] for key, _ in rows.scan(t.BLOBS + tag)}
    known |= {key[1:33] for key, _ in rows.scan(t.FINDINGS + tag)}
    if first is not None:
        yield first
    for blob_id in map(BlobId, known - {first}):
        if any(True for _ in references_of(rows, uid, blob_id)):
            yield blob_id


def references_for(rows: Reader, accessor: Principal) -> Iterator[t.ReferenceId]:
    """References to one accessor, of any blob."""
    for _, name, _ in _behind(rows, t.ACCESSOR_REFERENCES + _tag(accessor)):
        if name.accessor == accessor:
            yield name


def expired(rows: Reader, now: float) -> Iterator[t.ReferenceId]:
    """References whose time is over, the oldest first."""
    for key, _ in rows.scan(t.EXPIRIES):
        if t.number_of(key[1:9]) > now:
            return
        yield from (name for _, name, _ in _behind(rows, key))


def accessors_of(rows: Reader, blob_id: BlobId) -> Iterator[Principal]:
    """Accessors with a reference to the blob: one step each, however many references they have."""
    prefix, after = _to(blob_id), b""
    while (way := next(iter(rows.scan(prefix, after)), None)) is not None:
        tagged = way[0][: len(prefix) + _TAG_BYTES]
        name = next((n for _, n, _ in _behind(rows, tagged) if n.blob_id == blob_id), None)
        if name is not None:
            yield name.accessor
        after = tagged + _TAGS_END


def _tag(accessor: Principal) -> bytes:
    return blake3(accessor).digest(length=_TAG_BYTES)


def _to(blob_id: BlobId, accessor: Principal | None = None) -> bytes:
    tag = b"" if accessor is None else _tag(accessor)
    return t.BLOB_REFERENCES + blob_id[:_TAG_BYTES] + tag


def _ways(seq: int, name: t.ReferenceId, row: t.ReferenceRow) -> list[bytes]:
    number = sortable(seq)
    ways = [
        _to(name.blob_id, name.accessor) + number,
        t.USER_REFERENCES + name.uid + name.blob_id[:_TAG_BYTES] + number,
        t.ACCESSOR_REFERENCES + _tag(name.accessor) + number,
    ]
    if row.expires_at:
        ways.append(t.EXPIRIES + t.u64(row.expires_at) + number)
    return ways


_NUMBER_AT: Final = {t.BLOB_REFERENCES: 17, t.USER_REFERENCES: 17, t.ACCESSOR_REFERENCES: 9,
                     t.EXPIRIES: 9}  # fmt: skip
"""Where a way's number begins."""


def _behind(rows: Reader, way: bytes) -> Iterator[tuple[int, t.ReferenceId, t.ReferenceRow]]:
    """What the ways with this prefix lead to."""
    for key, _ in rows.scan(way):
        seq, _ = sorted_number(key, _NUMBER_AT[key[:1]])
        row = rows.get(reference_key(seq))
        if row is not None:
            name, rest = t.ReferenceId.unpack(row)
            yield seq, name, t.ReferenceRow.unpack(rest)
