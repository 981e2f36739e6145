"""Being the one index node that does the leader's work, or waiting to become it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog
import trio

from ostnode.errors import BusyError
from ostnode.roles.index.core import lease as core
from ostnode.roles.index.core.rows import Lease
from ostnode.roles.index.core.tables import Tables

T = TypeVar("T")

LEASE_S: Final = 15.0
"""A leader that has not renewed its lease for this long is succeeded."""
_log = structlog.get_logger(__name__)


class Transact(Protocol):
    """Runs an operation in a durable transaction, like `Repository.transact`."""

    async def __call__(self, operation: Callable[[Tables], T], /) -> T:
        """What the operation returns; raises what it raises, or BusyError."""
        ...


class Leader:
    """The part of one node in the lease. `run` must be running.

    A node that has its database to itself (`alone`) leads at once: nobody else can.
    """

    def __init__(self, transact: Transact, holder: bytes, *, alone: bool) -> None:
        self._transact = transact
        self._holder = holder
        self._alone = alone
        self._token = 0
        self._change = trio.Event()

    @property
    def leading(self) -> bool:
        """Whether this node holds the lease, as far as it knows."""
        return bool(self._token)

    async def transact(self, operation: Callable[[Tables], T], /) -> T:
        """Run an operation as the leader, once this node is that.

        Raises LostLeaseError, and the operation had no effect, when it is no longer.
        """
        while not self._token:
            await self._change.wait()
        token = self._token

        def fenced(tables: Tables) -> T:
            core.check(tables, token)
            return operation(tables)

        try:
            return await self._transact(fenced)
        except core.LostLeaseError:
            self._lead(token, 0)
            raise

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the lease or watch who does; starts after the first try."""
        seen = await self._transact(core.look)
        if self._alone or seen is None:
            await self._take(seen)
        task_status.started()
        if self._alone:
            await trio.sleep_forever()  # nobody watches: beats would be writes for nothing
        while True:
            if self._token:
                await self._keep()
            else:
                await self._watch()

    async def _keep(self) -> None:
        """Renew until the lease is lost. A database without time for it may lose it."""
        while token := self._token:
            await trio.sleep(LEASE_S / 3)
            try:
                await self._transact(partial(core.renew, token=token))
            except core.LostLeaseError:
                self._lead(token, 0)
            except BusyError as error:
                _log.warning("lease_not_renewed", reason=error.message)

    async def _watch(self) -> None:
        """Take the lease once it has stood still for LEASE_S."""
        try:
            seen = await self._transact(core.look)
            await trio.sleep(LEASE_S)
            await self._take(seen)
        except BusyError as error:
            _log.warning("lease_not_seen", reason=error.message)
            await trio.sleep(LEASE_S)

    async def _take(self, seen: Lease | None) -> None:
        taken = await self._transact(lambda tables: core.take(tables, self._holder, seen))
        if taken is not None:
            self._lead(0, taken.token)

    def _lead(self, before: int, token: int) -> None:
        """Note that the lease was gained, or lost; several may come to notice it."""
        if self._token != before:
            return
        self._token = token
        if not token:
            _log.warning("no_longer_leading", token=before)
        elif not self._alone:
            _log.info("leading", token=token)
        change, self._change = self._change, trio.Event()
        change.set()
