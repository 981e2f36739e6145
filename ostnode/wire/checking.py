"""Index and buckets compared at equal positions, incarnations that begin anew, and lost buckets.

A bucket asks with `compare` what is wanted, and then sends what it has, key range by key range.
Each page is as of outbox event `position`: everything up to it is acknowledged, nothing behind it
is sent before the page is answered. So both sides speak of one moment, whatever traffic there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from ostnode.ids import BlobId, Principal, Uid
from ostnode.wire.fields import (
    Amount,
    Bounds,
    EventBytes,
    Message,
    MessageText,
    Request,
    ShortText,
)

HOLDINGS_MAX: Final = 256
"""Of one page: about 20 KiB, and some milliseconds of either side."""
NAMES_MAX: Final = 500
COMPARE_WAIT_MS_MAX: Final = 60_000
FINDINGS_TOLD_MAX: Final = 100
REJECTED_TOLD_MAX: Final = 16
"""So that the answers fit a header, with events of their longest."""
BUCKETS_TOLD_MAX: Final = 256

Key = Annotated[bytes, Bounds(0, 40)]
"""A place in an order: of a holding its uid and blob id, else the name itself. Empty: the start."""
Name = Annotated[bytes, Bounds(8, 32)]


class Part(StrEnum):
    """What a `compare` is about.

    ASK waits until a comparison is wanted. BEGIN starts a full resync: what the bucket has not
    sent is counted from its position on. BURNED and DELETED name accessors and uids that are gone
    for ever, HOLDINGS what each uid holds, GRANTS the named grants that are closed. END is the
    end, and is repeated until the answer says `done`.
    """

    ASK = "ask"
    BEGIN = "begin"
    BURNED = "burned"
    DELETED = "deleted"
    HOLDINGS = "holdings"
    GRANTS = "grants"
    END = "end"


@dataclass(frozen=True, slots=True)
class Holding(Message):
    """The uid has references to the blob, whose stored size is `size`; none: damage took that."""

    uid: Uid
    blob_id: BlobId
    size: Amount | None = None


@dataclass(frozen=True, slots=True)
class Compare(Request):
    """One step of a comparison or a resync, by the bucket.

    `index_incarnation` is the index's that the bucket acknowledges. `holdings` are all that the
    bucket has with keys above `after` up to `through` (empty: to the end), in order. `names` are
    of the part BURNED, DELETED or GRANTS.
    """

    run: Amount
    part: ShortText
    incarnation: Amount
    index_incarnation: Amount
    position: Amount
    after: Key = b""
    through: Key = b""
    holdings: Annotated[tuple[Holding, ...], Bounds(0, HOLDINGS_MAX)] = ()
    names: Annotated[tuple[Name, ...], Bounds(0, NAMES_MAX)] = ()
    wait_ms: Annotated[int, Bounds(0, COMPARE_WAIT_MS_MAX)] = 0


@dataclass(frozen=True, slots=True)
class Compared(Message):
    """`run` 0: nothing is wanted. `after` is how far the index has come, `done` that it is through.

    With `resync` the bucket tells first what it knows to be deleted. `names` are grants that are
    open at the index, to be answered with those that are closed.
    """

    run: Amount
    after: Key = b""
    done: bool = False
    resync: bool = False
    names: Annotated[tuple[Name, ...], Bounds(0, NAMES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class StartCheck(Request):
    """fsck: compare the index with every bucket, or with one; with `repair` mend what is found.

    A check that runs already goes on and is answered.
    """

    bucket: Principal | None = None
    repair: bool = False


@dataclass(frozen=True, slots=True)
class GetCheck(Request):
    """How the check `run` is doing; 0 asks only what the index waits for."""

    run: Amount


@dataclass(frozen=True, slots=True)
class BucketCheck(Message):
    """One bucket's share. `state` is waiting, running, done, or away: it cannot be compared now."""

    bucket: Principal
    state: ShortText
    compared: Amount
    findings: Amount


@dataclass(frozen=True, slots=True)
class CheckProgress(Message):
    """A check. `rows` of the index's own were looked at, and `findings` of them told.

    `missing` are the buckets that have not acknowledged the incarnation a restored index has
    taken: until they have or are forgotten, nothing is granted.
    """

    run: Amount
    done: bool
    repair: bool
    rows: Amount
    findings: Amount
    buckets: Annotated[tuple[BucketCheck, ...], Bounds(0, BUCKETS_TOLD_MAX)] = ()
    missing: Annotated[tuple[Principal, ...], Bounds(0, BUCKETS_TOLD_MAX)] = ()


@dataclass(frozen=True, slots=True)
class ListFindings(Request):
    """A page of what checks have found, behind `after`, of one bucket or of all."""

    after: Annotated[bytes, Bounds(0, 128)] = b""
    bucket: Principal | None = None


@dataclass(frozen=True, slots=True)
class CheckFinding(Message):
    """Something on which index and bucket differ, as last seen.

    `kind` is one of `docs/agreement.md`; `bucket` is None for the index's own sums. `expected` and
    `found` are bytes or counts: of the index, and of what it was compared with.
    """

    kind: ShortText
    bucket: Principal | None
    uid: Uid | None
    blob_id: BlobId | None
    grant_id: Annotated[bytes, Bounds(0, 16)]
    expected: Amount
    found: Amount
    found_at: Amount
    repaired: bool


@dataclass(frozen=True, slots=True)
class FindingPage(Message):
    """Findings in order. `after` asks for the next page; empty: there is none."""

    findings: Annotated[tuple[CheckFinding, ...], Bounds(0, FINDINGS_TOLD_MAX)]
    after: Annotated[bytes, Bounds(0, 128)] = b""


@dataclass(frozen=True, slots=True)
class ForgetBucket(Request):
    """A bucket is lost for ever: free what is charged and reserved for it, a slice with each call.

    Repeated with the `after` of the last answer until that is `done`. What was in the bucket is
    told by `list_findings` as lost_blob.
    """

    bucket: Principal
    after: Key = b""


@dataclass(frozen=True, slots=True)
class Forgotten(Message):
    """What this call has freed; `done`: there is no more."""

    done: bool
    after: Key = b""
    grants: Amount = 0
    charges: Amount = 0
    blobs: Amount = 0
    bytes: Amount = 0


@dataclass(frozen=True, slots=True)
class ListRejected(Request):
    """A page of outbox events that could not be applied, behind one that is named."""

    bucket: Principal | None = None
    seq: Amount = 0


@dataclass(frozen=True, slots=True)
class SetAside(Message):
    """An outbox event as it came, why it could not be applied, and when."""

    bucket: Principal
    seq: Amount
    reason: MessageText
    event: EventBytes
    rejected_at: Amount


@dataclass(frozen=True, slots=True)
class RejectedPage(Message):
    """Events in order of bucket and number; `more` behind the last."""

    events: Annotated[tuple[SetAside, ...], Bounds(0, REJECTED_TOLD_MAX)]
    more: bool


@dataclass(frozen=True, slots=True)
class DismissRejected(Request):
    """Forget one event that was set aside, or with `seq` 0 all of a bucket's."""

    bucket: Principal
    seq: Amount = 0
