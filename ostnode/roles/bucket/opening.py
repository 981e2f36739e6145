"""Opening a bucket: store, service and tasks, in order and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import structlog
import trio

from ostnode.env import Clock, Rng, Worker
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.completions import Completions
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.damages import Damages, mend_outbox, record_problems
from ostnode.roles.bucket.desk import Desk
from ostnode.roles.bucket.maintenance import Maintenance
from ostnode.roles.bucket.options import BucketOptions
from ostnode.roles.bucket.records import Init
from ostnode.roles.bucket.schema import BucketSchema
from ostnode.roles.bucket.service import BucketService
from ostnode.roles.bucket.statements import Statements
from ostnode.roles.bucket.talking import IndexSync
from ostnode.roles.bucket.tasks import Sweeper
from ostnode.store.disk import Disk
from ostnode.store.errors import StoreOwnerError
from ostnode.store.keyspace import KeyIndex
from ostnode.store.store import Store, open_store

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Bucket:
    """An open bucket: its calls, and its side of the talk with the index.

    `sweeper`, `maintenance` and `sync` may be driven step by step instead of run.
    """

    def __init__(
        self,
        store: Store,
        desk: Desk,
        service: BucketService,
        sweeper: Sweeper,
        sync: IndexSync,
        maintenance: Maintenance,
    ) -> None:
        self.store, self.desk, self.service = store, desk, service
        self.sweeper, self.sync, self.maintenance = sweeper, sync, maintenance


@asynccontextmanager
async def open_bucket(
    options: BucketOptions,
    *,
    disk: Disk,
    clock: Clock,
    rng: Rng,
    worker: Worker,
    read_worker: Worker | None = None,
    maintenance_worker: Worker | None = None,
    index: KeyIndex | None = None,
    sweeping: bool = True,
) -> AsyncIterator[Bucket]:
    """A bucket that serves until the block ends; `bucket.sync.run` is the caller's to start.

    `worker` writes the log; `read_worker` (default: the same) reads and hashes;
    `maintenance_worker` (default: that one) compacts and scrubs.
    Completions that a crash interrupted are taken up again. With `sweeping` off nothing is swept
    but by `bucket.sweeper`. Raises what `open_store` raises, and StoreOwnerError when the
    directory belongs to a bucket of another index.
    """
    async with open_store(
        disk,
        options.store,
        BucketSchema(),
        owner=options.principal,
        worker=worker,
        clock=clock,
        rng=rng,
        index=index,
        read_worker=read_worker,
        maintenance_worker=maintenance_worker,
    ) as store:
        desk = Desk(store)
        incarnation = await desk.decide(partial(_incarnation, options=options, clock=clock))
        if incarnation:
            await record_problems(desk, store.problems, clock)
            await mend_outbox(desk, clock)
            hashing = read_worker or worker
            async with (
                _serving(options, store, desk, clock, hashing) as bucket,
                trio.open_nursery() as nursery,
            ):
                if sweeping:
                    nursery.start_soon(bucket.sweeper.run)
                    nursery.start_soon(bucket.maintenance.run)
                yield bucket
                nursery.cancel_scope.cancel()
            return
    # Raised out here: the store's nursery would have wrapped it in a group.
    raise StoreOwnerError("the data directory belongs to a bucket of another index")


@asynccontextmanager
async def _serving(
    options: BucketOptions,
    store: Store,
    desk: Desk,
    clock: Clock,
    worker: Worker,
) -> AsyncIterator[Bucket]:
    async with trio.open_nursery() as nursery:
        damages = Damages(desk, clock)
        completions = Completions(
            desk, store, options.rules, damages, clock=clock, worker=worker, nursery=nursery
        )
        statements = Statements(options, lambda: desk.durable.number(t.INCARNATION))
        maintenance = Maintenance(desk, store, options, clock)
        service = BucketService(
            options,
            desk,
            store,
            statements,
            completions,
            damages,
            maintenance,
            clock=clock,
            worker=worker,
        )
        sweeper = Sweeper(desk, options, service.last_progress, clock)
        sync = IndexSync(desk, store, options, clock)
        nursery.start_soon(damages.run)
        await completions.resume()
        yield Bucket(store, desk, service, sweeper, sync, maintenance)
        nursery.cancel_scope.cancel()


def _incarnation(draft: Draft, options: BucketOptions, clock: Clock) -> int:
    """The bucket's incarnation, in microseconds since 1970; a new log begins with it.

    0 when the log is of a bucket of another index.
    """
    incarnation = draft.number(t.INCARNATION)
    if incarnation:
        return incarnation if draft.index() == options.index else 0
    incarnation = int(clock.now() * 1_000_000)
    draft.add(Init(incarnation, options.index))
    return incarnation
