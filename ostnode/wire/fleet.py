"""The buckets as operators see and set them, and whether there are enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from ostnode.ids import Principal
from ostnode.wire.fields import (
    Address,
    Amount,
    Bounds,
    Message,
    MessageText,
    Request,
    ShortText,
    Zone,
)
from ostnode.wire.messages import Space

BUCKETS_TOLD_MAX: Final = 32
"""Of one page, which fits the 64 KiB of a header with the longest addresses and zones."""


@dataclass(frozen=True, slots=True)
class SetBucketState(Request):
    """Decide what a bucket is for: `state` is standby, active, full or retired.

    The bucket keeps what it has. A silent or full one takes it up as soon as it can.
    """

    bucket: Principal
    state: ShortText


@dataclass(frozen=True, slots=True)
class BucketStanding(Message):
    """The state that the bucket has now."""

    state: ShortText


@dataclass(frozen=True, slots=True)
class FleetStatus(Request):
    """A page of the buckets, those whose principal comes after `after`, and how they suffice."""

    after: Principal | None = None


@dataclass(frozen=True, slots=True)
class FleetBucket(Message):
    """A bucket as the index sees it.

    `state` is pending, standby, active, full, draining, retired, lost or revoked; `intent` is what
    it was decided to be. `weight` is its share of new blobs, 0 for the size of its disk.
    `feed_behind` counts events of the feed that it has not acknowledged.
    """

    principal: Principal
    state: ShortText
    intent: ShortText
    http: Address
    zone: Zone
    weight: Amount
    space: Space
    last_seen: Amount
    feed_behind: Amount


@dataclass(frozen=True, slots=True)
class FleetInfo(Message):
    """Buckets by principal; there are more when there are BUCKETS_TOLD_MAX of them.

    `active` of `target_active` buckets take new blobs, with `free` bytes; `headroom` are wanted.
    `making` is the number of the bucket that is being provided, 0 for none. `alert` says what an
    operator must see to, empty when nothing.
    """

    active: Amount
    target_active: Amount
    free: Amount
    headroom: Amount
    making: Amount
    alert: MessageText
    buckets: Annotated[tuple[FleetBucket, ...], Bounds(0, BUCKETS_TOLD_MAX)]
