"""`ostnode key`: key files of users, apps, nodes and operators."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from ostnode.cli.output import Output, json_option, pass_output
from ostnode.cli.parameters import KIND
from ostnode.env import SystemRng
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, PrincipalKind
from ostnode.keyfiles import create_key_file, load_seed

_KIND_HELP: Final = "What the key is for: only how its principal is printed."


@click.group()
def key() -> None:
    """Make and show key files."""


@key.command("gen")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--kind", type=KIND, default="usr", show_default=True, help=_KIND_HELP)
@json_option
@pass_output
def generate(output: Output, file: Path, kind: str) -> None:
    """Make a new key in FILE (mode 0600) and print its principal.

    With --kind idx a fresh cluster id is printed too: a new cluster's configs need one.
    """
    seed = create_key_file(file)
    data = {
        "principal": KeyPair.from_seed(seed).principal.text(PrincipalKind(kind)),
        "file": str(file),
    }
    if kind == PrincipalKind.INDEX:
        data["cluster_id"] = str(ClusterId(SystemRng().token(ClusterId.length)))
    output.result(data)


@key.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--kind", type=KIND, default="usr", show_default=True, help=_KIND_HELP)
@json_option
@pass_output
def show(output: Output, file: Path, kind: str) -> None:
    """Print the principal of the key in FILE; never the key."""
    principal = KeyPair.from_seed(load_seed(file)).principal
    output.result({"principal": principal.text(PrincipalKind(kind)), "file": str(file)})
