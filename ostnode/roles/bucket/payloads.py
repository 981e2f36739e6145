"""Which payload belongs to which kind of record, and both ways between payloads and bytes."""

from __future__ import annotations

from typing import Final

from ostnode.roles.bucket.memo import Memo
from ostnode.roles.bucket.records import (
    AccessorBurned,
    BlobBlocked,
    Blocked,
    ChunkMatched,
    ChunksDropped,
    Commit,
    Eviction,
    FeedCursor,
    Floor,
    GrantClosed,
    GrantRenewed,
    GrantsEnded,
    GrantsForgotten,
    Healed,
    Init,
    Kind,
    OutboxAcked,
    Quarantined,
    ReferenceAdded,
    ReferenceRemoved,
    ScrubPosition,
    SingleUse,
    SingleUseForgotten,
    Swept,
    Tombstone,
    Upload,
    User,
)
from ostnode.wire.fields import Message
from ostnode.wire.schema import decode_message, encode_message

Payload = (
    Init | Upload | ChunkMatched | Commit | ReferenceAdded | ReferenceRemoved | Tombstone
    | GrantRenewed | GrantClosed | GrantsEnded | GrantsForgotten | Floor | AccessorBurned | User
    | Blocked | SingleUse | SingleUseForgotten | OutboxAcked | FeedCursor | ChunksDropped | Swept
    | Quarantined | Healed | ScrubPosition | Eviction | BlobBlocked
)  # fmt: skip

KINDS: Final[dict[type[Payload], Kind]] = {
    Init: Kind.INIT,
    Upload: Kind.UPLOAD_OPENED,
    ChunkMatched: Kind.CHUNK_MATCHED,
    Commit: Kind.COMMIT,
    ReferenceAdded: Kind.REFERENCE_ADDED,
    ReferenceRemoved: Kind.REFERENCE_REMOVED,
    Tombstone: Kind.TOMBSTONE,
    GrantRenewed: Kind.GRANT_RENEWED,
    GrantClosed: Kind.GRANT_CLOSED,
    GrantsEnded: Kind.GRANTS_ENDED,
    GrantsForgotten: Kind.GRANTS_FORGOTTEN,
    Floor: Kind.FLOOR,
    AccessorBurned: Kind.ACCESSOR_BURNED,
    User: Kind.USER,
    Blocked: Kind.PRINCIPAL_BLOCKED,
    SingleUse: Kind.SINGLE_USE,
    SingleUseForgotten: Kind.SINGLE_USE_FORGOTTEN,
    OutboxAcked: Kind.OUTBOX_ACKED,
    FeedCursor: Kind.FEED_CURSOR,
    ChunksDropped: Kind.CHUNKS_DROPPED,
    Swept: Kind.SWEPT,
    Quarantined: Kind.QUARANTINED,
    Healed: Kind.HEALED,
    ScrubPosition: Kind.SCRUB_POSITION,
    Eviction: Kind.EVICTION,
    BlobBlocked: Kind.BLOB_BLOCKED,
}
_CLASSES: Final = {kind: cls for cls, kind in KINDS.items()}
_remembered: Final = Memo[tuple[int, bytes], Message](1024)
"""By their bytes: what a decision encodes, its draft, the reducer and later requests decode."""


def encode_payload(payload: Payload) -> bytes:
    """The payload as the log holds it."""
    data = encode_message(payload)
    _remembered.put((KINDS[type(payload)], data), payload)
    return data


def decode_payload(kind: int, data: bytes) -> Message:
    """The payload of a metadata record; raises InvalidArgumentError for one that is none."""
    payload = _remembered.get((kind, data))
    if payload is None:
        payload = decode_message(_CLASSES[Kind(kind)], data)
        _remembered.put((kind, data), payload)
    return payload
