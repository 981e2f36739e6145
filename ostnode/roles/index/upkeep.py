"""The leader's jobs: each beats in a task of its own, and none waits for another or ends it."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
import trio
from typing_extensions import override

from ostnode.errors import BusyError, ShuttingDownError
from ostnode.roles.index.core.lease import LostLeaseError
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.engine import DatabaseFailedError
from ostnode.roles.index.leading import Leader, Transact

_log = structlog.get_logger(__name__)


class Job(Protocol):
    """What is done now and then, the first time at once.

    `name` is for logs and metrics, `interval_s` between the end of one beat and the next.
    """

    name: str
    interval_s: float

    @abstractmethod
    async def beat(self, transact: Transact) -> None:
        """Do it. What `transact` runs is done only while this node leads."""


@dataclass(slots=True)
class Drain(Job):
    """Work that waits in the database, done in slices of one transaction each.

    `drain` does one slice and says whether there is more.
    """

    name: str
    interval_s: float
    drain: Callable[[Tables], bool]

    @override
    async def beat(self, transact: Transact) -> None:
        while await transact(self.drain):
            pass


class Upkeep:
    """Runs jobs. `failures` counts by name the beats that ended with an error."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self.failures: Counter[str] = Counter({job.name: 0 for job in jobs})

    async def run(self, leader: Leader) -> None:
        """Beat until cancelled; raises DatabaseFailedError."""
        async with trio.open_nursery() as nursery:
            for job in self._jobs:
                nursery.start_soon(self._repeat, job, leader)

    async def _repeat(self, job: Job, leader: Leader) -> None:
        while True:
            try:
                await job.beat(leader.transact)
            except LostLeaseError:
                _log.info("job_given_up", job=job.name)
            except BusyError as error:
                _log.warning("job_put_off", job=job.name, reason=error.message)
            except ShuttingDownError:
                return  # whatever ends the index is told elsewhere
            except DatabaseFailedError:
                raise
            except Exception:  # noqa: BLE001  a bug in one job must not end the others
                self.failures[job.name] += 1
                _log.exception("job_failed", job=job.name)
            await trio.sleep(job.interval_s)
