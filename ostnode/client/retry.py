"""When to try again: full jitter, Retry-After honoured, attempts bounded. Pure.

Full jitter (uniform between zero and the exponential ceiling) spreads callers that failed
together; see "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from ostnode.client.errors import UnreachableError
from ostnode.env import Rng
from ostnode.errors import OstError

_DOUBLINGS_MAX: Final = 32
"""Beyond this the ceiling is the cap anyway; the power stays a small number."""
_RETRY_AFTER_DIGITS_MAX: Final = 9
"""Some thirty years; longer numbers are only there to overflow something."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Limits of one call's retries, in attempts and seconds.

    The defaults wait about 13 s in all: long enough for a node that was killed to come back.
    """

    attempts_max: int = 10
    base_s: float = 0.2
    cap_s: float = 5.0
    retry_after_max_s: float = 60.0

    def delay_s(self, attempt: int, error: Exception, rng: Rng) -> float | None:
        """How long to wait after the failed `attempt` (1 is the first); None to give up.

        Only a retryable refusal or an unreachable node is tried again. What the node said in
        Retry-After is waited out whole, the jitter comes on top; when it asks for more than
        `retry_after_max_s`, giving up is better than coming back too early.
        """
        if attempt >= self.attempts_max or not is_retryable(error):
            return None
        jitter = rng.uniform(0.0, self.ceiling_s(attempt))
        asked = retry_after_of(error)
        if asked is None:
            return jitter
        return asked + jitter if asked <= self.retry_after_max_s else None

    def ceiling_s(self, attempt: int) -> float:
        """The longest jitter after this attempt."""
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX))


def is_retryable(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(error, UnreachableError) or (isinstance(error, OstError) and error.retryable)


def retry_after_of(error: Exception) -> float | None:
    """The seconds that whoever refused asked to wait; None when nothing was said."""
    if isinstance(error, UnreachableError):
        return error.retry_after_s
    if isinstance(error, OstError):
        seconds = error.details.get("retry_after_s")
        if isinstance(seconds, int) and not isinstance(seconds, bool) and seconds >= 0:
            return float(seconds)
    return None


def parse_retry_after(value: str | None, now: float) -> float | None:
    """A Retry-After header (RFC 9110 §10.2.3: seconds, or an HTTP date) as seconds from now.

    `now` is seconds since 1970. Anything malformed counts as absent.
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value[:_RETRY_AFTER_DIGITS_MAX])
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:  # "-0000": UTC without saying where
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - now)
