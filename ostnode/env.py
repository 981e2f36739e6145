"""The seams for time, randomness and threads, so that the simulator can run the same code.

Deadlines inside a process use `trio.current_time()`; a `Clock` is for times that are written
down or signed. Disk lives in `ostnode.store.disk`, network in `ostnode.net.transport`.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple, cast

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

    Trio's shared 40 slots are not used: one slow disk would otherwise stall every other use.
    """

    def __init__(self, threads: int) -> None:
        self._limiter = cast("trio.CapacityLimiter", _Slots(threads))

    @override
    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)


class _Slots:
    """A limiter, as `trio.to_thread.run_sync` asks for one, that gives a free slot at once.

    Trio's own lets every task that can run go first: the disk would idle while all who waited for
    one batch are answered, before the next is handed to the thread.
    """

    def __init__(self, slots: int) -> None:
        self._limiter = trio.CapacityLimiter(slots)

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Take a slot; first come, first served when there is none free."""
        try:
            self._limiter.acquire_on_behalf_of_nowait(borrower)
        except trio.WouldBlock:
            await self._limiter.acquire_on_behalf_of(borrower)

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give it back."""
        self._limiter.release_on_behalf_of(borrower)


class InlineWorker(Worker):
    """Runs functions in place after a checkpoint: virtual time cannot see threads."""

    @override
    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        await trio.lowlevel.checkpoint()
        return function(*args)
