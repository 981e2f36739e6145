"""Crash states of a store that is compacted: at every place of a life, and of the next start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

from ostnode.store.compaction import CompactionPass
from ostnode.store.output import Copy
from ostnode.store.segment import segment_name
from ostnode.store.simdisk import SimDisk, SimFile
from tests.support.compactcrash import COMPACTED, shuffled
from tests.support.compactkit import (
    add,
    compact_all,
    compact_one,
    count,
    judge_all,
    opened,
    remove,
    rows_of,
)
from tests.support.crashstates import WatchedDisk, failed_syncs, survey, verdict
from tests.support.storecrash import BrokenPromiseError, History

QUICK = replace(COMPACTED, groups=2, power_cuts=1)
DEEP_STATES = 50_000
POWER_CUTS = 12


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 4])
def test_b42_b58_every_place_to_crash_while_compacting(seed: int) -> None:
    states, cuts, broken = verdict([survey(seed, QUICK)])
    print(f"{states} states from {cuts.total()} places to crash: {dict(cuts)}")
    assert not broken, "\n".join(broken)
    assert states >= 300
    assert min(cuts[what] for what in ("create", "write", "sync", "commit", "remove")) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 8])
def test_b44_each_sync_fails_once_while_compacting(seed: int) -> None:
    states, _, broken = verdict([failed_syncs(seed, QUICK)])
    print(f"{states} states after failed syncs")
    assert not broken, "\n".join(broken)
    assert states >= 40


@pytest.mark.deep
def test_b42_tens_of_thousands_of_crash_states() -> None:
    states = seed = 0
    while states < DEEP_STATES:
        plan = replace(COMPACTED, lives=3, groups=4)
        found, _, broken = verdict([survey(1000 + seed, plan), failed_syncs(seed, QUICK)])
        assert not broken, "\n".join(broken)
        states, seed = states + found, seed + 1
    print(f"{states} states from {seed} seeds")


def run(act: Callable[[], Awaitable[None]]) -> None:
    trio.run(act, clock=trio.testing.MockClock(autojump_threshold=0))


def filled(*, half_dead: bool) -> SimDisk:
    """Two and more sealed segments. ADD 0 is in the first, its REMOVE in the last."""
    disk = SimDisk()

    async def life() -> None:
        async with opened(disk) as store:
            for number in range(30):
                await store.commit([add(number, bytes([number]) * 4000), count("all")])
            for number in range(30) if half_dead else [0]:
                if number % 2 == 0:
                    await store.commit([remove(number)])

    run(life)
    return disk


def look(disk: SimDisk, shown: dict[bytes, bytes]) -> None:
    """Raises when the store does not show just that."""

    async def life() -> None:
        async with opened(disk) as store:
            if store.problems or rows_of(store.durable) != shown:
                raise BrokenPromiseError

    try:
        run(life)
    except BaseExceptionGroup as errors:
        raise BrokenPromiseError from errors


def tombstone_of_a_segment_that_stays() -> None:
    """The last segment is rewritten; the first one, which is not, has what the tombstone undoes."""
    disk = filled(half_dead=False)
    shown = {}

    async def life() -> None:
        async with opened(disk) as store:
            work = store.compaction_pass()
            judgements = await judge_all(store, work)
            assert len(judgements) > 2
            await compact_one(work, judgements[-1])
            shown.update(rows_of(store.durable))

    run(life)
    look(shuffled(disk), shown)


def a_crash_at_every_place_of_a_compaction() -> None:
    """With many power cuts at each."""
    disk = WatchedDisk(filled(half_dead=True), History())
    shown = {}

    async def life() -> None:
        async with opened(disk) as store:
            shown.update(rows_of(store.durable))
            disk.cuts.clear()
            await compact_all(store)
            disk.cut("end")
            cuts = list(disk.cuts)
            disk.cuts.clear()
            disk.cuts += cuts

    run(life)
    for cut in disk.cuts:
        for seed in range(POWER_CUTS):
            look(cut.disk.power_lost(seed), shown)


def test_b58_a_tombstone_stays_while_what_it_undoes_does() -> None:
    tombstone_of_a_segment_that_stays()


@pytest.mark.slow
def test_b42_power_cuts_during_one_compaction() -> None:
    a_crash_at_every_place_of_a_compaction()


def test_a_tombstone_that_is_dropped_too_early_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompactionPass, "_may_drop", lambda *_: True)
    with pytest.raises(BrokenPromiseError):
        tombstone_of_a_segment_that_stays()


def test_inputs_unlinked_before_the_output_is_durable_are_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seal = Copy.seal

    def early(self: Copy, last_seq: int, judged_at: int) -> None:
        names = [segment_name(number) for number in self._inputs]
        twins = {name: self._disk.files[name] for name in names}
        for name in twins:
            self._disk.remove(name)
        self._disk.sync_names()
        seal(self, last_seq, judged_at)
        self._disk.files.update(twins)

    monkeypatch.setattr(Copy, "seal", early)
    with pytest.raises(BrokenPromiseError):
        a_crash_at_every_place_of_a_compaction()


@contextmanager
def _first_sync_forgotten() -> Iterator[None]:
    sync, calls = SimFile.sync, []

    def counted(file: SimFile) -> None:
        calls.append(file)
        if len(calls) > 1:
            sync(file)

    SimFile.sync = counted
    try:
        yield
    finally:
        SimFile.sync = sync


def test_a_seal_synced_together_with_its_records_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    seal = Copy.seal

    def lazy(self: Copy, last_seq: int, judged_at: int) -> None:
        with _first_sync_forgotten():
            seal(self, last_seq, judged_at)

    monkeypatch.setattr(Copy, "seal", lazy)
    with pytest.raises(BrokenPromiseError):
        a_crash_at_every_place_of_a_compaction()
