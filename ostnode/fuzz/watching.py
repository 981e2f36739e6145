"""What goes wrong inside a node in this process: failures logged, tasks, memory, time."""

from __future__ import annotations

import gc
import itertools
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final

import structlog

from ostnode.errors import first_failure

CASES_PER_COLLECTION: Final = 50
"""A whole one takes as long as a case."""
_CASES: Final = itertools.count()
STUCK_S: Final = 20
"""Of processor time, for one case."""
_BAD: Final = frozenset({"error", "exception", "critical"})


class StuckError(BaseException):
    """A case used up its processor time; not an Exception, so that no node swallows it."""


class Logged:
    """Failures that the node put into its log: what was said, and where it came from."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []

    def __call__(
        self, _logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """A structlog processor that keeps failures and prints nothing."""
        if method in _BAD:
            error = sys.exc_info()[1]
            where = "" if error is None else failure_text(error)
            self.failures.append((str(event.get("event")), where))
        raise structlog.DropEvent


@contextmanager
def watched_log() -> Iterator[Logged]:
    """Take in everything that is logged while the block runs."""
    logged, before = Logged(), structlog.get_config()
    structlog.configure(
        processors=[logged],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield logged
    finally:
        structlog.configure(**before)


def failure_text(error: BaseException) -> str:
    """`Type: message at file:line`, of the innermost cause and its last frame."""
    error = first_failure(error)
    return f"{type(error).__name__}: {str(error)[:200]} at {_place(error.__traceback__)}"


def failure_name(error: BaseException) -> str:
    """`Type in function`: the same for every case that meets the same fault."""
    error = first_failure(error)
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} in {frames[-1].name if frames else 'nowhere'}"


def _place(tb: TracebackType | None) -> str:
    frames = traceback.extract_tb(tb)
    if not frames:
        return "nowhere"
    return f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno} {frames[-1].name}"


@contextmanager
def time_limited() -> Iterator[None]:
    """Raise StuckError in the block once it has used STUCK_S of processor time.

    Only in the main thread, where signals arrive; elsewhere nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise StuckError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, STUCK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def own_garbage() -> Iterator[None]:
    """Keep what was there before out of collections: those in the block are cheap, and free no
    block of memory that is not its own.
    """
    if next(_CASES) % CASES_PER_COLLECTION == 0:
        gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def blocks_above(limit: int) -> int:
    """Allocated blocks of memory if they are above the limit, garbage not counted; else 0."""
    if sys.getallocatedblocks() <= limit:
        return 0
    gc.collect()
    blocks = sys.getallocatedblocks()
    return blocks if blocks > limit else 0
