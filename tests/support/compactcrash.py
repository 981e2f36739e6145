"""Lives of a store that is compacted while it works, for `crashstates`.

As in `storecrash` the key space says how many groups it holds, and must be what it was after that
many, whatever was dropped, moved or punched since.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import trio
from typing_extensions import override

from ostnode.errors import DataCorruptError
from ostnode.store import judging
from ostnode.store.errors import StoreFailedError
from ostnode.store.judging import Judgement
from ostnode.store.planning import Run, plan_compaction
from ostnode.store.record import NewRecord
from ostnode.store.simdisk import SimDisk, SimIndex
from ostnode.store.staging import SEGMENT_RECORDS_MAX
from ostnode.store.store import Store
from tests.support.compactkit import (
    ADD,
    FREE,
    Row,
    add,
    count,
    judge_all,
    opened,
    remove,
    rows_of,
    set_,
    touch,
    unset,
)
from tests.support.crashstates import Survey
from tests.support.storecrash import TINY, BrokenPromiseError, History, run_until_crash

WORKERS = 2
_PUNCH_BYTES_MIN = 2 * judging.BLOCK_BYTES


def group(rng: Random, number: int) -> list[NewRecord]:
    """Adds, removes and adds again a few things; the first record says which group it is."""
    records = [set_("n", str(number)), count("all")]
    sizes: tuple[int, ...] = (0, 7, 600, 8400)
    for _ in range(rng.randint(1, 4)):
        kind, which = rng.random(), rng.randint(0, 5)
        if kind < 0.45:
            records.append(add(which, rng.randbytes(rng.choice(sizes))))
            sizes = (0, 7, 300)
        elif kind < 0.65:
            records.append(remove(which))
        elif kind < 0.75:
            records.append(touch(which))
        elif kind < 0.9:
            records.append(set_(f"k{which}", rng.randbytes(rng.randint(0, 40)).hex()))
        else:
            records.append(unset(f"k{which}"))
    return records


async def write(store: Store, history: History, rng: Random, groups: int) -> None:
    for _ in range(groups):
        await trio.sleep(rng.choice((0, 0, 0.01, 0.2)))
        async with store.admit(40_000):
            number = len(history.shown)
            records = group(rng, number)
            staged = store.stage(records)
            history.shown.append(rows_of(store.state))
            for seq, record in zip(staged.seqs, records, strict=True):
                if record.kind == ADD:
                    history.payloads[seq.to_bytes(8, "big")] = bytes(record.payload)
        await staged.wait()
        history.acknowledged = max(history.acknowledged, number)


def _any_run(judgements: list[Judgement], rng: Random) -> list[Run]:
    """A run that no plan would make: any adjacent segments, also those with nothing dead."""
    first = rng.randrange(len(judgements))
    some = judgements[first : first + rng.randint(1, 3)]
    numbers = tuple(judgement.number for judgement in some)
    nbytes = sum(judgement.nbytes for judgement in some)
    return [Run(numbers, some[0].first_seq, some[-1].last_seq, nbytes, 0)]


async def maintain(store: Store, rng: Random) -> None:
    """Passes over the log until cancelled."""
    while True:
        await trio.sleep(rng.choice((0, 0.01, 0.2)))
        work = store.compaction_pass()
        judgements = await judge_all(store, work)
        if not judgements:
            continue
        for judgement in rng.sample(judgements, min(2, len(judgements))):
            await store.punch(judgement, FREE)
        runs = plan_compaction(
            judgements,
            live_share_max=rng.choice((0.5, 1.0)),
            segment_bytes=TINY.segment_bytes,
            records_max=SEGMENT_RECORDS_MAX,
        )
        for run in runs if rng.random() < 0.7 else _any_run(judgements, rng):
            await (work if rng.random() < 0.8 else store).compact(run, FREE)


async def check(store: Store, history: History) -> int:
    """The number of groups that `store` holds; BrokenPromiseError when it is not an honest one."""
    found = rows_of(store.state)
    if store.problems:
        raise BrokenPromiseError(f"a crash was taken for damage: {store.problems}")
    if rows_of(store.durable) != found:
        raise BrokenPromiseError("durable and staged state differ after opening")
    named = found.get(b"Mn")
    groups = int(Row.unpack(named).rest) if named else 0
    if groups < history.acknowledged:
        raise BrokenPromiseError(f"{history.acknowledged} groups acknowledged, {groups} found")
    if groups >= len(history.shown) or history.shown[groups] != found:
        raise BrokenPromiseError(f"the key space never was like this after {groups} groups")
    for key in found:
        if key.startswith(b"C"):
            row = Row.unpack(store.durable.get(key) or b"")
            try:
                data = bytes(await store.read(row.extent))
            except DataCorruptError as error:
                raise BrokenPromiseError("a payload is lost") from error
            if data != history.payloads[row.seq.to_bytes(8, "big")]:
                raise BrokenPromiseError("a payload differs from what was staged")
    return groups


class ShuffledDisk(SimDisk):
    """Lists its files in another order than their names'."""

    @override
    def names(self) -> list[str]:
        names = super().names()
        self.rng.shuffle(names)
        return names


def shuffled(disk: SimDisk) -> SimDisk:
    """The same disk as a kill leaves it, without its key index, its files in any order."""
    other = ShuffledDisk()
    other.__dict__.update(disk.killed(0).__dict__, index=SimIndex())
    return other


@contextmanager
def _small_holes() -> Iterator[None]:
    before, judging.PUNCH_BYTES_MIN = judging.PUNCH_BYTES_MIN, _PUNCH_BYTES_MIN
    try:
        yield
    finally:
        judging.PUNCH_BYTES_MIN = before


def live_compacted(disk: SimDisk, history: History, rng: Random, groups: int) -> bool:
    """Open, check, work and compact, until the end, the crash or a failed sync."""

    async def life() -> None:
        async with opened(disk, TINY, seed=rng.getrandbits(32)) as store:
            history.cut(await check(store, history))
            if not groups:
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(maintain, store, rng)
                async with trio.open_nursery() as writers:
                    for _ in range(WORKERS):
                        writers.start_soon(write, store, history, rng, groups)
                await trio.sleep(0.5)
                nursery.cancel_scope.cancel()

    async def rebuild() -> None:
        shown = History(history.shown, history.payloads, history.acknowledged)
        async with opened(shuffled(disk), TINY, seed=1) as store:
            await check(store, shown)

    with _small_holes():
        stopped = run_until_crash(life, (StoreFailedError,))
        if not stopped and rng.random() < 0.25:
            run_until_crash(rebuild, ())
    return stopped


COMPACTED = Survey(power_cuts=2, life=live_compacted)
