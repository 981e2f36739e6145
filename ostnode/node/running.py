"""A node from start to stop: its roles and listeners in order, and back in the reverse order.

Start: admin listeners (alive, not ready), then each role's store or database, recovered, with its
background work, then the listeners that answer. Stop: listeners first, each finishing what it has
in flight within the deadline, then background work, then stores; admin listeners last.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final

import structlog
import trio

from ostnode import __version__
from ostnode.config import BucketConfig, Config, IndexConfig
from ostnode.errors import first_failure
from ostnode.node.bucket import open_bucket_role
from ostnode.node.descriptors import raise_limit, within_descriptors
from ostnode.node.errors import NodeFailedError
from ostnode.node.index import open_index_role
from ostnode.node.listeners import Bound, serve_admin, serve_role
from ostnode.node.role import Role, RoleReadiness
from ostnode.node.seams import Seams
from ostnode.roles.index import DatabaseFailedError
from ostnode.store.errors import StoreFailedError

_INPUT_BYTES: Final = 4096
_log: Final = structlog.get_logger(__name__)


async def run_until_signalled(
    config: Config,
    seams: Seams | None = None,
    *,
    until_eof: bool = False,
    task_status: trio.TaskStatus[Sequence[Bound]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until SIGTERM or SIGINT; a second one ends it without waiting for anybody.

    With `until_eof` also until standard input, a pipe, ends: with whoever started this process.

    Raises what `run_node` raises, and NodeFailedError for that second signal.
    """
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_watch_signals, stop)
        if until_eof:
            nursery.start_soon(_watch_input, stop)
        await run_node(config, seams or Seams(), stop=stop, task_status=task_status)
        nursery.cancel_scope.cancel()


async def run_node(
    config: Config,
    seams: Seams,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[Sequence[Bound]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a node until `stop` is set; starts with its bound addresses, role by role.

    Raises (perhaps within an exception group) StartError or KeyFileError when it cannot start,
    NodeFailedError when a store or database failed under it.
    """
    config = within_descriptors(config, raise_limit())
    try:
        async with trio.open_nursery() as admins:
            readiness = [
                await _start_admin(name, role.admin, config, admins)
                for name, role in _role_tables(config)
            ]
            async with _open_roles(config, seams) as roles:
                await _serve(config, seams, roles, readiness, stop, task_status)
            admins.cancel_scope.cancel()
    except* (StoreFailedError, DatabaseFailedError) as group:
        raise NodeFailedError(str(first_failure(group))) from group
    _log.info("node_stopped")


def _role_tables(config: Config) -> list[tuple[str, IndexConfig | BucketConfig]]:
    """The config's roles, the index first: buckets in the same process dial it."""
    index: list[tuple[str, IndexConfig | BucketConfig]] = []
    if config.index is not None:
        index.append(("index", config.index))
    return index + [(f"bucket[{number}]", table) for number, table in enumerate(config.bucket)]


@asynccontextmanager
async def _open_roles(config: Config, seams: Seams) -> AsyncIterator[list[Role]]:
    async with AsyncExitStack() as stack:
        roles = []
        for name, table in _role_tables(config):
            if isinstance(table, IndexConfig):
                opening = open_index_role(config, table, seams)
            else:
                opening = open_bucket_role(name, config, table, seams)
            roles.append(await stack.enter_async_context(opening))
            _log.info("role_open", role=name)
        yield roles


async def _serve(
    config: Config,
    seams: Seams,
    roles: Sequence[Role],
    readiness: Sequence[RoleReadiness],
    stop: trio.Event,
    task_status: trio.TaskStatus[Sequence[Bound]],
) -> None:
    """Serve every role until `stop` is set and what was in flight then is answered or cut."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            bounds = []
            for role, ready in zip(roles, readiness, strict=True):
                start = partial(serve_role, role, config.http, seams, stop)
                bounds.append(await nursery.start(start))
                ready.serving(role.checks, role.figures)
                _tell_listening(role, bounds[-1])
            task_status.started(bounds)
            await stop.wait()
            _log.info("node_stopping", deadline_s=config.node.shutdown_deadline)
            for ready in readiness:
                ready.stopping()
            scope.deadline = trio.current_time() + config.node.shutdown_deadline
    if scope.cancelled_caught:
        _log.warning("requests_cut", deadline_s=config.node.shutdown_deadline)


async def _start_admin(
    name: str, address: str, config: Config, admins: trio.Nursery
) -> RoleReadiness:
    readiness = RoleReadiness()
    bound = await serve_admin(name, address, readiness, config.http, admins)
    _log.info("admin_listening", role=name, address=bound)
    return readiness


def _tell_listening(role: Role, bound: Bound) -> None:
    principal = role.principal.text(role.printed_as)
    _log.info(
        "role_listening",
        role=role.name,
        address=f"{principal}@http://{bound.http}",
        peer=bound.peer,
        version=__version__,
    )


async def _watch_signals(
    stop: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            if stop.is_set():
                raise NodeFailedError("ended by a second signal; what was in flight is cut")
            stop.set()


async def _watch_input(stop: trio.Event) -> None:
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
        while await stream.receive_some(_INPUT_BYTES):
            pass
    stop.set()
