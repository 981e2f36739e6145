"""Nodes are put back, lost and replaced, as operators do it, while everybody is at work."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ostnode.roles.index.core.rows import BucketState
from ostnode.sim.stage import Stage
from ostnode.store.simdisk import SimIndex
from ostnode.wire import checking as ck
from ostnode.wire import fleet as f
from ostnode.wire import membership as mb
from ostnode.wire.fields import Message, Request

BACKUP_AGE_S: Final = 15.0
_AWAY_S: Final = 20.0
_RESTING_S: Final = 30.0
_RESTING: Final = (BucketState.STANDBY, BucketState.FULL, BucketState.RETIRED)

Ask = Callable[[Request, type[Message]], Awaitable[Message]]
"""Asks the index as an operator, until it answers."""


async def restore_index(stage: Stage, rng: random.Random) -> None:
    """Take a backup, let some time pass, stop the index and start it on the backup.

    The app asks for nothing meanwhile: what it would be told is lost by right. Deleted chats are
    kept by any bucket that has heard of them.
    """
    world, database = stage.world, stage.world.index.database
    backup, burned = database.backup(), set(stage.model.burned)
    await trio.sleep(rng.uniform(0, BACKUP_AGE_S))
    while world.index.running:
        await world.stop("index")
    await world.index.take_away()  # whoever has just started it again
    stage.note("the index is restored")
    stage.set_back()
    stage.model.burned = burned
    database.restore(backup, now_us=int(world.index.clock.now() * 1_000_000))
    await world.index.bring_back()


async def restore_bucket(stage: Stage, rng: random.Random) -> None:
    """The same with a bucket's disk: what came to it since then may be gone, what went be back.

    Half of the copies have no key index: the log is all there is.
    """
    node = rng.choice(stage.world.buckets)
    backup, before = node.backup(), stage.model.marks()
    await trio.sleep(rng.uniform(0, BACKUP_AGE_S))
    await node.take_away()
    stage.note("a bucket is restored")
    stage.set_back_bucket(node.name, before)
    node.restore(backup)
    if rng.random() < _HALF:
        node.disk.index = SimIndex()
    await node.bring_back()


async def lose_bucket(stage: Stage, rng: random.Random, ask: Ask) -> None:
    """A bucket's disk is gone for ever: it is revoked and forgotten, and joins again, empty.

    When it is forgotten nobody is charged for anything in it, and its blobs may be uploaded again.
    """
    node = rng.choice(stage.world.buckets)
    bucket = node.key.principal
    await node.take_away()
    stage.note("a bucket is lost")
    await trio.sleep(rng.uniform(0, _AWAY_S))
    await ask(mb.RevokeBucket(bucket), Message)
    after, done = b"", False
    while not done:
        told = await ask(ck.ForgetBucket(bucket, after), ck.Forgotten)
        assert isinstance(told, ck.Forgotten)
        after, done = told.after, told.done
    tables = stage.world.index_tables()
    if tables.charges.where(bucket=bucket) or tables.grants.where(bucket=bucket):
        raise stage.violated("a forgotten bucket has charges or grants")
    stage.lose_bucket(node.name)
    await ask(mb.ApproveBucket(bucket), Message)
    node.erase()
    await node.bring_back()


async def rest_bucket(stage: Stage, rng: random.Random, ask: Ask) -> None:
    """Take a bucket out of use, and into it again: meanwhile nothing new is placed there."""
    node = rng.choice(stage.world.buckets)
    bucket, state = node.key.principal, rng.choice(_RESTING)
    await ask(f.SetBucketState(bucket, state), f.BucketStanding)
    placed = stage.world.index_tables().placements.where(bucket=bucket)
    stage.resting[bucket] = {row.blob_id for row in placed}
    stage.note(f"a bucket is {state}")
    await trio.sleep(rng.uniform(0, _RESTING_S))
    del stage.resting[bucket]
    await ask(f.SetBucketState(bucket, BucketState.ACTIVE), f.BucketStanding)


_HALF: Final = 0.5
