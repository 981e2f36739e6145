"""What a bucket does without being asked: sweeping and expiring."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

import trio

from ostnode.env import Clock
from ostnode.errors import BusyError, ShuttingDownError
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.core.sweeps import expire_upload, sweep_slice
from ostnode.roles.bucket.desk import Desk
from ostnode.roles.bucket.options import BucketOptions

_EXPIRY_INTERVAL_S: Final = 60.0
_UPLOADS_PER_SLICE: Final = 100


class Sweeper:
    """Draws consequences slice by slice, each decided and synced like any request."""

    def __init__(
        self, desk: Desk, options: BucketOptions, last_progress: dict[int, float], clock: Clock
    ) -> None:
        self._desk, self._options, self._clock = desk, options, clock
        self._last_progress = last_progress

    async def run(self) -> None:
        """Sweep when there is cause, and now and then, until the store fails."""
        # Why it failed is the writer's to raise; beside that this would be a second reason.
        with suppress(ShuttingDownError):
            await self._sweep_on()

    async def _sweep_on(self) -> None:
        expire_at = trio.current_time()
        while True:
            with suppress(BusyError):  # the disk is full: the next round goes on
                while await self.sweep_once():
                    pass
                if trio.current_time() >= expire_at:
                    await self.expire_uploads()
                    expire_at = trio.current_time() + _EXPIRY_INTERVAL_S
            await self._desk.sweep_news.wait(at_most_s=self._options.sweep_interval_s)

    async def sweep_once(self) -> bool:
        """One slice; whether there may be more."""
        return await self._desk.decide(lambda draft: sweep_slice(draft, self._clock.now()))

    async def expire_uploads(self) -> None:
        """Close uploads whose grant is over, or that made no progress for too long.

        A restart counts as progress: only this process knows when the last chunk came.
        """
        after, open_now = 0, set()
        while uploads := self._desk.state.uploads(after, _UPLOADS_PER_SLICE):
            numbers = [number for number, _ in uploads]
            await self._desk.decide(partial(self._expire, numbers=numbers))
            open_now.update(numbers)
            after = numbers[-1]
        for number in self._last_progress.keys() - open_now:
            del self._last_progress[number]

    def _expire(self, draft: Draft, numbers: list[int]) -> None:
        now = trio.current_time()
        for number in numbers:
            idle_s = now - self._last_progress.setdefault(number, now)
            expire_upload(draft, number, stalled=idle_s >= self._options.upload_ttl_s)
