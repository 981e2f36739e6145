"""The key index is proven in the background: it answers meanwhile, and no start waits for it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from itertools import islice
from typing import Final

import trio

from ostnode.env import Worker
from ostnode.store.errors import IndexDamagedError, StoreFailedError
from ostnode.store.keyspace import KeyIndex
from ostnode.store.pace import Pace

_STEPS_AT_ONCE: Final = 8
"""Of an audit, in one thread hop: some milliseconds."""


class Auditor:
    """Audits a key index while it is in use; belongs to the event loop.

    Damage fails the store: no answer after that rests on the key index.
    """

    def __init__(
        self, index: KeyIndex, worker: Worker, fail: Callable[[StoreFailedError], None]
    ) -> None:
        self._index, self._worker, self._fail = index, worker, fail
        self._turn = trio.Lock()

    async def run(self) -> None:
        """Audit it if opening has left that to be done."""
        if not self._index.is_proven:
            with suppress(StoreFailedError):
                await self.audit(Pace(0))

    async def audit(self, pace: Pace) -> None:
        """Read every row, working half of the time; raises StoreFailedError when one is wrong.

        While `pace` is paused nothing is read. What was read before that is read again: no snapshot
        is held so long, as none of its pages could be used again meanwhile.
        """
        while True:
            await pace.spend(0)
            if await self._read_all(pace):
                return

    async def _read_all(self, pace: Pace) -> bool:
        """False when a pause has ended it."""
        async with self._turn:
            steps = self._index.audit()
            try:
                while not pace.paused:
                    started = trio.current_time()
                    if not await self._worker.run(_go_on, steps):
                        return True
                    await trio.sleep(trio.current_time() - started)
            except IndexDamagedError as error:
                failure = StoreFailedError(str(error))
                self._fail(failure)
                raise failure from error
            else:
                return False
            finally:
                steps.close()


def _go_on(steps: Generator[None]) -> bool:
    """Do some steps; False when there are no more."""
    return sum(1 for _ in islice(steps, _STEPS_AT_ONCE)) == _STEPS_AT_ONCE
