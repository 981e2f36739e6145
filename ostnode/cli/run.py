"""`ostnode run` and `ostnode dev`: the node itself."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import click
import trio

from ostnode.cli.defaults import DATA_DIR
from ostnode.cli.output import Output, json_option, lines_of, pass_output
from ostnode.config import load_config
from ostnode.env import SystemRng
from ostnode.ids import PrincipalKind
from ostnode.node.dev import DevNode, prepare_dev, run_dev
from ostnode.node.layout import DevLayout
from ostnode.node.logs import set_up_logging
from ostnode.node.running import run_until_signalled


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--until-eof", is_flag=True, help="Stop, too, when standard input, a pipe, comes to its end."
)
@json_option
@pass_output
def run(_output: Output, config: Path, *, until_eof: bool) -> None:
    """Run the roles that CONFIG names, until SIGTERM or Ctrl-C; then exit 0.

    What is in flight is finished first, within node.shutdown_deadline. Log lines go to standard
    error.
    """
    loaded = load_config(config, os.environ)
    set_up_logging(loaded.log)
    trio.run(partial(run_until_signalled, loaded, until_eof=until_eof))


@click.command()
@json_option
@pass_output
def dev(output: Output) -> None:
    """Run an index and two buckets in one process, with their data in ./ost-data.

    Keys and a config are made on the first start. Commands run beside that directory need no
    --index and --key.
    """
    layout = DevLayout(DATA_DIR)
    prepare_dev(layout, SystemRng())
    config = load_config(layout.config_file, os.environ)
    set_up_logging(config.log)
    trio.run(run_dev, config, layout.key_file, partial(_show, output, layout))


def _show(output: Output, layout: DevLayout, node: DevNode) -> None:
    data = {
        "index": f"{node.index.text(PrincipalKind.INDEX)}@{node.index_url}",
        "buckets": node.buckets,
        "config": str(layout.config_file),
        "dev_key": str(layout.key_file),
        "app": node.developer.text(PrincipalKind.APP),
        "user": node.developer.text(PrincipalKind.USER),
    }
    program = Path(sys.argv[0])
    try:
        command = str(program.relative_to(Path.cwd()))
    except ValueError:
        command = program.name
    tries = [
        f"{command} blob put README.md",
        f"{command} user show",
        f"{command} cluster status",
    ]
    lines = "\n".join(f"  {line}" for line in lines_of(data).splitlines())
    commands = "\n".join(f"  {line}" for line in tries)
    output.result(
        {**data, "try": tries},
        f"ostnode dev is running:\n{lines}\ntry, in another terminal:\n{commands}\n"
        "Ctrl-C ends it; the data stays.",
    )
