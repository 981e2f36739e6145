"""Making buckets on the index's behalf: processes on this host, or an operator's command."""

from __future__ import annotations

import os
import subprocess
import sys
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio
from typing_extensions import override

from ostnode.config import Config, IndexConfig, JoinToken
from ostnode.env import Rng, Worker
from ostnode.ids import Principal
from ostnode.keyfiles import KeyFileError
from ostnode.node.errors import StartError
from ostnode.node.layout import lay_out_bucket
from ostnode.node.seams import Seams
from ostnode.roles.index import Order, Provider

RESTART_S: Final = 1.0
RESTART_S_MAX: Final = 60.0
"""Between starts of a bucket that keeps ending; doubled each time, until it has run this long."""
STOP_MARGIN_S: Final = 5.0
"""Beyond its own deadline, after which a bucket that was told to stop is killed."""
_OVERRIDES: Final = "OST_"
_log = structlog.get_logger(__name__)

Lines = Callable[[Order], JoinToken]


@asynccontextmanager
async def open_provider(
    config: Config, index: IndexConfig, principal: Principal, seams: Seams
) -> AsyncIterator[Provider | None]:
    """What [index] provisioner says, None for none. What runs for it ends with the block.

    `principal` is the index's, for join tokens.
    """
    if index.provisioner == "none":
        yield None
        return

    def line(order: Order) -> JoinToken:
        return JoinToken(principal, index.public_peer, order.invite_id, order.secret)

    async with trio.open_nursery() as nursery:
        if index.provisioner == "local" and index.provision_dir is not None:
            make = partial(lay_out_bucket, config, index, index.provision_dir)
            stop_s = config.node.shutdown_deadline + STOP_MARGIN_S
            provider: Provider = LocalBuckets(
                nursery, line, make, stop_s, rng=seams.rng, worker=seams.make_worker(1)
            )
        else:
            provider = CommandRuns(
                nursery,
                line,
                index.provision_command,
                index.provision_retry,
                str(config.cluster_id),
            )
        yield provider
        nursery.cancel_scope.cancel()


def plain_environment() -> dict[str, str]:
    """The environment without what replaces keys of our own config."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_OVERRIDES)}


class _Tasks(Provider):
    """One task for each bucket, by number; a later one takes the place of the one before."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._scopes: dict[int, trio.CancelScope] = {}

    def _start(self, number: int, order: Order | None) -> None:
        before = self._scopes.pop(number, None)
        if before is not None:
            before.cancel()
        scope = self._scopes[number] = trio.CancelScope()
        self._nursery.start_soon(self._run, number, order, scope)

    async def _run(self, number: int, order: Order | None, scope: trio.CancelScope) -> None:
        with scope:
            try:
                await self._see_to(number, order)
            except (OSError, StartError, KeyFileError) as error:
                _log.warning("bucket_not_provided", number=number, reason=str(error))
        if self._scopes.get(number) is scope:
            del self._scopes[number]

    @abstractmethod
    async def _see_to(self, number: int, order: Order | None) -> None:
        """Do what the bucket needs; raises OSError, StartError or KeyFileError."""


class LocalBuckets(_Tasks):
    """Runs `ostnode run` for each bucket, and again when it ends.

    A bucket ends with this process however that ends: its standard input is a pipe from here, which
    it watches.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        line: Lines,
        make: Callable[[int, Rng], Path],
        stop_s: float,
        *,
        rng: Rng,
        worker: Worker,
    ) -> None:
        super().__init__(nursery)
        self._line = line
        self._make = make
        self._stop_s = stop_s
        self._rng = rng
        self._worker = worker
        self._ordered = 0

    @override
    def provide(self, order: Order) -> None:
        self._ordered = order.number
        self._start(order.number, order)

    @override
    def keep(self, numbers: Collection[int]) -> None:
        for number in set(numbers) - self._scopes.keys():
            self._start(number, None)
        for number in self._scopes.keys() - {*numbers, self._ordered}:
            self._scopes.pop(number).cancel()

    @override
    async def _see_to(self, number: int, order: Order | None) -> None:
        config_file = await self._worker.run(self._make, number, self._rng)
        environment = plain_environment()
        if order is not None:
            environment["OST_BUCKET_0_JOIN"] = self._line(order).text()
        delay_s = RESTART_S
        while True:
            started = trio.current_time()
            code = await self._run_once(config_file, environment)
            _log.warning("local_bucket_ended", number=number, code=code)
            if trio.current_time() - started > RESTART_S_MAX:
                delay_s = RESTART_S
            await trio.sleep(delay_s)
            delay_s = min(2 * delay_s, RESTART_S_MAX)

    async def _run_once(self, config_file: Path, environment: Mapping[str, str]) -> int:
        """Run the bucket to its end; cancelled, it is stopped in order."""
        command = [sys.executable, "-m", "ostnode", "run", "--until-eof", str(config_file)]
        # A session of its own: Ctrl-C is for us, and the pipe's end for it.
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, env=environment, start_new_session=True
        )
        _log.info("local_bucket_started", config=str(config_file), pid=process.pid)
        try:
            return await process.wait()
        finally:
            with trio.move_on_after(self._stop_s, shield=True):
                if process.stdin is not None:
                    await process.stdin.aclose()
                await process.wait()
            if process.poll() is None:
                process.kill()


class CommandRuns(_Tasks):
    """Runs an operator's command for each order, with the join token in its environment."""

    def __init__(
        self,
        nursery: trio.Nursery,
        line: Lines,
        command: Sequence[str],
        deadline_s: float,
        cluster_id: str,
    ) -> None:
        super().__init__(nursery)
        self._line = line
        self._command = command
        self._deadline_s = deadline_s
        self._cluster_id = cluster_id

    @override
    def provide(self, order: Order) -> None:
        self._start(order.number, order)

    @override
    def keep(self, numbers: Collection[int]) -> None:
        """What the command made is not ours to run."""

    @override
    async def _see_to(self, number: int, order: Order | None) -> None:
        if order is None:
            return
        environment = {
            **plain_environment(),
            "OST_JOIN": self._line(order).text(),
            "OST_BUCKET_NUMBER": str(number),
            "OST_CLUSTER_ID": self._cluster_id,
        }
        with trio.move_on_after(self._deadline_s) as scope:
            ended = await trio.run_process(self._command, env=environment, check=False)
            if ended.returncode:
                _log.warning("provision_command_failed", number=number, code=ended.returncode)
        if scope.cancelled_caught:
            _log.warning("provision_command_cut", number=number, deadline_s=self._deadline_s)
