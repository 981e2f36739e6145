"""Time and randomness that repeat themselves, for the simulator and the fuzzer.

Trio orders the tasks that can run by their numbers, and then by randomness from a seed, when a
private switch is set: it is there for Hypothesis. The dependency on Trio is pinned to the minor
versions that were tried, and a test runs one seed in two processes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, TypeVar

import trio
import trio.testing
from typing_extensions import override

from ostnode.env import Rng

T = TypeVar("T")

_SWITCH: Final = "_ALLOW_DETERMINISTIC_SCHEDULING"


def run_virtual(main: Callable[[], Awaitable[T]], seed: int = 0) -> T:
    """What `main` returns, the same for the same seed.

    Time passes only when every task waits for it, and then at once.
    """
    internals = trio._core._run  # noqa: SLF001
    before, state = getattr(internals, _SWITCH), internals._r.getstate()  # noqa: SLF001
    setattr(internals, _SWITCH, True)
    internals._r.seed(seed)  # noqa: SLF001
    try:
        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(main, clock=clock)
    finally:
        internals._r.setstate(state)  # noqa: SLF001
        setattr(internals, _SWITCH, before)


class SeededRng(Rng):
    """The same randomness in every run; nothing made with it is secret."""

    def __init__(self, seed: str) -> None:
        self._random = Random(seed)  # noqa: S311  repeatable on purpose

    @override
    def token(self, length: int) -> bytes:
        return self._random.randbytes(length)

    @override
    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)
