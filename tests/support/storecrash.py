"""A workload on a simulated disk that stops anywhere, and what must be true afterwards.

Groups are numbered; each sets `n` to its number, so the key space itself says how many groups it
holds. After a crash the key space must be exactly what it was after some number of groups that is
not less than the number acknowledged: nothing acknowledged is lost, no group is found in part,
and none without those before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

import trio
import trio.testing

from ostnode.errors import DataCorruptError
from ostnode.store.errors import StoreFailedError
from ostnode.store.record import Extent, NewRecord
from ostnode.store.simdisk import Faults, SimCrash, SimDisk
from ostnode.store.store import Store, StoreOptions
from tests.support.storekit import chunk, count, dump, opened, set_, unset

TINY = StoreOptions(segment_bytes=16 << 10, batch_bytes_max=6 << 10, queue_bytes_max=16 << 10)
WORKERS = 3
Life = Callable[[SimDisk, "History", Random, int], bool]
"""Opens a disk, checks what it finds, and works for so many groups; True when it was cut short."""


class BrokenPromiseError(AssertionError):
    """A promise of the store is broken."""


@dataclass
class History:
    """What a store was told, and what it said."""

    shown: list[dict[bytes, bytes]] = field(default_factory=lambda: [{}])
    """The key space after each number of groups."""
    payloads: dict[bytes, bytes] = field(default_factory=dict)
    """Packed extent → the bytes staged there."""
    acknowledged: int = 0

    def cut(self, groups: int) -> None:
        """The first `groups` groups are what there is: a crash took the rest."""
        del self.shown[groups + 1 :]
        self.acknowledged = groups


def group(rng: Random, number: int) -> list[NewRecord]:
    """A few records of mixed kinds and sizes."""
    records = [set_("n", str(number)), count("all")]
    for _ in range(rng.randint(0, 3)):
        kind = rng.random()
        if kind < 0.5:
            size = rng.choice((0, 5, 96, 500, 3000))
            records.append(chunk(rng.randbytes(size), number, rng.randint(0, 3)))
        elif kind < 0.8:
            records.append(set_(f"k{rng.randint(0, 9)}", rng.randbytes(rng.randint(0, 40)).hex()))
        else:
            records.append(unset(f"k{rng.randint(0, 9)}"))
    rng.shuffle(records)
    return records


async def work(store: Store, history: History, rng: Random, groups: int) -> None:
    """Stage and await groups from several tasks, with pauses long enough for markers."""

    async def task() -> None:
        for _ in range(groups):
            await trio.sleep(rng.choice((0, 0, 0, 0.01, 0.2)))
            async with store.admit(10_000):
                number = len(history.shown)
                staged = store.stage(group(rng, number))
                history.shown.append(dump(store.state))
                batch = staged._batch
                for record, payload in zip(batch.records, batch.payloads, strict=True):
                    history.payloads[record.extent.pack()] = bytes(payload)
            await staged.wait()
            history.acknowledged = max(history.acknowledged, number)

    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(task)


async def check(store: Store, history: History) -> int:
    """The number of groups that `store` holds; BrokenPromiseError when it is not an honest one."""
    found = dump(store.state)
    if store.problems:
        raise BrokenPromiseError(f"a crash was taken for damage: {store.problems}")
    if dump(store.durable) != found:
        raise BrokenPromiseError("durable and staged state differ after opening")
    groups = int(found.get(b"Mn", b"0"))
    if groups < history.acknowledged:
        raise BrokenPromiseError(f"{history.acknowledged} groups acknowledged, {groups} found")
    if groups >= len(history.shown) or history.shown[groups] != found:
        raise BrokenPromiseError(f"the key space never was like this after {groups} groups")
    for key, value in found.items():
        if key.startswith(b"C"):
            try:
                data = bytes(await store.read(Extent.unpack(value)))
            except DataCorruptError as error:
                raise BrokenPromiseError("a payload is lost") from error
            if data != history.payloads[value]:
                raise BrokenPromiseError("a payload differs from what was staged")
    return groups


def crash_run(seed: int, *, lazy_sync: bool = False, lazy_names: bool = False) -> int:
    """One life of a data directory through several crashes; returns how many there were."""
    rng = Random(seed)
    history = History()
    disk = SimDisk(rng.getrandbits(32))
    crashes = 0
    for life in range(rng.randint(1, 4)):
        disk.faults = Faults(
            crash_at=disk.operations + rng.randint(1, 60 if life else 200),
            lazy_sync=lazy_sync,
            lazy_names=lazy_names,
        )
        crashes += live(disk, history, rng, groups=rng.randint(1, 12))
        disk = _after(disk, rng)
    disk.faults = Faults()
    live(disk, history, rng, groups=0)
    rebuilt = _after(disk, rng)
    rebuilt.index.reset()
    live(rebuilt, history, rng, groups=0)
    return crashes


def _after(disk: SimDisk, rng: Random) -> SimDisk:
    seed = rng.getrandbits(32)
    return disk.power_lost(seed) if rng.random() < 0.7 else disk.killed(seed)


def live(disk: SimDisk, history: History, rng: Random, groups: int) -> bool:
    """Open, check, work, until the end, the crash or a failed sync; True unless it was the end."""

    async def life() -> None:
        async with opened(disk, TINY, seed=rng.getrandbits(32)) as store:
            history.cut(await check(store, history))
            await work(store, history, rng, groups)

    return run_until_crash(life, (StoreFailedError,))


def run_until_crash(
    life: Callable[[], Awaitable[None]], failures: tuple[type[Exception], ...]
) -> bool:
    """True when a crash or nothing but the `failures` of one ended it, else what it raised."""
    try:
        trio.run(life, clock=trio.testing.MockClock(autojump_threshold=0))
    except SimCrash:
        return True
    except BaseExceptionGroup as errors:
        violations = errors.subgroup(BrokenPromiseError)
        if violations is not None:
            raise BrokenPromiseError(repr(violations.exceptions)) from errors
        _, rest = errors.split((SimCrash, *failures))
        if rest is not None:
            raise
        return True
    return False
