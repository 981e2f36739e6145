"""Keep a link to one peer, however often it breaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from ostnode.env import Rng
from ostnode.errors import OstError, first_failure
from ostnode.net.link import Link
from ostnode.net.transport import LinkClosedError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: a wait is uniform between 0 and `base_s` doubled per failure up to `cap_s`."""

    base_s: float = 0.1
    cap_s: float = 10

    def wait_s(self, failures: int, rng: Rng) -> float:
        """How long to wait after so many failures in a row."""
        return rng.uniform(0, min(self.cap_s, self.base_s * 2.0 ** min(failures, 32)))


DEFAULT_BACKOFF: Final = Backoff()
_REASONS_MAX: Final = 16


async def dial_forever(
    dial: Callable[[], AbstractAsyncContextManager[Link]],
    use: Callable[[Link], Awaitable[None]],
    *,
    rng: Rng,
    backoff: Backoff = DEFAULT_BACKOFF,
) -> None:
    """Keep a link: `use` it, and when that ends or fails dial again after a jittered wait.

    A link that lived for `cap_s` starts the waits afresh. Refusals count as failures, since the
    peer may know better later; anything else that `use` raises comes out. What keeps a link from
    living is logged once per reason, however often it is dialled again.
    """
    failures = 0
    told: set[str] = set()
    while True:
        opened_at: float | None = None
        reason: str | None = None
        try:
            async with dial() as link:
                opened_at = trio.current_time()
                await use(link)
        except* (LinkClosedError, OstError) as group:
            reason = str(first_failure(group))
        if opened_at is not None and trio.current_time() - opened_at >= backoff.cap_s:
            failures = 0
            told.clear()
        if reason is not None:
            _tell(reason, told)
        await trio.sleep(backoff.wait_s(failures, rng))
        failures += 1


def _tell(reason: str, told: set[str]) -> None:
    """Log why the link ended; again only for who wants all."""
    if reason in told:
        log.debug("link ended", reason=reason)
        return
    if len(told) == _REASONS_MAX:
        told.clear()
    told.add(reason)
    log.info("link ended", reason=reason)
