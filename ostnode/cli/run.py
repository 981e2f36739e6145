"""`ostnode run` and `ostnode dev`: the node itself."""

from __future__ import annotations

import os
from pathlib import Path

import click
import trio

from ostnode.cli.output import Output, json_option, pass_output
from ostnode.config import load_config
from ostnode.node.logs import set_up_logging
from ostnode.node.running import run_until_signalled


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@json_option
@pass_output
def run(_output: Output, config: Path) -> None:
    """Run the roles that CONFIG names, until SIGTERM or Ctrl-C; then exit 0.

    What is in flight is finished first, within node.shutdown_deadline. Log lines go to standard
    error.
    """
    loaded = load_config(config, os.environ)
    set_up_logging(loaded.log)
    trio.run(run_until_signalled, loaded)
