"""For a bucket that is lost, and events that nobody could apply."""

from __future__ import annotations

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
from ostnode.cli.parameters import BUCKET_PRINCIPAL
from ostnode.cli.target import Target, client_options
from ostnode.client import Client
from ostnode.ids import Principal, PrincipalKind
from ostnode.wire.checking import CheckFinding, Forgotten, SetAside
from ostnode.wire.jsonmap import to_json

_LISTED_MAX: Final = 10_000


@click.command("forget")
@click.argument("bucket", type=BUCKET_PRINCIPAL)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_output
@client_options
def forget(target: Target, output: Output, bucket: Principal, *, yes: bool) -> None:
    """BUCKET is lost for ever: give everybody back what they are charged for its blobs.

    It must have been revoked. Prints the blobs that are lost, for whoever can bring them again.
    It may come back only empty. Interrupted, run it again.
    """
    if not yes:
        click.confirm("Are its data directory and all copies of it gone for ever?", abort=True)

    async def call(client: Client) -> tuple[list[Forgotten], list[CheckFinding]]:
        slices = [await client.forget_bucket(bucket)]
        while not slices[-1].done:
            slices.append(await client.forget_bucket(bucket, after=slices[-1].after))
        page = await client.list_findings(bucket)
        lost = [*page.findings]
        while page.after and len(lost) < _LISTED_MAX:
            page = await client.list_findings(bucket, after=page.after)
            lost += page.findings
        return slices, lost

    slices, lost = target.run(call)
    freed = sum(told.bytes for told in slices)
    data = {
        "charges": sum(told.charges for told in slices),
        "grants": sum(told.grants for told in slices),
        "bytes": freed,
    }
    blobs = [row for row in lost if row.kind == "lost_blob" and row.blob_id is not None]
    listed = [(str(row.blob_id), size_text(row.expected), str(row.found)) for row in blobs]
    text = lines_of({**data, "bytes": size_text(freed)})
    output.result(
        {**data, "lost": [{"blob_id": str(row.blob_id), "size": row.expected} for row in blobs]},
        f"{text}\n\n{table([('lost blob', 'size', 'owners'), *listed])}",
    )


@click.group("events")
def events() -> None:
    """Events of buckets that the index could not apply, and set aside."""


@events.command("ls")
@json_option
@pass_output
@client_options
def list_events(target: Target, output: Output) -> None:
    """List them: a bug, or damage, which `ostnode fsck` finds the consequences of."""

    async def call(client: Client) -> list[SetAside]:
        page = await client.list_rejected()
        rows = [*page.events]
        while page.more and len(rows) < _LISTED_MAX:
            page = await client.list_rejected(rows[-1].bucket, seq=rows[-1].seq)
            rows += page.events
        return rows

    rows = target.run(call)
    heads = ("bucket", "number", "since", "reason", "event")
    listed = [
        (
            row.bucket.text(PrincipalKind.BUCKET),
            str(row.seq),
            time_text(row.rejected_at),
            row.reason,
            row.event.hex(),
        )
        for row in rows
    ]
    text = table([heads, *listed]) if rows else "no event was set aside"
    output.result({"events": [to_json(row) for row in rows]}, text)


@events.command("dismiss")
@click.argument("bucket", type=BUCKET_PRINCIPAL)
@click.argument("number", type=click.IntRange(1), required=False)
@json_option
@pass_output
@client_options
def dismiss(target: Target, output: Output, bucket: Principal, number: int | None) -> None:
    """Forget BUCKET's event of that NUMBER; without one, all of BUCKET's."""

    async def call(client: Client) -> None:
        await client.dismiss_rejected(bucket, seq=number or 0)

    target.run(call)
    output.result({"dismissed": number or "all"})
