"""What a bucket writes to its log: the kinds of records and their payloads.

A chunk's payload is its raw bytes; every other payload is strict CBOR of one dataclass here. The
record's header carries what most kinds share: the blob, the chunk index, and a number: the
upload's (no two have the same) or, of an outbox record, the event's own.
Numbers of kinds and names of fields are the format: they never change their meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Annotated, Final

from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.wire.fields import (
    BATCH_ITEMS_MAX,
    Accessors,
    Amount,
    Bounds,
    Chunk,
    ContentType,
    Filename,
    Message,
    RefId,
    ShortText,
)
from ostnode.wire.messages import ClosedEnd

Digest = Annotated[bytes, Bounds(0, 32)]
Target = Annotated[bytes, Bounds(1, 64)]


class Kind(IntEnum):
    """The kinds of a bucket's records."""

    INIT = 1
    UPLOAD_OPENED = 2
    CHUNK = 3
    CHUNK_MATCHED = 4
    COMMIT = 5
    REFERENCE_ADDED = 6
    REFERENCE_REMOVED = 7
    TOMBSTONE = 8
    GRANT_RENEWED = 9
    GRANT_CLOSED = 10
    GRANTS_ENDED = 11
    GRANTS_FORGOTTEN = 12
    FLOOR = 13
    ACCESSOR_BURNED = 14
    USER = 15
    PRINCIPAL_BLOCKED = 16
    SINGLE_USE = 17
    SINGLE_USE_FORGOTTEN = 18
    OUTBOX = 19
    OUTBOX_ACKED = 20
    FEED_CURSOR = 21
    CHUNKS_DROPPED = 22
    SWEPT = 23
    QUARANTINED = 24
    HEALED = 25
    SCRUB_POSITION = 26
    EVICTION = 27
    BLOB_BLOCKED = 28


RESERVED_KINDS: Final = {29: "moving", 30: "moved"}
"""For blobs that go to another bucket: nothing writes these yet, and nothing else may ever mean
them.
"""

BULK_KINDS: Final = frozenset({int(Kind.CHUNK)})
"""Records whose payload stays in the segment; the reducer sees where it is."""


class Reason(StrEnum):
    """Why a grant is closed. All but COMPLETED are also what the index is told."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    HASH_MISMATCH = "hash_mismatch"
    REVOKED = "revoked"
    EXPIRED = "expired"
    BUCKET_FULL = "bucket_full"
    USER_DELETED = "user_deleted"
    ACCESSOR_DELETED = "accessor_deleted"
    NOT_HELD = "not_held"


@dataclass(frozen=True, slots=True)
class Init(Message):
    """The first record. `incarnation` (µs since 1970) is what the outbox's numbers count in."""

    incarnation: Amount
    index: Principal


@dataclass(frozen=True, slots=True)
class Upload(Message):
    """UPLOAD_OPENED: what a grant allows, and what its use shall make visible to whom.

    `reserved` is 0 or `size`; `end` is the latest end of the grant that was seen when it opened.
    """

    grant_id: GrantId
    uid: Uid
    blob_id: BlobId
    size: Amount
    chunk_bytes: Amount
    reserved: Amount
    end: Amount
    accessors: Accessors
    ref_id: RefId
    content_type: ContentType
    filename: Filename | None
    expires_at: Amount


@dataclass(frozen=True, slots=True)
class ChunkMatched(Message):
    """The chunk equals that of the stored blob whose commit has sequence number `commit`."""

    commit: Amount


@dataclass(frozen=True, slots=True)
class Commit(Message):
    """The chunks of the upload in the header are, whole and verified, the blob in the header."""

    size: Amount
    chunk_bytes: Amount
    created_at: Amount


@dataclass(frozen=True, slots=True)
class ReferenceAdded(Message):
    """A reference to the blob in the header. `expires_at` 0 means never."""

    uid: Uid
    accessor: Principal
    ref_id: RefId
    content_type: ContentType
    filename: Filename | None
    expires_at: Amount
    created_at: Amount


@dataclass(frozen=True, slots=True)
class ReferenceRemoved(Message):
    """The reference to the blob in the header is gone."""

    uid: Uid
    accessor: Principal
    ref_id: RefId


@dataclass(frozen=True, slots=True)
class Tombstone(Message):
    """Kills one commit of the blob in the header, named by its sequence number.

    The number in the header is that of the upload whose chunks become garbage.
    """

    commit: Amount


@dataclass(frozen=True, slots=True)
class GrantRenewed(Message):
    """The open upload in the header was continued under a later end of its grant."""

    end: Amount


@dataclass(frozen=True, slots=True)
class GrantClosed(Message):
    """The grant is dead. Its open upload, the one in the header unless that is 0, ends here.

    `end` is the latest end the index issued, 0 while not known; `seen` the latest that was shown
    here. `parameters`, `size`, `accessors` and `ref_id` tell a completed one's answer again.
    """

    grant_id: GrantId
    uid: Uid
    reason: ShortText
    end: Amount = 0
    seen: Amount = 0
    parameters: Digest = b""
    size: Amount = 0
    accessors: Accessors = ()
    ref_id: RefId = b""


@dataclass(frozen=True, slots=True)
class GrantsEnded(Message):
    """The index has named the latest ends of these closed grants."""

    ends: Annotated[tuple[ClosedEnd, ...], Bounds(1, BATCH_ITEMS_MAX)]


@dataclass(frozen=True, slots=True)
class GrantsForgotten(Message):
    """The floor has passed the ends of these closed grants: they cannot come back."""

    grants: Annotated[tuple[GrantId, ...], Bounds(1, BATCH_ITEMS_MAX)]


@dataclass(frozen=True, slots=True)
class Floor(Message):
    """No grant that ends at or before `floor` completes here any more."""

    floor: Amount


@dataclass(frozen=True, slots=True)
class AccessorBurned(Message):
    """Final: nothing is ever visible to this accessor again."""

    accessor: Principal


@dataclass(frozen=True, slots=True)
class User(Message):
    """A registration. `version` 0 was learned from a grant, before the feed told."""

    uid: Uid
    principal: Principal
    version: Amount
    bytes_left: Amount
    deleted: bool


@dataclass(frozen=True, slots=True)
class Blocked(Message):
    """PRINCIPAL_BLOCKED: whether this principal is refused here."""

    principal: Principal
    blocked: bool
    version: Amount


@dataclass(frozen=True, slots=True)
class SingleUse(Message):
    """A deletion token was used: `token` names it, `target` what it deleted; kept `until`."""

    token: Digest
    target: Digest
    until: Amount


@dataclass(frozen=True, slots=True)
class SingleUseForgotten(Message):
    """These tokens are over and refused by their time."""

    tokens: Annotated[tuple[Digest, ...], Bounds(1, BATCH_ITEMS_MAX)]


@dataclass(frozen=True, slots=True)
class OutboxAcked(Message):
    """The index has every event up to `through`."""

    through: Amount


@dataclass(frozen=True, slots=True)
class FeedCursor(Message):
    """Everything of the index's feed up to here has been applied.

    `level` says as what it was read (`core.sync.feed_level`); a version before 1 wrote none. `life`
    counts the index's incarnations since the first that was read, none for that.
    """

    incarnation: Amount
    seq: Amount
    level: Amount | None = None
    life: Amount | None = None


@dataclass(frozen=True, slots=True)
class ChunksDropped(Message):
    """The chunks from index `first` to `through` of the upload in the header are gone.

    Of an ended upload: they are garbage. Of an open one: they are lost, and must come again.
    """

    through: Chunk
    first: Chunk = 0


@dataclass(frozen=True, slots=True)
class Swept(Message):
    """What had to follow from a deletion has followed, wholly."""

    target: Target


@dataclass(frozen=True, slots=True)
class Quarantined(Message):
    """Damage, as it was found. A blob in the header is not readable because of it, until HEALED.

    `blob_id` is the blob that the damaged record names, 32 zeros when it names none; `kind`,
    `seq`, `number` and `chunk_index` are the damaged record's, 0 when they are not known.
    `segment`, `offset` and `length` say where that was at `found_at`, in seconds since 1970.
    """

    what: ShortText
    found_at: Amount
    blob_id: BlobId
    kind: Chunk
    seq: Amount
    number: Amount
    chunk_index: Chunk
    segment: Chunk
    offset: Amount
    length: Amount


@dataclass(frozen=True, slots=True)
class Healed(Message):
    """The finding is over: that of the blob in the header, or the one that `finding` names."""

    finding: Digest = b""


@dataclass(frozen=True, slots=True)
class ScrubPosition(Message):
    """How far the scrub is: every record up to sequence `seq` has been read in this `cycle`.

    It began at `started_at`; the last whole one ended at `completed_at`, 0 for never (seconds since
    1970). `nbytes` and `findings` count in this cycle.
    """

    cycle: Amount
    started_at: Amount
    seq: Amount
    nbytes: Amount
    findings: Amount
    completed_at: Amount = 0


@dataclass(frozen=True, slots=True)
class Eviction(Message):
    """All of the uid's references to the blob in the header are to go, by the index's word."""

    uid: Uid


@dataclass(frozen=True, slots=True)
class BlobBlocked(Message):
    """Whether the blob in the header is refused here, stored or not."""

    blocked: bool
    version: Amount
