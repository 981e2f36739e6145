"""What a call costs, counted and not timed: the same on every machine, however busy it is."""

from __future__ import annotations

import contextlib
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ostnode.errors import OstError


@dataclass(frozen=True)
class Cost:
    """Calls of functions in Python and C; bytes at the peak, and those that stayed."""

    calls: int
    peak_bytes: int
    left_bytes: int


def cost_of(work: Callable[[], object]) -> Cost:
    """The cost of `work`, which may be refused; a first run that is not counted warms caches."""
    _attempt(work)
    calls = calls_of(work)
    with _traced():
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        _attempt(work)
        left, peak = tracemalloc.get_traced_memory()
    return Cost(calls, peak - before, left - before)


def growth_of(work: Callable[[], object], times: int) -> int:
    """How many bytes more are held after so many runs than after two."""
    with _traced():
        for _ in range(2):
            _attempt(work)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(times):
            _attempt(work)
        left, _ = tracemalloc.get_traced_memory()
    return left - before


def _attempt(work: Callable[[], object]) -> None:
    with contextlib.suppress(OstError):
        work()


@contextlib.contextmanager
def _traced() -> Iterator[None]:
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start(1)
    try:
        yield
    finally:
        if not tracing:
            tracemalloc.stop()


def calls_of(work: Callable[[], object]) -> int:
    """How many functions it calls."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        _attempt(work)
    finally:
        sys.setprofile(before)
    return calls
