"""What the rows say: typed look-ups over a store's key space."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Final

from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.roles.bucket import referencerows as references
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.payloads import decode_payload
from ostnode.roles.bucket.records import (
    GrantClosed,
    Kind,
    Quarantined,
    ScrubPosition,
    Upload,
)
from ostnode.store.keyspace import Reader

LIFE_SHIFT: Final = 40
"""Versions grow by one with each change of an entity: they stay below that."""


class View:
    """The bucket's tables, read through one reader."""

    def __init__(self, rows: Reader) -> None:
        self._rows = rows

    def number(self, key: bytes) -> int:
        """A number of META; 0 when it was never written."""
        row = self._rows.get(key)
        return 0 if row is None else t.number_of(row)

    def index(self) -> bytes | None:
        """The principal of the index whose bucket this log is."""
        return self._rows.get(t.INDEX)

    def grant(self, grant_id: GrantId) -> t.OpenGrant | t.ClosedGrant | None:
        """What became of a grant; None when it was never used here."""
        row = self._rows.get(t.GRANTS + grant_id)
        return None if row is None else t.unpack_grant(row)

    def upload(self, number: int) -> Upload | None:
        """An open upload."""
        row = self._rows.get(t.UPLOADS + t.u64(number))
        return None if row is None else _upload_of(row)

    def progress(self, number: int) -> t.Progress:
        """An open upload's progress."""
        row = self._rows.get(t.PROGRESS + t.u64(number))
        return t.Progress(0, 0, 0) if row is None else t.Progress.unpack(row)

    def uploads(self, after: int, limit: int) -> list[tuple[int, Upload]]:
        """Up to `limit` open uploads with numbers above `after`, in order."""
        rows = self._rows.scan(t.UPLOADS, t.UPLOADS + t.u64(after))
        return [(t.number_of(key[1:]), _upload_of(row)) for key, row in islice(rows, limit)]

    def uploads_of(self, uid: Uid, blob_id: BlobId | None = None) -> Iterator[int]:
        """Numbers of the uid's open uploads, of one blob if one is named."""
        for key, _ in self._rows.scan(t.USER_UPLOADS + uid + (blob_id or b"")):
            yield t.number_of(key[-8:])

    def chunk(self, number: int, index: int) -> t.ChunkRow | None:
        """Where a chunk's bytes are.

        A matched chunk of an open upload is that of the stored blob, whichever commit it has now.
        """
        row = self._rows.get(t.chunk_key(number, index))
        if row == t.MATCHED:
            row = self._same_chunk(number, index)
        return None if row is None or row == t.MATCHED else t.ChunkRow.unpack(row)

    def _same_chunk(self, number: int, index: int) -> bytes | None:
        upload = self.upload(number)
        stored = None if upload is None else self.blob(upload.blob_id)
        if upload is None or stored is None:
            return None
        if (stored.size, stored.chunk_bytes) != (upload.size, upload.chunk_bytes):
            return None
        return self._rows.get(t.chunk_key(stored.number, index))

    def own_chunk(self, number: int, index: int) -> t.ChunkRow | None:
        """Where a chunk's bytes are if the upload brought them itself."""
        row = self._rows.get(t.chunk_key(number, index))
        return None if row is None or row == t.MATCHED else t.ChunkRow.unpack(row)

    def has_chunk(self, number: int, index: int) -> bool:
        """Whether a chunk has been received."""
        return self._rows.get(t.chunk_key(number, index)) is not None

    def chunk_indexes(self, number: int, limit: int, after: int = -1) -> list[int]:
        """Up to `limit` indexes of chunks that an upload has, above `after`, in order."""
        last = b"" if after < 0 else t.chunk_key(number, after)
        rows = self._rows.scan(t.chunks_key(number), last)
        return [t.chunk_place(key)[1] for key, _ in islice(rows, limit)]

    def blob(self, blob_id: BlobId) -> t.BlobRow | None:
        """A stored blob."""
        row = self._rows.get(t.BLOBS + blob_id)
        return None if row is None else t.BlobRow.unpack(row)

    def quarantined(self, blob_id: BlobId) -> bool:
        """Whether damage has been found in the stored blob, or in what made it one."""
        return self._rows.get(t.FINDINGS + blob_id) is not None

    def sound_blob(self, blob_id: BlobId) -> t.BlobRow | None:
        """A stored blob that is not quarantined: what may stand for the same bytes pushed."""
        return None if self.quarantined(blob_id) else self.blob(blob_id)

    def findings(self, limit: int, after: bytes = b"") -> list[tuple[bytes, Quarantined]]:
        """Up to `limit` findings whose keys are above `after`."""
        rows = islice(self._rows.scan(t.FINDINGS, after), limit)
        return [(key, _finding_of(row)) for key, row in rows]

    def finding(self, key: bytes) -> bool:
        """Whether the damage is known already."""
        return self._rows.get(key) is not None

    def scrub(self) -> ScrubPosition | None:
        """How far the scrub is; None before the first."""
        row = self._rows.get(t.SCRUB)
        return None if row is None else _scrub_of(row)

    def needed(self, blob_id: BlobId) -> bool:
        """Whether any reference or pin keeps the stored blob."""
        referenced = any(True for _ in references.references_to(self._rows, blob_id))
        return referenced or self._any(t.PINS + blob_id)

    def user(self, uid: Uid) -> t.UserRow | None:
        """A registration; None when nobody has told of it."""
        row = self._rows.get(t.USERS + uid)
        return None if row is None else t.UserRow.unpack(row)

    def deleted(self, uid: Uid) -> bool:
        """Whether the registration is over."""
        user = self.user(uid)
        return user is not None and user.deleted

    def held(self, after: bytes) -> Iterator[tuple[Uid, BlobId, int | None]]:
        """What every uid holds, with its stored size, in order behind a place (uid and blob id)."""
        for uid, blob_id in references.held(self._rows, after):
            row = self.blob(blob_id)
            yield uid, blob_id, None if row is None else row.size

    def burned_accessors(self, after: bytes) -> Iterator[bytes]:
        """Accessors that are gone for ever, in order."""
        return (key[1:] for key, _ in self._rows.scan(t.BURNED, t.BURNED + after))

    def users(self, after: bytes) -> Iterator[tuple[bytes, t.UserRow]]:
        """Registrations in order of their uids."""
        for key, row in self._rows.scan(t.USERS, t.USERS + after):
            yield key[1:], t.UserRow.unpack(row)

    def grants_unended(self, after: bytes, limit: int) -> tuple[list[GrantId], bytes]:
        """Closed grants whose latest end nobody has named, among the next `limit` grants; the
        place behind them, empty at the end.
        """
        rows = list(islice(self._rows.scan(t.GRANTS, t.GRANTS + after), limit))
        found = [(GrantId(key[1:]), t.unpack_grant(row)) for key, row in rows]
        unended = [name for name, row in found if isinstance(row, t.ClosedGrant) and not row.end]
        return unended, rows[-1][0][1:] if len(rows) == limit else b""

    def uids(self, principal: Principal) -> list[Uid]:
        """The principal's live registrations: one, but for the moment a change takes to arrive."""
        return [Uid(key[33:]) for key, _ in self._rows.scan(t.PRINCIPALS + principal)]

    def owns(self, principal: Principal, uid: Uid) -> bool:
        """Whether the live registration is the principal's."""
        user = self.user(uid)
        return user is not None and not user.deleted and user.principal == principal

    def burned(self, accessor: Principal) -> bool:
        """Whether the accessor has been deleted for ever."""
        return self._rows.get(t.BURNED + accessor) is not None

    def blocked(self, principal: Principal) -> bool:
        """Whether the principal is refused here."""
        row = self._rows.get(t.BLOCKED + principal)
        return row is not None and t.unpack_blocked(row)[1]

    def blocked_version(self, principal: Principal) -> int:
        """The version of the last word about the principal; 0 when there is none."""
        row = self._rows.get(t.BLOCKED + principal)
        return 0 if row is None else t.unpack_blocked(row)[0]

    def blob_blocked(self, blob_id: BlobId) -> bool:
        """Whether the blob is refused here, stored or not."""
        row = self._rows.get(t.BLOCKED_BLOBS + blob_id)
        return row is not None and t.unpack_blocked(row)[1]

    def blob_blocked_version(self, blob_id: BlobId) -> int:
        """The version of the last word about the blob; 0 when there is none."""
        row = self._rows.get(t.BLOCKED_BLOBS + blob_id)
        return 0 if row is None else t.unpack_blocked(row)[0]

    def evicting(self, uid: Uid, blob_id: BlobId) -> bool:
        """Whether all of the uid's references to the blob are about to go."""
        return self._rows.get(t.SWEEPS + t.SWEEP_EVICTION + uid + blob_id) is not None

    def reference(self, name: t.ReferenceId) -> t.ReferenceRow | None:
        """A reference's row, whether it still counts or not."""
        found = references.find(self._rows, name)
        return None if found is None else found[1]

    def stands(self, name: t.ReferenceId, now: float) -> t.ReferenceRow | None:
        """The reference if it counts: present, unexpired, of a live user to a live accessor."""
        row = self.reference(name)
        if row is None or row.expired(now):
            return None
        return None if self.burned(name.accessor) or self.deleted(name.uid) else row

    def references_to(self, blob_id: BlobId, accessor: Principal) -> Iterator[t.ReferenceId]:
        """References of a blob to one accessor."""
        return references.references_to(self._rows, blob_id, accessor)

    def accessors_of(self, blob_id: BlobId) -> Iterator[Principal]:
        """Accessors with a reference to the blob, whether it counts or not."""
        return references.accessors_of(self._rows, blob_id)

    def references_of(self, uid: Uid, blob_id: BlobId | None = None) -> Iterator[t.ReferenceId]:
        """A user's references, to one blob if one is named."""
        return references.references_of(self._rows, uid, blob_id)

    def has_references(self, uid: Uid, blob_id: BlobId) -> bool:
        """Whether any row, expired ones included, still charges the blob to the uid."""
        return any(True for _ in self.references_of(uid, blob_id))

    def reference_count(self, uid: Uid) -> int:
        """How many references the uid has."""
        return self.number(t.COUNTS + uid)

    def references_for(self, accessor: Principal) -> Iterator[t.ReferenceId]:
        """References to the accessor, of any blob."""
        return references.references_for(self._rows, accessor)

    def expired_references(self, now: float, limit: int) -> list[t.ReferenceId]:
        """Up to `limit` references whose time is over, the oldest first."""
        return list(islice(references.expired(self._rows, now), limit))

    def grants_ended(self, floor: int, limit: int) -> list[GrantId]:
        """Up to `limit` closed grants that the floor has passed."""
        keys = islice((key for key, _ in self._rows.scan(t.ENDS)), limit)
        return [GrantId(key[9:]) for key in keys if t.number_of(key[1:9]) <= floor]

    def single_use(self, token: bytes) -> bytes | None:
        """The target that the token was used on."""
        row = self._rows.get(t.SINGLE_USES + token)
        return None if row is None else row[8:]

    def single_uses_ended(self, now: float, limit: int) -> list[bytes]:
        """Up to `limit` used tokens that nobody can show any more."""
        keys = islice((key for key, _ in self._rows.scan(t.SINGLE_USE_ENDS)), limit)
        return [key[9:] for key in keys if t.number_of(key[1:9]) < now]

    def outbox(self, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` events that the index has not acknowledged, in order and without a gap."""
        first = self.number(t.OUTBOX_ACKED) + 1
        rows = islice(self._rows.scan(t.OUTBOX), limit)
        events = [(t.number_of(key[1:]), row) for key, row in rows]
        run = takewhile(lambda pair: pair[1][0] == pair[0], enumerate(events, first))
        return [event for _, event in run]

    def outbox_numbers(self, after: int, limit: int) -> list[int]:
        """Up to `limit` numbers of unacknowledged events above `after`, gaps or not."""
        rows = islice(self._rows.scan(t.OUTBOX, t.OUTBOX + t.u64(after)), limit)
        return [t.number_of(key[1:]) for key, _ in rows]

    def sweeps(self, limit: int) -> list[bytes]:
        """Up to `limit` targets whose consequences are still to be drawn."""
        return [key[1:] for key, _ in islice(self._rows.scan(t.SWEEPS), limit)]

    def feed_cursor(self) -> tuple[int, int]:
        """The index incarnation and sequence number up to which the feed is applied."""
        return self.number(t.FEED_INCARNATION), self.number(t.FEED_SEQ)

    def feed_level(self) -> int:
        """As what the feed was read so far; see `core.sync.feed_level`."""
        return self.number(t.FEED_LEVEL)

    def feed_life(self) -> int:
        """Which of the index's incarnations is read, counted from the first that was."""
        return self.number(t.FEED_LIFE)

    def version(self, said: int) -> int:
        """A version in the feed as rows keep it: a later life of the index has the later word."""
        return self.feed_life() << LIFE_SHIFT | said

    def _any(self, prefix: bytes) -> bool:
        return next(iter(self._rows.scan(prefix)), None) is not None


def _upload_of(row: bytes) -> Upload:
    """A row of UPLOADS."""
    upload = decode_payload(Kind.UPLOAD_OPENED, row)
    assert isinstance(upload, Upload)
    return upload


def _finding_of(row: bytes) -> Quarantined:
    """A row of FINDINGS."""
    finding = decode_payload(Kind.QUARANTINED, row)
    assert isinstance(finding, Quarantined)
    return finding


def _scrub_of(row: bytes) -> ScrubPosition:
    """The row of SCRUB."""
    position = decode_payload(Kind.SCRUB_POSITION, row)
    assert isinstance(position, ScrubPosition)
    return position


def closed_payload(row: t.ClosedGrant) -> GrantClosed:
    """The record that closed the grant."""
    payload = decode_payload(Kind.GRANT_CLOSED, row.payload)
    assert isinstance(payload, GrantClosed)
    return payload
