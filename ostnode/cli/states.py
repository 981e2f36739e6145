"""`ostnode bucket activate, standby, full, retire`: what operators decide of a bucket."""

from __future__ import annotations

from typing import Final

import click

from ostnode.cli.output import Output, json_option, pass_output
from ostnode.cli.parameters import BUCKET_PRINCIPAL
from ostnode.cli.target import Target, client_options
from ostnode.client import Client
from ostnode.ids import Principal, PrincipalKind

_SUMMARIES: Final = {
    "activate": ("active", "Let BUCKET take new blobs again."),
    "standby": ("standby", "Let BUCKET wait until too few others are active."),
    "full": ("full", "Place nothing new in BUCKET, until `activate`."),
    "retire": ("retired", "Place nothing new in BUCKET any more; it goes on serving what it has."),
}


def _command(name: str, state: str, summary: str) -> click.Command:
    @click.command(
        name,
        help=f"{summary}\n\nPrints the state that it has then: a silent or full "
        "bucket takes a decision up as soon as it can.",
    )
    @click.argument("bucket", type=BUCKET_PRINCIPAL)
    @json_option
    @pass_output
    @client_options
    def set_state(target: Target, output: Output, bucket: Principal) -> None:
        async def call(client: Client) -> str:
            return await client.set_bucket_state(bucket, state)

        now = target.run(call)
        output.result({"bucket": bucket.text(PrincipalKind.BUCKET), "decided": state, "state": now})

    return set_state


COMMANDS: Final = tuple(_command(name, *told) for name, told in _SUMMARIES.items())
