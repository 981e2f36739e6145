"""What metrics tell of the index, gathered now and then: nothing is summed when they are asked for.

Users are summed in slices, one transaction each, and a round is followed by a pause of PAUSE_FACTOR
times what it took. Measured on two busy cores: 7 ms for a slice, 8 s for a round of a million
users, whose sums are then up to three minutes old; those of a few thousand are INTERVAL_S old. A
user that changes during a round counts as it was or as it is; at rest the sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio
from typing_extensions import override

from ostnode.roles.index.core.feed import index_meta
from ostnode.roles.index.core.rows import Bucket, Totals
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.leading import Transact
from ostnode.roles.index.upkeep import Job

INTERVAL_S: Final = 10.0
SLICE_USERS: Final = 1000
PAUSE_FACTOR: Final = 20
EXACT_USERS_MAX: Final = 10_000
"""Up to so many are summed anew for whoever asks for the cluster's status: some 50 ms at most."""
REJECTED_MAX: Final = 10_000
"""Events set aside are counted up to here."""
_NOTHING: Final = Totals(0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Overview:
    """What one transaction tells: the rows of all buckets, and how far the feed is."""

    buckets: tuple[Bucket, ...] = ()
    feed_seq: int = 0
    rejected_events: int = 0


def overview(tables: Tables) -> Overview:
    """As of now; its cost grows with the number of buckets alone."""
    return Overview(
        buckets=tuple(tables.buckets.where()),
        feed_seq=index_meta(tables).feed_seq,
        rejected_events=tables.rejected_up_to(REJECTED_MAX),
    )


class Figures(Job):
    """The sums of the last round, at `totals_at` on Trio's clock, and the last overview.

    Every node gathers its own, whoever leads.
    """

    name = "figures"

    def __init__(self, transact: Transact) -> None:
        self._transact = transact
        self.totals = _NOTHING
        self.totals_at = trio.current_time()
        self.overview = Overview()
        self.interval_s = INTERVAL_S

    def recent(self) -> Totals | None:
        """The sums to be told of a cluster too large to be summed while somebody waits."""
        return self.totals if self.totals.users > EXACT_USERS_MAX else None

    @override
    async def beat(self, transact: Transact) -> None:
        del transact
        started = trio.current_time()
        self.overview = await self._transact(overview)
        totals = await self._summed()
        self.totals = replace(totals, rejected_events=self.overview.rejected_events)
        self.totals_at = trio.current_time()
        self.interval_s = max(INTERVAL_S, PAUSE_FACTOR * (trio.current_time() - started))

    async def _summed(self) -> Totals:
        """The sums of all users, slice by slice; others get their turn between."""
        after, totals = b"", _NOTHING
        while True:
            found = await self._transact(partial(_slice, after=after))
            if found is None:
                return totals
            after, part = found
            totals = totals.plus(part)


def _slice(tables: Tables, after: bytes) -> tuple[bytes, Totals] | None:
    return tables.users_summed(after, SLICE_USERS)
