"""`ostnode cluster`: the index's view of itself and its buckets."""

from __future__ import annotations

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
from ostnode.cli.target import Target, client_options
from ostnode.client import Client
from ostnode.ids import PrincipalKind
from ostnode.wire.jsonmap import to_json
from ostnode.wire.status import BucketStatus, ClusterInfo


@click.group()
def cluster() -> None:
    """How the cluster does."""


@cluster.command("status")
@json_option
@pass_output
@client_options
def status(target: Target, output: Output) -> None:
    """Print users, bytes and every bucket's state (app or operator)."""

    async def call(client: Client) -> ClusterInfo:
        return await client.cluster_status()

    info = target.run(call)
    output.result(to_json(info), _text(info))


def _text(info: ClusterInfo) -> str:
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
    heads = ("bucket", "state", "address", "stored", "free", "heard", "behind")
    rows = [_row(bucket, info.feed_seq) for bucket in info.buckets]
    return f"{totals}\n\n{table([heads, *rows])}"


def _row(bucket: BucketStatus, feed_seq: int) -> tuple[str, ...]:
    return (
        bucket.principal.text(PrincipalKind.BUCKET),
        bucket.state,
        bucket.http or "-",
        size_text(bucket.space.stored),
        size_text(bucket.space.free),
        time_text(bucket.last_seen),
        str(max(0, feed_seq - bucket.feed_acked)),
    )
