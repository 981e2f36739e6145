"""`ostnode accessor`: chats. An accessor is a key; the app keeps it."""

from __future__ import annotations

from pathlib import Path

import click

from ostnode.cli.defaults import cluster_or_default
from ostnode.cli.output import Output, json_option, pass_output
from ostnode.cli.parameters import ACCESSOR, CLUSTER_ID
from ostnode.cli.target import Target, client_options
from ostnode.client import Client
from ostnode.client.tokens import mint_accessor_delete
from ostnode.errors import InvalidArgumentError
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, Principal, PrincipalKind
from ostnode.keyfiles import create_key_file, load_seed


@click.group()
def accessor() -> None:
    """Make and delete accessors (chats)."""


@accessor.command("new")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@pass_output
def new(output: Output, file: Path) -> None:
    """Make the key of a new chat in FILE and print its accessor."""
    key = KeyPair.from_seed(create_key_file(file))
    output.result({"accessor": key.principal.text(PrincipalKind.ACCESSOR), "file": str(file)})


@accessor.command("rm")
@click.argument("accessor", type=ACCESSOR)
@click.option(
    "--accessor-key",
    type=click.Path(path_type=Path),
    help="The chat's key file: a user who is not the app needs it.",
)
@click.option("--cluster", type=CLUSTER_ID, envvar="OST_CLUSTER", help="The cluster's id.")
@json_option
@pass_output
@client_options
def remove(
    target: Target,
    output: Output,
    *,
    accessor: Principal,
    accessor_key: Path | None,
    cluster: ClusterId | None,
) -> None:
    """Delete ACCESSOR for ever: every bucket drops its references; owners get the bytes back."""
    token = b""
    if accessor_key is not None:
        key = KeyPair.from_seed(load_seed(accessor_key))
        if key.principal != accessor:
            raise InvalidArgumentError(f"{accessor_key} is the key of another accessor")
        caller = target.key.principal
        token = mint_accessor_delete(key, caller, cluster_id=cluster_or_default(cluster))

    async def call(client: Client) -> None:
        await client.delete_accessor(accessor, token=token)

    target.run(call)
    output.result({"deleted": accessor.text(PrincipalKind.ACCESSOR)})
