"""`ostnode cluster`: the index's view of itself and its buckets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import click

from ostnode.cli.output import (
    Output,
    json_option,
    lines_of,
    pass_output,
    size_text,
    table,
    time_text,
)
from ostnode.cli.restoring import events
from ostnode.cli.target import Target, client_options
from ostnode.client import Client
from ostnode.errors import NotAuthorizedError, NotFoundError, UnknownCallError
from ostnode.ids import PrincipalKind
from ostnode.wire.fleet import BUCKETS_TOLD_MAX, FleetBucket, FleetInfo
from ostnode.wire.jsonmap import to_json
from ostnode.wire.status import BucketStatus, ClusterInfo

_HEADS: Final = ("bucket", "state", "address", "stored", "free", "heard", "behind")
_FLEET_HEADS: Final = (
    "bucket", "state", "zone", "weight", "address", "stored", "free", "heard", "behind"
)  # fmt: skip


@click.group()
def cluster() -> None:
    """How the cluster does."""


@cluster.command("status")
@json_option
@pass_output
@client_options
def status(target: Target, output: Output) -> None:
    """Print users, bytes and every bucket's state (app or operator)."""

    async def call(client: Client) -> tuple[ClusterInfo, FleetInfo | None, list[str]]:
        return await client.cluster_status(), await _fleet(client), await _missing(client)

    info, fleet, missing = target.run(call)
    data = to_json(info)
    if fleet is not None:
        data["fleet"] = to_json(fleet)
    text = _text(info, fleet)
    if missing:
        data["missing"] = [*missing]
        text += f"\n\n{lines_of({'restored, waits for': missing})}"
    output.result(data, text)


async def _missing(client: Client) -> list[str]:
    """Buckets that a restored index waits for, before it grants; operators alone are told."""
    try:
        missing = (await client.check_progress()).missing
    except (NotAuthorizedError, NotFoundError, UnknownCallError):
        return []
    return [bucket.text(PrincipalKind.BUCKET) for bucket in missing]


async def _fleet(client: Client) -> FleetInfo | None:
    """All buckets; None of an index that cannot tell."""
    try:
        first = page = await client.fleet_status()
    except (NotFoundError, UnknownCallError):
        return None
    buckets = list(first.buckets)
    while len(page.buckets) == BUCKETS_TOLD_MAX:
        page = await client.fleet_status(after=page.buckets[-1].principal)
        buckets += page.buckets
    return replace(first, buckets=tuple(buckets))


cluster.add_command(events)


def _text(info: ClusterInfo, fleet: FleetInfo | None) -> str:
    totals = lines_of({
        "cluster": str(info.cluster_id),
        "index": info.index.text(PrincipalKind.INDEX),
        "users": info.users,
        "charges": info.charges,
        "used": size_text(info.bytes_used),
        "reserved": size_text(info.bytes_reserved),
        "open_grants": info.open_grants,
        "feed": info.feed_seq,
        "rejected_events": info.rejected_events,
    })
    if fleet is None:
        rows: list[Sequence[str]] = [
            _HEADS,
            *(_row(bucket, info.feed_seq) for bucket in info.buckets),
        ]
        return f"{totals}\n\n{table(rows)}"
    rows = [_FLEET_HEADS, *map(_fleet_row, fleet.buckets)]
    return f"{totals}\n{_supply_text(fleet)}\n\n{table(rows)}"


def _supply_text(fleet: FleetInfo) -> str:
    active = f"{fleet.active} of {fleet.target_active}" if fleet.target_active else fleet.active
    free = size_text(fleet.free)
    if fleet.headroom:
        free = f"{free}, {size_text(fleet.headroom)} wanted"
    lines = {"active_buckets": active, "free_there": free}
    if fleet.making:
        lines["being_made"] = f"bucket {fleet.making}"
    if fleet.alert:
        lines["alert"] = fleet.alert
    return lines_of(lines)


def _fleet_row(bucket: FleetBucket) -> Sequence[str]:
    # What was decided and what is so differ while a bucket is full, silent or not approved.
    is_as_decided = bucket.state in {bucket.intent, "full", "pending", "revoked"}
    return (
        bucket.principal.text(PrincipalKind.BUCKET),
        bucket.state if is_as_decided else f"{bucket.state} ({bucket.intent})",
        bucket.zone or "-",
        size_text(bucket.weight) if bucket.weight else "-",
        bucket.http or "-",
        size_text(bucket.space.stored),
        size_text(bucket.space.free),
        time_text(bucket.last_seen),
        str(bucket.feed_behind),
    )


def _row(bucket: BucketStatus, feed_seq: int) -> Sequence[str]:
    return (
        bucket.principal.text(PrincipalKind.BUCKET),
        bucket.state,
        bucket.http or "-",
        size_text(bucket.space.stored),
        size_text(bucket.space.free),
        time_text(bucket.last_seen),
        str(max(0, feed_seq - bucket.feed_acked)),
    )
