"""cluster_status: the messages that operators look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ostnode.ids import ClusterId, Principal
from ostnode.wire.fields import Address, Amount, Bounds, Message, Request, ShortText
from ostnode.wire.messages import Space


@dataclass(frozen=True, slots=True)
class BucketStatus(Message):
    """A bucket as the index sees it; `wire.fleet` lists the states."""

    principal: Principal
    state: ShortText
    http: Address
    incarnation: Amount
    space: Space
    last_seen: Amount
    outbox_acked: Amount
    feed_acked: Amount


@dataclass(frozen=True, slots=True)
class ClusterStatus(Request):
    """Who is in the cluster and how it does."""


@dataclass(frozen=True, slots=True)
class ClusterInfo(Message):
    """Totals are of live rows. `users` counts registrations that are not deleted."""

    cluster_id: ClusterId
    index: Principal
    incarnation: Amount
    feed_seq: Amount
    users: Amount
    charges: Amount
    open_grants: Amount
    bytes_used: Amount
    bytes_reserved: Amount
    rejected_events: Amount
    buckets: Annotated[tuple[BucketStatus, ...], Bounds(0, 256)]
