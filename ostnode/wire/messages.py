"""Every call's request and result, as frozen dataclasses: the one definition of the interface.

The peer protocol carries them as strict CBOR maps (field name → value), HTTP as JSON or headers.
Limits stand in the annotations and are enforced wherever a message is parsed. Sizes are bytes,
times are whole seconds since 1970 unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.wire.fields import (
    BATCH_ITEMS_MAX,
    READ_BYTES_MAX,
    TOKEN_BYTES_MAX,
    Accessors,
    Address,
    Amount,
    Bounds,
    Chunk,
    ContentType,
    EventBytes,
    Filename,
    Message,
    MessageText,
    RefId,
    Request,
    ShortText,
    Token,
    Zone,
)


@dataclass(frozen=True, slots=True)
class Ok(Message):
    """Done; nothing to say."""


@dataclass(frozen=True, slots=True)
class BucketAddress(Message):
    """Where a bucket is: `http` is a base URL without a trailing slash."""

    principal: Principal
    http: Address


@dataclass(frozen=True, slots=True)
class Allowance(Message):
    """A user's byte accounts; `used + reserved` never rises above `limit`."""

    limit: Amount
    used: Amount
    reserved: Amount


@dataclass(frozen=True, slots=True)
class ItemResult(Message):
    """One item of a batch: `code` and `message` are empty when it succeeded."""

    code: ShortText = ""
    message: MessageText = ""


@dataclass(frozen=True, slots=True)
class BatchResult(Message):
    """One result per item, in the order asked."""

    results: Annotated[tuple[ItemResult, ...], Bounds(0, BATCH_ITEMS_MAX)]


# --- Index: users -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UserChange(Message):
    """One ordered change: `op` is register, update or delete.

    Registering a registered principal updates it; deleting an unknown one succeeds: both are
    what a retry looks like. `byte_limit` is ignored on delete.
    """

    op: ShortText
    principal: Principal
    byte_limit: Amount = 0
    on_full: ShortText = "refuse"


@dataclass(frozen=True, slots=True)
class ChangeUsers(Request):
    """register_user, update_user and delete_user: a batch applied in the order given."""

    changes: Annotated[tuple[UserChange, ...], Bounds(1, BATCH_ITEMS_MAX)]


@dataclass(frozen=True, slots=True)
class GetUser(Request):
    """A user's account; without a principal, the caller's own."""

    principal: Principal | None = None


@dataclass(frozen=True, slots=True)
class UserInfo(Message):
    """One registration and its accounts."""

    principal: Principal
    uid: Uid
    allowance: Allowance
    on_full: ShortText
    blocked: bool


@dataclass(frozen=True, slots=True)
class ChangePrincipal(Request):
    """Move a registration from one principal to another; the uid stays."""

    old: Principal
    new: Principal


@dataclass(frozen=True, slots=True)
class BlockPrincipal(Request):
    """A blocked principal gets no session and no read, registered or not."""

    principal: Principal
    blocked: bool = True


# --- Index: allocation --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allocate(Request):
    """allocated_bucket: reserve `size` bytes for the caller and name the blob's bucket."""

    blob_id: BlobId
    size: Amount


@dataclass(frozen=True, slots=True)
class Allocation(Message):
    """A grant (COSE_Sign1 bytes) to put one blob into one bucket, and the projected account."""

    grant: Token
    grant_id: GrantId
    expires_at: Amount
    bucket: BucketAddress
    chunk_bytes: Amount
    already_yours: bool
    allowance: Allowance


@dataclass(frozen=True, slots=True)
class ReleaseGrant(Request):
    """Give a grant back; its reservation is freed once the bucket has closed it."""

    grant_id: GrantId


@dataclass(frozen=True, slots=True)
class CanForward(Request):
    """Would a forward of this blob fit? Answers the projected allowance."""

    blob_id: BlobId
    size: Amount


@dataclass(frozen=True, slots=True)
class Locate(Request):
    """The bucket that holds a blob now, for whoever may read it."""

    accessor: Principal
    blob_id: BlobId
    token: Annotated[bytes, Bounds(0, TOKEN_BYTES_MAX)] = b""


@dataclass(frozen=True, slots=True)
class DeleteAccessor(Request):
    """delete_chat: final, idempotent. The app needs no token."""

    accessor: Principal
    token: Annotated[bytes, Bounds(0, TOKEN_BYTES_MAX)] = b""


# --- Index: buckets -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Space(Message):
    """A bucket's disk, in bytes."""

    total: Amount
    free: Amount
    stored: Amount


@dataclass(frozen=True, slots=True)
class SyncBucket(Request):
    """A run of outbox events `first_seq …`, each one CBOR of `wire.events`; may be empty.

    A batch whose answer was lost is sent again byte for byte. `zone` and `weight` go with links
    that agreed on `ledger`.
    """

    incarnation: Amount
    first_seq: Amount
    events: Annotated[tuple[EventBytes, ...], Bounds(0, BATCH_ITEMS_MAX)]
    space: Space
    http: Address
    zone: Zone | None = None
    weight: Amount | None = None


@dataclass(frozen=True, slots=True)
class ClosedEnd(Message):
    """The latest end ever issued for a grant that is closed."""

    grant_id: GrantId
    end: Amount


@dataclass(frozen=True, slots=True)
class RejectedEvent(Message):
    """An event that was set aside; the queue moved on."""

    seq: Amount
    reason: MessageText


@dataclass(frozen=True, slots=True)
class SyncResult(Message):
    """Everything up to `acked_seq` is applied (or set aside) and durable."""

    acked_seq: Amount
    closed: Annotated[tuple[ClosedEnd, ...], Bounds(0, BATCH_ITEMS_MAX)] = ()
    rejected: Annotated[tuple[RejectedEvent, ...], Bounds(0, BATCH_ITEMS_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Feed(Request):
    """Events behind the cursor; waits up to `wait_ms` while there are none.

    `incarnation` is the index's that the cursor counts in; 0 with seq 0 on first contact.
    """

    incarnation: Amount
    seq: Amount
    wait_ms: Annotated[int, Bounds(0, 60_000)]


@dataclass(frozen=True, slots=True)
class FeedBatch(Message):
    """Ordered events, each one CBOR of `wire.events`; the cursor to ask with next.

    `index_time` is the index's clock: the bucket's grant floor never passes it.
    """

    incarnation: Amount
    next_seq: Amount
    index_time: Amount
    events: Annotated[tuple[EventBytes, ...], Bounds(0, BATCH_ITEMS_MAX)] = ()


# --- Bucket: uploads ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PushChunk(Request):
    """upload_chunk: one chunk (the frame's raw body) of the grant's blob.

    The upload's parameters ride with every chunk and must not change. No accessors means the
    null accessor. `expires_at` 0 means never.
    """

    grant: Token
    chunk_index: Chunk
    accessors: Accessors = ()
    ref_id: RefId = b""
    content_type: ContentType = ""
    filename: Filename | None = None
    expires_at: Amount = 0


@dataclass(frozen=True, slots=True)
class BlobReference(Message):
    """What a chat message carries so that readers can find the blob and its owner can delete it."""

    blob_id: BlobId
    size: Amount
    bucket: Principal
    owner: Uid
    accessors: Accessors
    ref_id: RefId


@dataclass(frozen=True, slots=True)
class PushResult(Message):
    """`missing` chunks remain, or the upload is complete and `reference` says what was made."""

    missing: Amount
    reference: BlobReference | None = None


@dataclass(frozen=True, slots=True)
class UploadStatus(Request):
    """Which chunks of the caller's open upload of a blob have arrived."""

    blob_id: BlobId


@dataclass(frozen=True, slots=True)
class UploadInfo(Message):
    """`received` is a bitmap: chunk i is bit `i % 8` (from the least) of byte `i // 8`."""

    grant_id: GrantId
    size: Amount
    chunk_bytes: Amount
    received: Annotated[bytes, Bounds(0, 1 << 15)]
    expires_at: Amount


@dataclass(frozen=True, slots=True)
class CancelUpload(Request):
    """Drop the chunks of the caller's open upload of a blob and close its grant."""

    blob_id: BlobId


# --- Bucket: references -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddReference(Request):
    """add_blob_reference: forward. `source` and `token` are a reader's proof of access.

    The owner forwards its own blob with its own principal as `source` and no token.
    """

    grant: Token
    source: Principal
    token: Annotated[bytes, Bounds(0, TOKEN_BYTES_MAX)]
    accessors: Accessors
    ref_id: RefId = b""
    content_type: ContentType = ""
    filename: Filename | None = None
    expires_at: Amount = 0


@dataclass(frozen=True, slots=True)
class ReferenceKey(Message):
    """One reference to remove: by a ref.del token, or by its owner without one."""

    blob_id: BlobId
    owner: Uid
    accessor: Principal
    ref_id: RefId = b""
    token: Annotated[bytes, Bounds(0, TOKEN_BYTES_MAX)] = b""


@dataclass(frozen=True, slots=True)
class RemoveReferences(Request):
    """delete_blob = remove_blob_reference, as a batch with a result per item."""

    references: Annotated[tuple[ReferenceKey, ...], Bounds(1, 64)]


@dataclass(frozen=True, slots=True)
class BlobInfoRequest(Request):
    """blob_info: what a GET would serve. An owner names its own principal and no token."""

    accessor: Principal
    blob_id: BlobId
    token: Annotated[bytes, Bounds(0, TOKEN_BYTES_MAX)] = b""


@dataclass(frozen=True, slots=True)
class BlobInfo(Message):
    """A readable blob; `own_references` counts the caller's own references, up to 256."""

    size: Amount
    content_type: ContentType
    filename: Filename | None
    created_at: Amount
    own_references: Amount


@dataclass(frozen=True, slots=True)
class ReadBlob(Request):
    """read_blob over the peer link: up to READ_BYTES_MAX bytes as the answer's raw body."""

    accessor: Principal
    blob_id: BlobId
    offset: Amount
    length: Annotated[int, Bounds(0, READ_BYTES_MAX)]
    token: Annotated[bytes, Bounds(0, TOKEN_BYTES_MAX)] = b""
