"""`ostnode index`: an index whose database was put back from a backup."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from ostnode.cli.failures import CommandError, ExitCode
from ostnode.cli.output import Output, json_option, pass_output
from ostnode.config import load_config
from ostnode.env import SystemClock
from ostnode.ids import PrincipalKind
from ostnode.roles.index import DatabaseUnusableError
from ostnode.roles.index.restoring import mark_restored

_MICROSECONDS: Final = 1_000_000


@click.group()
def index() -> None:
    """See to the index's database."""


@index.command("restored")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    required=True,
    help="The index's config file.",
)
@json_option
@pass_output
def restored(output: Output, *, config_file: Path) -> None:
    """Say that the index's database was put back from a backup; before the node is started.

    It begins anew, and grants nothing until every bucket has told it what it holds.
    """
    config = load_config(config_file, os.environ)
    if config.index is None:
        raise CommandError(
            f"{config_file} has no [index]", "name the index's config", ExitCode.USAGE
        )
    now_us = int(SystemClock().now() * _MICROSECONDS)
    try:
        incarnation, missing = mark_restored(config.index.data_dir, now_us)
    except DatabaseUnusableError as error:
        hint = "see index.data_dir; the node must be stopped"
        raise CommandError(str(error), hint) from error
    names = [bucket.text(PrincipalKind.BUCKET) for bucket in missing]
    output.result({"incarnation": incarnation, "waits_for": names})
