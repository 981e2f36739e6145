"""Single-node dev mode: a whole cluster in one process, its files made on the first start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from ostnode.client import connect
from ostnode.config import Config
from ostnode.env import Rng
from ostnode.errors import UserUnknownError
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, Principal
from ostnode.keyfiles import load_seed
from ostnode.node.errors import StartError
from ostnode.node.layout import INDEX_NAME, DevLayout, Listeners, NewCluster, NewRole, key_at
from ostnode.node.listeners import Bound
from ostnode.node.running import run_until_signalled

DEV_LIMIT_BYTES: Final = 10 << 30
_INDEX: Final = Listeners("127.0.0.1:7100", "127.0.0.1:7101", "127.0.0.1:7102")
_BUCKETS: Final = (
    Listeners("127.0.0.1:7110", "127.0.0.1:7111", "127.0.0.1:7112"),
    Listeners("127.0.0.1:7120", "127.0.0.1:7121", "127.0.0.1:7122"),
)
_HEADING: Final = """\
# Made by `ostnode dev`; yours to change. config/index.toml and config/bucket.toml in the
# repository explain every key. Relative paths start at the directory of this file.

"""


@dataclass(frozen=True, slots=True)
class DevNode:
    """A running dev mode: who and where its parts are."""

    index: Principal
    index_url: str
    buckets: Sequence[str]
    developer: Principal


def prepare_dev(layout: DevLayout, rng: Rng) -> None:
    """Make keys and config, each that is not there yet; raises KeyFileError and OSError.

    The config comes last: when it is there, everything is.
    """
    if layout.config_file.exists():
        return
    layout.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    cluster = NewCluster(
        ClusterId(rng.token(ClusterId.length)),
        key_at(layout.key_file, rng),
        NewRole.at(layout.root, INDEX_NAME, _INDEX, rng),
        [
            NewRole.at(layout.root, f"bucket-{number}", listeners, rng)
            for number, listeners in enumerate(_BUCKETS)
        ],
    )
    tables = "".join(map(cluster.bucket_table, cluster.buckets))
    text = _HEADING + cluster.top(shutdown_deadline="2s") + cluster.index_table() + tables
    draft = layout.config_file.with_suffix(".new")
    draft.write_text(text, "utf-8")
    draft.replace(layout.config_file)


async def run_dev(config: Config, key_file: Path, show: Callable[[DevNode], None]) -> None:
    """Run the node until Ctrl-C or SIGTERM; `show` is told once everything answers.

    The developer's key is registered as a user the first time, so that one key can do all.
    Raises what `run_until_signalled` raises.
    """
    if config.index is None or not config.bucket:
        raise StartError("dev mode's config names no index and bucket", "move it away to renew it")
    key = KeyPair.from_seed(load_seed(key_file))
    async with trio.open_nursery() as nursery:

        async def node(task_status: trio.TaskStatus[Sequence[Bound]]) -> None:
            await run_until_signalled(config, task_status=task_status)
            nursery.cancel_scope.cancel()

        bounds: Sequence[Bound] = await nursery.start(node)
        running = DevNode(
            KeyPair.from_seed(load_seed(config.index.key_file)).principal,
            f"http://{bounds[0].http}",
            [
                table.public_url or f"http://{bound.http}"
                for table, bound in zip(config.bucket, bounds[1:], strict=True)
            ],
            key.principal,
        )
        await _register(running, key)
        show(running)


async def _register(running: DevNode, key: KeyPair) -> None:
    async with connect(running.index_url, key, index=running.index) as client:
        try:
            await client.user()
        except UserUnknownError:
            await client.register_user(key.principal, DEV_LIMIT_BYTES)
