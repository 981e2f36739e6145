"""The `ostnode` command: its subcommands, and how every one of them ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from ostnode import __version__
from ostnode.cli.failures import ExitCode, Failure, failure_of
from ostnode.cli.lazy import LazyCommand, LazyGroup
from ostnode.cli.output import Output, Value, json_text, printable

_HELP: Final = """A content-addressed blob store for chat apps.

\b
Exit codes: 0 ok, 1 failed, 2 usage or config, 3 not found, 4 not allowed,
5 over the allowance, 6 unreachable or unavailable now, 7 integrity.

Commands that talk to a cluster take --index and --key, or OST_INDEX and OST_KEY; beside a
directory ost-data (made by `ostnode dev`) they need neither.
"""
_INTERRUPTED: Final = 130
"""128 + SIGINT, what shells report of a program that Ctrl-C ended."""

cli: Final = LazyGroup(
    help=_HELP,
    lazy={
        "run": LazyCommand("ostnode.cli.run:run", "Run a node from its config, until SIGTERM."),
        "dev": LazyCommand("ostnode.cli.run:dev", "Run a single-node cluster in ./ost-data."),
        "demo": LazyCommand("ostnode.cli.demo.command:demo", "Show every flow on real processes."),
        "key": LazyCommand("ostnode.cli.keys:key", "Make and show key files."),
        "user": LazyCommand("ostnode.cli.users:user", "Users and their allowances (app)."),
        "accessor": LazyCommand("ostnode.cli.accessors:accessor", "Chats: new keys, deletion."),
        "token": LazyCommand("ostnode.cli.tokens:token", "Mint and inspect access tokens."),
        "blob": LazyCommand(
            "ostnode.cli.blobs:blob", "Put, get, stat and remove blobs; block them."
        ),
        "cluster": LazyCommand("ostnode.cli.cluster:cluster", "How the cluster does."),
        "fsck": LazyCommand("ostnode.cli.fsck:fsck", "Compare index and buckets (operator)."),
        "index": LazyCommand("ostnode.cli.indexes:index", "The index's database."),
        "store": LazyCommand("ostnode.cli.store:store", "Look into a bucket's data directory."),
        "bucket": LazyCommand("ostnode.cli.bucket:bucket", "Joining and upkeep (operator)."),
        "fuzz": LazyCommand("ostnode.cli.fuzz:fuzz", "Attack a node over the peer protocol."),
        "sim": LazyCommand("ostnode.cli.sim:sim", "Run a cluster in virtual time, under faults."),
        "config": LazyCommand("ostnode.cli.configs:config", "Check and show config files."),
    },
)
click.version_option(__version__, prog_name="ostnode")(cli)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Bugs propagate with their traceback."""
    output = Output()
    try:
        code = cli.main(list(arguments), prog_name="ostnode", standalone_mode=False, obj=output)
    except click.UsageError as error:
        if not output.as_json:
            error.show()
            return ExitCode.USAGE
        return _tell(output, Failure(ExitCode.USAGE, "usage", error.format_message()))
    except click.ClickException as error:
        return _tell(output, Failure(ExitCode.FAILED, "failed", error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except (Exception, BaseExceptionGroup) as error:
        if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None:
            return _interrupted()
        failure = failure_of(error)
        if failure is None:
            raise
        return _tell(output, failure)
    return code if isinstance(code, int) else ExitCode.OK


def _interrupted() -> int:
    click.echo("interrupted", err=True)
    return _INTERRUPTED


def _tell(output: Output, failure: Failure) -> int:
    if output.as_json:
        error: dict[str, Value] = {
            "code": failure.code,
            "message": failure.message,
            "hint": failure.hint,
            "details": dict(failure.details),
        }
        click.echo(json_text({"error": error}), err=True)
    else:
        for line in f"error: {failure.message}".split("\n"):
            click.echo(printable(line), err=True)
        if failure.hint:
            click.echo(f"hint: {failure.hint}", err=True)
    return failure.exit_code
