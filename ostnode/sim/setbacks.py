"""The index is put back from a backup, as an operator does it, while everybody is at work."""

from __future__ import annotations

import random

import trio

from ostnode.sim.stage import Stage


async def restore_index(stage: Stage, rng: random.Random) -> None:
    """Take a backup, let some time pass, stop the index and start it on the backup.

    The app asks for nothing meanwhile: what it would be told is lost by right. Deleted chats are
    kept by any bucket that has heard of them.
    """
    world, database = stage.world, stage.world.index.database
    backup, burned = database.backup(), set(stage.model.burned)
    await trio.sleep(rng.uniform(0, 15))
    while world.index.running:
        await world.stop("index")
    stage.note("the index is restored")
    stage.set_back()
    stage.model.burned = burned
    database.restore(backup, now_us=int(world.index.clock.now() * 1_000_000))
    await world.start("index")
