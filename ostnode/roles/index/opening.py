"""Opening an index: database, heartbeat and service, in order and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from ostnode.env import Clock, Rng, Worker
from ostnode.errors import BusyError, InvalidArgumentError
from ostnode.identity.keys import KeyPair
from ostnode.ids import Principal
from ostnode.roles.index.comparing import Comparing
from ostnode.roles.index.core.chores import do_slice
from ostnode.roles.index.core.indexkeys import take_up_keys
from ostnode.roles.index.core.membership import take_up
from ostnode.roles.index.core.roster import last_epoch
from ostnode.roles.index.core.rows import THE_INDEX, Meta
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.core.users import blocked_principals
from ostnode.roles.index.database.engine import Database, DatabaseUnusableError
from ostnode.roles.index.database.repository import Repository, run_alone
from ostnode.roles.index.database.schema import SCHEMA_VERSION
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.roles.index.figures import Figures
from ostnode.roles.index.fleet import Fleet, LostMarking, TopUp
from ostnode.roles.index.heartbeat import Heartbeat
from ostnode.roles.index.insight import Insight
from ostnode.roles.index.leading import Leader
from ostnode.roles.index.membership import Membership
from ostnode.roles.index.options import IndexOptions
from ostnode.roles.index.service import IndexService
from ostnode.roles.index.upkeep import Drain, Upkeep

CLOSE_DEADLINE_S: Final = 5
HOLDER_BYTES: Final = 8


@asynccontextmanager
async def open_index(
    options: IndexOptions,
    key: KeyPair,
    *,
    clock: Clock,
    rng: Rng,
    worker: Worker,
    make_database: Callable[[Path | None], Database] = SqliteDatabase,
) -> AsyncIterator[IndexService]:
    """An index that serves until the block ends, on what `make_database` makes of its `data_dir`.

    Raises DatabaseUnusableError when its database is in use, or another index's; later, in an
    exception group, DatabaseFailedError.
    """
    database = await worker.run(make_database, options.data_dir)
    try:
        now_us = int(clock.now() * 1_000_000)
        meta = await worker.run(
            run_alone, database, lambda tables: found(tables, options, key.principal, now_us)
        )
        heartbeat = Heartbeat(options.push_interval_s)
        repository = Repository(database, worker, heartbeat.urge)
        async with trio.open_nursery() as nursery:
            await nursery.start(repository.run)
            blocked = await repository.transact(blocked_principals)
            members = await repository.transact(lambda tables: tables.members.where())
            membership = Membership(
                options, key, members, repository, heartbeat.wake, clock=clock, rng=rng
            )
            membership.epoch = (await repository.transact(last_epoch)).epoch
            buckets = await repository.transact(lambda tables: tables.buckets.where())
            membership.addresses = {each.principal: each.http for each in buckets}
            membership.keys = await repository.transact(lambda tables: tables.index_keys.where())
            # The engine locks its file: no other node has this database.
            leader = Leader(repository.transact, rng.token(HOLDER_BYTES), alone=True)
            await nursery.start(leader.run)
            await nursery.start(heartbeat.run, leader)
            insight = _insight(options, heartbeat, leader, repository, clock=clock, rng=rng)
            nursery.start_soon(insight.upkeep.run, leader)
            comparing = Comparing(repository, incarnation=meta.incarnation, clock=clock)
            nursery.start_soon(comparing.run)
            yield IndexService(
                options,
                key,
                blocked,
                repository,
                heartbeat,
                membership,
                comparing,
                insight,
                clock=clock,
                rng=rng,
            )
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(CLOSE_DEADLINE_S, shield=True):
            await worker.run(database.close)


def _insight(
    options: IndexOptions,
    heartbeat: Heartbeat,
    leader: Leader,
    repository: Repository,
    *,
    clock: Clock,
    rng: Rng,
) -> Insight:
    """The buckets as a whole, and the jobs that are the leader's."""
    fleet = Fleet(options.rules, repository.transact)
    figures = Figures(repository.transact)
    top_up = TopUp(
        fleet,
        options.rules,
        options.provider,
        lambda: figures.totals.bytes_reserved,
        retry_s=options.provision_retry_s,
        clock=clock,
        rng=rng,
    )
    return Insight(
        figures,
        fleet,
        heartbeat,
        leader,
        Upkeep([
            Drain("chores", options.push_interval_s, do_slice),
            figures,
            LostMarking(options.lost_after_s),
            top_up,
        ]),
    )


def found(tables: Tables, options: IndexOptions, principal: Principal, now_us: int) -> Meta:
    """Make the database this index's, or check that it is; take up the config's buckets.

    Raises DatabaseUnusableError.
    """
    meta = tables.meta.get(THE_INDEX)
    if meta is None:
        meta = Meta(THE_INDEX, SCHEMA_VERSION, options.cluster_id, principal, now_us, 0)
        tables.meta.put(meta)
    now = now_us // 1_000_000
    switched = take_up_keys(
        tables, meta, principal, options.successor, overlap_s=options.key_overlap_s, now=now
    )
    if switched is None or meta.cluster_id != options.cluster_id:
        raise DatabaseUnusableError(
            "the database belongs to another cluster or index key: check data_dir and key_file; "
            "a backup from before a change of the index's key opens with the old one"
        )
    meta = switched
    try:
        take_up(tables, options.buckets, now)
    except BusyError as error:
        raise DatabaseUnusableError(f"{error.message}: revoke some, or name fewer") from None
    except InvalidArgumentError as error:
        raise DatabaseUnusableError(error.message) from None
    return meta
