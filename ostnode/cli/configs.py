"""`ostnode config`: check a config file, and show what a node would use."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ostnode.cli.output import Output, Value, json_option, pass_output, table, text_of
from ostnode.config import ConfigError, load_config


@click.group()
def config() -> None:
    """Check and show config files."""


@config.command("validate")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@click.pass_context
@pass_output
def validate(output: Output, ctx: click.Context, file: Path) -> None:
    """Check FILE with the environment's OST_… variables; every mistake is told. Exit 2 if any."""
    try:
        load_config(file, os.environ)
    except ConfigError as error:
        if not output.as_json:
            raise
        mistakes: list[Value] = [
            {"key": item.key, "problem": item.problem, "hint": item.hint} for item in error.mistakes
        ]
        output.result({"valid": False, "mistakes": mistakes})
        ctx.exit(2)
    output.result({"valid": True, "mistakes": []}, f"{file} is valid")


@config.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@pass_output
def show(output: Output, file: Path) -> None:
    """Print every key of FILE as a node would use it: defaults and environment filled in."""
    data: dict[str, Value] = load_config(file, os.environ).model_dump(mode="json")
    output.result(data, table([(key, text_of(value)) for key, value in _flat("", data)]))


def _flat(prefix: str, value: Value) -> list[tuple[str, Value]]:
    """`bucket[0].http` and the like, for people."""
    if isinstance(value, dict):
        inner = [(f"{prefix}.{name}".lstrip("."), item) for name, item in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        inner = [(f"{prefix}[{number}]", item) for number, item in enumerate(value)]
    else:
        return [(prefix, value)]
    return [row for name, item in inner for row in _flat(name, item)]
