"""The heartbeat: stamps what has changed into the feed and wakes those who wait for it."""

from __future__ import annotations

from functools import partial

import structlog
import trio

from ostnode.errors import BusyError, ShuttingDownError
from ostnode.roles.index.core.feed import STAMPS_MAX, stamp
from ostnode.roles.index.core.lease import LostLeaseError
from ostnode.roles.index.database.engine import DatabaseFailedError
from ostnode.roles.index.leading import Leader

_LOG = structlog.get_logger(__name__)


class Heartbeat:
    """Urgent changes are stamped as soon as they are durable, the others every interval.

    `failures` counts attempts that ended with an error.
    """

    def __init__(self, push_interval_s: float) -> None:
        self._push_interval_s = push_interval_s
        self._urgent = trio.Event()
        self._news = trio.Event()
        self.failures = 0

    @property
    def news(self) -> trio.Event:
        """Set once the feed has grown after the moment this is asked for."""
        return self._news

    def urge(self) -> None:
        """Something urgent is durable."""
        self._urgent.set()

    def wake(self) -> None:
        """Let those who wait for news look again."""
        news, self._news = self._news, trio.Event()
        news.set()

    async def run(
        self,
        leader: Leader,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Beat until cancelled, whenever this node leads."""
        task_status.started()
        next_push = trio.current_time()
        while True:
            push = trio.current_time() >= next_push
            if push:
                next_push = trio.current_time() + self._push_interval_s
            self._urgent = trio.Event()
            try:
                await self._stamp(leader, urgent_only=not push)
            except LostLeaseError:
                next_push = trio.current_time()  # leading again, look at everything
            except BusyError as error:
                _LOG.warning("feed_put_off", reason=error.message)
                await trio.sleep_until(next_push)
            except ShuttingDownError:
                return  # whatever ends the index is told elsewhere
            except DatabaseFailedError:
                raise
            except Exception:  # noqa: BLE001  a row that cannot be read must not end the index
                self.failures += 1
                _LOG.exception("feed_not_stamped")
                await trio.sleep_until(next_push)
            with trio.move_on_at(next_push):
                await self._urgent.wait()

    async def _stamp(self, leader: Leader, *, urgent_only: bool) -> None:
        while count := await leader.transact(partial(stamp, urgent_only=urgent_only)):
            self.wake()
            if count < STAMPS_MAX:
                break
