"""What a simulated machine gives its processes: time, randomness, a disk's slowness, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar, TypeVarTuple

import trio
from typing_extensions import override

from ostnode.env import Clock, Worker
from ostnode.node.memory import Memory, Remembered
from ostnode.store.simdisk import SimCrash

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

EPOCH: Final = 1_700_000_000
"""When simulations begin, in seconds since 1970."""


class SimClock(Clock):
    """Trio's time from EPOCH on, `ahead_s` off by now, and gaining `drift` seconds a second."""

    def __init__(self, ahead_s: float = 0.0, drift: float = 0.0) -> None:
        self._start = trio.current_time()
        self._since = self._start
        self._ahead_s, self._drift = ahead_s, drift

    @property
    def ahead_s(self) -> float:
        """How far it is ahead of the true time."""
        return self._ahead_s + self._drift * (trio.current_time() - self._since)

    def set(self, ahead_s: float, drift: float = 0.0) -> None:
        """Make it jump, and run at another rate from now on."""
        self._since = trio.current_time()
        self._ahead_s, self._drift = ahead_s, drift

    @override
    def now(self) -> float:
        return EPOCH + trio.current_time() - self._start + self.ahead_s


@dataclass(eq=False)
class Life:
    """One process, from its start to its end."""

    stopping: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    started: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    over: bool = False
    """Whether it has been killed: what it still does on its way out has no effect."""
    failure: str = ""
    """What it ended with by itself."""


class SimWorker(Worker):
    """Runs functions in place, now and then only after a while, and up to `threads` at once.

    A process may be killed before a function runs, and before anybody hears of its result. A
    function that meets the crash ends the process at once.
    """

    def __init__(
        self, threads: int, life: Life, delay_s: Callable[[], float], crashed: Callable[[], None]
    ) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._life, self._delay_s, self._crashed = life, delay_s, crashed

    @override
    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        async with self._limiter:
            await self._pass_time()
            try:
                result = function(*args)
            except SimCrash:
                self._crashed()
                raise
            await self._pass_time()
        return result

    async def _pass_time(self) -> None:
        delay_s = self._delay_s()
        if delay_s:
            with trio.move_on_after(delay_s, shield=True):
                await trio.sleep_forever()
        if self._life.over:
            await trio.sleep_forever()


class SimMemory(Memory):
    """What a bucket remembers of its cluster, for as long as its machine's disk lasts."""

    def __init__(self) -> None:
        self.remembered: Remembered | None = None

    @override
    def load(self) -> Remembered | None:
        return self.remembered

    @override
    def save(self, remembered: Remembered) -> None:
        self.remembered = remembered
