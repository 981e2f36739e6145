"""The seams for time, randomness and threads, so that the simulator can run the same code.

Deadlines inside a process use `trio.current_time()`; a `Clock` is for times that are written
down or signed. Disk lives in `ostnode.store.disk`, network in `ostnode.net.transport`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar, TypeVarTuple

import trio
from typing_extensions import override

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Clock(Protocol):
    """Wall-clock time."""

    def now(self) -> float:
        """Seconds since 1970."""
        ...


class Rng(Protocol):
    """Randomness: unpredictable for ids and nonces, uniform for jitter."""

    def token(self, length: int) -> bytes:
        """`length` unpredictable bytes."""
        ...

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high]; for jitter, never for secrets."""
        ...


class SystemClock(Clock):
    """The operating system's clock."""

    @override
    def now(self) -> float:
        return time.time()


class SystemRng(Rng):
    """The operating system's randomness."""

    @override
    def token(self, length: int) -> bytes:
        return os.urandom(length)

    @override
    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)  # noqa: S311  jitter only


class Worker(Protocol):
    """Runs blocking or CPU-heavy functions away from the event loop."""

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `function(*args)` to its end and return its result; never abandoned half-way."""
        ...


class ThreadWorker(Worker):
    """Runs functions in threads, at most `threads` at a time, on a limiter of its own.

    Trio's shared 40 slots are not used: one slow disk would otherwise stall every other use. Nor is
    `trio.to_thread.run_sync`: without its contexts, names and ways back into the event loop from
    within `function` a call costs 24 µs instead of 42.
    """

    def __init__(self, threads: int) -> None:
        self._limiter = trio.CapacityLimiter(threads)

    @override
    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            # At once, and not after every task that can run: the disk would idle while all who
            # waited for one batch are answered, before the next is handed to the thread.
            self._limiter.acquire_nowait()
        except trio.WouldBlock:
            await self._limiter.acquire()
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
        answer = partial(token.run_sync_soon, trio.lowlevel.reschedule, task)
        try:
            trio.lowlevel.start_thread_soon(partial(function, *args), answer)
            result: T = await trio.lowlevel.wait_task_rescheduled(_to_the_end)
        finally:
            self._limiter.release()
        return result


def _to_the_end(_: object) -> trio.lowlevel.Abort:
    """A cancelled caller waits all the same."""
    return trio.lowlevel.Abort.FAILED


class InlineWorker(Worker):
    """Runs functions in place after a checkpoint: virtual time cannot see threads."""

    @override
    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.lowlevel.checkpoint()
        return function(*args)
