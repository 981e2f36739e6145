"""The workload of `storecrash` on a disk that other programs fill and empty again under it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import trio

from ostnode.store.errors import NoSpaceError, StoreFailedError, StoreFullError
from ostnode.store.record import NewRecord
from ostnode.store.simdisk import Faults, SimDisk
from ostnode.store.space import reserve_bytes
from ostnode.store.store import Staged, Store
from tests.support.storecrash import TINY, History, check, group, run_until_crash
from tests.support.storekit import chunk, dump, opened, set_, unset

CAPACITY = 6 * TINY.segment_bytes + 2 * reserve_bytes(TINY.segment_bytes)
_PATIENCE_S = 20.0


@dataclass
class Seen:
    """What happened in all the lives."""

    crashes: int = 0
    refused: int = 0
    deleted: int = 0
    """Deletions made durable right after bulk was refused."""
    stuck: int = 0
    """Batches that waited for room after everything was given up."""


async def work(store: Store, disk: SimDisk, history: History, rng: Random, seen: Seen) -> None:
    for _ in range(rng.randint(4, 30)):
        if rng.random() < 0.4:
            room = disk.room() + disk.faults.foreign
            disk.faults.foreign = rng.choice((0, room, max(0, room - rng.randint(0, 9000))))
        number = len(history.shown)
        records = group(rng, number)
        try:
            staged = await _stage(store, history, records)
        except StoreFullError:
            seen.refused += 1
            records = [set_("n", str(number)), unset(f"k{rng.randint(0, 9)}")]
            try:
                staged = await _stage(store, history, records)
            except StoreFullError:
                disk.faults.foreign = 0
                await trio.sleep(rng.choice((0, 3)))
                continue
            seen.deleted += 1
        with trio.move_on_after(_PATIENCE_S) as scope:
            await staged.wait()
        if scope.cancelled_caught:
            seen.stuck += 1
            disk.faults.foreign = 0
            await staged.wait()
        history.acknowledged = max(history.acknowledged, number)


async def _stage(store: Store, history: History, records: list[NewRecord]) -> Staged:
    async with store.admit(10_000):
        staged = store.stage(records)
    history.shown.append(dump(store.state))
    for record, payload in zip(staged._batch.records, staged._batch.payloads, strict=True):
        history.payloads[record.extent.pack()] = bytes(payload)
    return staged


def full_run(seed: int, seen: Seen) -> None:
    """Several lives of a data directory, each with its crash; the last has room again."""
    rng, history = Random(seed), History()
    disk = SimDisk(rng.getrandbits(32))
    for number in range(rng.randint(2, 5)):
        disk.faults = Faults(
            crash_at=disk.operations + rng.randint(1, 60 if number else 200),
            capacity=CAPACITY,
            preallocates=rng.random() < 0.7,
            thief=rng.random() < 0.3,
        )
        disk.faults.foreign = rng.choice((0, max(0, disk.room() - rng.randint(0, 9000))))
        seen.crashes += _live(disk, history, rng, seen)
        after = rng.getrandbits(32)
        disk = disk.power_lost(after) if rng.random() < 0.7 else disk.killed(after)
    for rebuild in (False, True):
        if rebuild:
            disk.index.reset()
        _last_life(disk, history, rng)


def _live(disk: SimDisk, history: History, rng: Random, seen: Seen) -> bool:
    async def life() -> None:
        async with opened(disk, TINY, seed=rng.getrandbits(32)) as store:
            history.cut(await check(store, history))
            await work(store, disk, history, rng, seen)

    try:
        return run_until_crash(life, (StoreFailedError,))
    except NoSpaceError:  # not even recovery had room: it is for the next start
        return False


def _last_life(disk: SimDisk, history: History, rng: Random) -> None:
    disk.faults = Faults()

    async def life() -> None:
        async with opened(disk, TINY, seed=rng.getrandbits(32)) as store:
            history.cut(await check(store, history))
            records = [set_("n", str(len(history.shown))), chunk(bytes(3000))]
            staged = await _stage(store, history, records)
            await staged.wait()
            history.acknowledged = len(history.shown) - 1

    assert not run_until_crash(life, ())
