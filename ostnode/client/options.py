"""The client's limits and what watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ostnode.client.retry import RetryPolicy
from ostnode.errors import InvalidArgumentError

PARALLEL_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Limits, in seconds, bytes and counts; every wait of the client ends by one of them.

    `parallel` lanes push the chunks of one upload, each with one buffer of a chunk's size.
    `answer_deadline_s` bounds one attempt of a small call, `push_deadline_s` of one chunk (the
    last one's answer waits for the whole blob to be hashed), `stall_deadline_s` a silence within
    a download. `fruitless_rounds_max` bounds how often an upload allocates anew without having
    got further than before. `spool_dir` is where streams are kept while they are hashed.
    """

    parallel: int = 4
    connections_max: int = 16
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    answer_deadline_s: float = 30.0
    push_deadline_s: float = 120.0
    stall_deadline_s: float = 30.0
    fruitless_rounds_max: int = 5
    read_bytes_max: int = 64 << 20
    spool_dir: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.parallel <= PARALLEL_MAX:
            raise InvalidArgumentError(f"parallel must be 1 to {PARALLEL_MAX}")
        if self.connections_max < self.parallel:
            raise InvalidArgumentError("connections_max must not be below parallel")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One HTTP exchange that has ended.

    `call` is the call's name in `wire.calls`, or session or get_blob; `number` counts from 1
    within one call; `code` is empty on success, else the error's code, "unreachable" or
    "bad_answer"; `retry_in_s` is None when this was the last attempt.
    """

    call: str
    node: str
    number: int
    code: str
    retry_in_s: float | None = None


Observer = Callable[[Attempt], None]


def ignore_attempt(_attempt: Attempt) -> None:
    """For callers who do not watch."""
