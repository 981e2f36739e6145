"""People work while real processes are killed, again and again; then everything must add up.

OSTNODE_CHAOS_SEED repeats a run's decisions, though not its timing; OSTNODE_CHAOS_SECONDS says
how long the chaos lasts.
"""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from ostnode.client import Client
from ostnode.ids import BlobId
from ostnode.wire import messages as m
from tests.support.chaos import check_reading, holdings, kill_and_restart, resolve_burns, settle
from tests.support.chaoswork import audit, work
from tests.support.chaosworld import (
    GRANT_TTL_S,
    IMPATIENT,
    PATIENT,
    World,
    chaos_cluster,
    client_as,
    register,
    start_all,
)

pytestmark = pytest.mark.system

SECONDS = float(os.environ.get("OSTNODE_CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("OSTNODE_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
KILLS = max(1, round(SECONDS / 4))
FEED_POLL_S = 30
"""A bucket hears the index's clock, which ends abandoned grants, this late at most."""
SETTLE_S = GRANT_TTL_S + FEED_POLL_S + 18


async def test_nothing_acknowledged_is_lost_in_chaos(tmp_path: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # a minute is too short for this one
    print(f"chaos: OSTNODE_CHAOS_SEED={SEED}, {SECONDS:g} s, logs in {tmp_path}")
    async with chaos_cluster(tmp_path) as cluster:
        world = World(cluster, random.Random(SEED), tmp_path)
        async with client_as(world, cluster.app) as app:
            await wreak_havoc(world, app)
            await settle(world, app, SETTLE_S)  # a chat's deletion may still be on its way
            await resolve_burns(world, app)
            print(f"chaos: {world.kills} kills, {world.told()}")
            await reckon(world, app)
        await everybody_ends_well(world)
        forget_key_indexes(world)
        await start_all(cluster.nodes)
        async with client_as(world, cluster.app) as app:
            await reckon(world, app)


async def wreak_havoc(world: World, app: Client) -> None:
    for account in world.accounts:
        await register(world, app, account)
    async with trio.open_nursery() as nursery:
        for account in world.accounts:
            for patience in (PATIENT, IMPATIENT):
                nursery.start_soon(work, world, account, app, patience)
        nursery.start_soon(audit, world, app)
        nursery.start_soon(kill_and_restart, world, KILLS, SECONDS)


async def reckon(world: World, app: Client) -> None:
    """Everything adds up: the model, what the buckets hold, what the index charges."""
    info = await settle(world, app, SETTLE_S)
    buckets = [m.BucketAddress(bucket.principal, bucket.http) for bucket in info.buckets]
    places: dict[BlobId, m.BucketAddress] = {}
    charges = used = 0
    async with AsyncExitStack() as stack:
        for account in world.accounts:
            client = await stack.enter_async_context(client_as(world, account.key))
            held = await holdings(world, account, client, buckets)
            sizes = {content.blob_id: content.size for content in world.contents}
            expected = sum(sizes[blob_id] for blob_id in held)
            seen = await client.allowance()
            assert (seen.used, seen.reserved) == (expected, 0), account.name
            charges, used = charges + len(held), used + expected
            for blob_id, bucket in held.items():
                assert places.setdefault(blob_id, bucket) == bucket, "a blob is in two buckets"
        await check_reading(world, client, buckets)
    assert (info.charges, info.bytes_used, info.rejected_events) == (charges, used, 0)


async def everybody_ends_well(world: World) -> None:
    """Exit 0, and nothing in the logs that nobody expected."""
    for node in reversed(world.cluster.nodes):
        assert await node.stop() == 0, node.log_tail()
        log = node.log_file.read_text("utf-8")
        for word in ("Traceback", "[error", "[critical", "rejected by the index"):
            assert word not in log, f"{node.name}: {word}\n{node.log_tail()}"


def forget_key_indexes(world: World) -> None:
    """The logs are the database: what is derived from them comes back (B45)."""
    for node in world.cluster.buckets.values():
        shutil.rmtree(world.root / node.name / "keyindex")
