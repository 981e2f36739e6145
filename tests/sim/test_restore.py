"""B59 in a whole cluster: an index or a bucket that is put back from a backup agrees again."""

from __future__ import annotations

import pytest
import trio

from ostnode.errors import OstError
from ostnode.net.transport import LinkClosedError
from ostnode.sim.invariants import rest_problems
from ostnode.sim.pictures import picture_bucket, picture_index
from ostnode.sim.plan import Plan
from ostnode.sim.world import World, run_world
from ostnode.wire import messages as m
from tests.support.simkit import ALICE, ask, read, settle_in, upload

BEFORE = [b"before %d" % number for number in range(6)]
AFTER = [b"after %d" % number for number in range(6)]


def problems(world: World) -> list[str]:
    index = picture_index(world.index_tables())
    buckets = [
        picture_bucket(world.principal_of(node.name), node.rows)
        for node in world.buckets
        if node.rows is not None
    ]
    return list(rest_problems(index, buckets))


async def come_to_rest(world: World) -> None:
    with trio.fail_after(900):
        while problems(world):  # noqa: ASYNC110  no event tells
            await trio.sleep(5)


async def patient_upload(world: World, data: bytes) -> str:
    """Until the cluster grants again."""
    with trio.fail_after(300):
        while True:
            try:
                return await upload(world, data)
            except (OstError, LinkClosedError):
                await trio.sleep(1)


async def used(world: World) -> int:
    info = await ask(world, ALICE, "index", m.GetUser())
    assert isinstance(info, m.UserInfo)
    return info.allowance.used


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("told", [True, False], ids=["told", "found out"])
def test_b59_a_restored_index_charges_what_the_buckets_hold(told, seed):
    """Nothing that was acknowledged is lost, though the index knows nothing of it."""

    async def scene(world: World) -> None:
        await settle_in(world)
        homes = {data: await upload(world, data) for data in BEFORE}
        await trio.sleep(20)
        backup = world.index.database.backup()
        homes |= {data: await upload(world, data) for data in AFTER}
        await trio.sleep(20)
        await world.crash("index")
        now_us = int(world.clock.now() * 1_000_000) if told else None
        world.index.database.restore(backup, now_us)
        await world.start("index")
        await patient_upload(world, b"afterwards")
        await come_to_rest(world)
        for data, name in homes.items():
            assert await read(world, name, data) == data
        assert await used(world) == sum(map(len, [*BEFORE, *AFTER, b"afterwards"]))

    run_world(Plan(seed=seed), scene)


@pytest.mark.parametrize("seed", range(4))
def test_b59_a_restored_bucket_begins_anew_and_what_it_lost_is_named(seed):
    async def scene(world: World) -> None:
        await settle_in(world)
        for data in BEFORE:
            await upload(world, data)
        await trio.sleep(20)
        backup = world.buckets[0].backup()
        for data in AFTER:
            await upload(world, data)
        await trio.sleep(20)
        await world.crash("bucket0")
        world.buckets[0].restore(backup)
        await world.start("bucket0")
        await patient_upload(world, b"afterwards")
        await come_to_rest(world)
        for data in BEFORE:
            assert await read(world, "bucket0", data) == data
        # What came to it before it knew of this is found and put right; what is lost is not.
        lost = [each for each in world.index_tables().findings.where() if not each.repaired]
        assert {each.kind for each in lost} == {"charge_without_reference"}
        assert [each.expected for each in lost] == [len(data) for data in AFTER]
        assert await used(world) == sum(map(len, [*BEFORE, *AFTER, b"afterwards"]))

    run_world(Plan(seed=seed, buckets=1), scene)
