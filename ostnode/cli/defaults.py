"""What commands take from ./ost-data, the directory of `ostnode dev`, when nothing else is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ostnode.cli.failures import CommandError, ExitCode
from ostnode.config import load_config
from ostnode.ids import ClusterId
from ostnode.node.layout import DevLayout

DATA_DIR: Final = Path("ost-data")


def dev_layout(option: str, variable: str) -> DevLayout:
    """The files of ./ost-data; without it, a usage error that names the missing option."""
    layout = DevLayout(DATA_DIR)
    if not layout.config_file.exists():
        raise CommandError(
            f"{option} is missing",
            f"pass {option}, set {variable}, or run this beside the {DATA_DIR} of `ostnode dev`",
            ExitCode.USAGE,
        )
    return layout


def cluster_or_default(cluster: ClusterId | None) -> ClusterId:
    """The cluster id that was given, else that of ./ost-data."""
    if cluster is not None:
        return cluster
    layout = dev_layout("--cluster", "OST_CLUSTER")
    return load_config(layout.config_file, os.environ).cluster_id
