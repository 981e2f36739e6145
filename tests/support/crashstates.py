"""Every place where a recorded workload can stop, and the states a crash may leave there.

A life of a store is run once on a disk that remembers itself before each of its operations and
each commit of the key index. From each of these cuts states are made: the process killed (the
write it was in done in part, the key index kept, lost or from an earlier time), or the power gone
(a random part of the unsynced sectors and names kept). Each state is opened and checked, and
recovery is a life like any other: it is cut and crashed again, several times over. One of the
states is where the next life begins.

Everything follows from the seed, the scheduler included. A state has a name, and
`python -m tests.support.crashstates NAME` shows it again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random

import trio
from typing_extensions import override

from ostnode.store.keyspace import Covered
from ostnode.store.simdisk import Faults, SimDisk, SimIndex, copy_index
from ostnode.store.siminode import Inode, Write
from tests.support.storecrash import History, Life, live

RECOVERIES_MAX = 3
"""Crashes of recovery after one crash of a life."""
POWER_CUTS = 8
"""States after a power cut made from each cut at which something is not synced."""


@dataclass(frozen=True)
class Cut:
    """A disk before its next operation, and what had been promised by then."""

    what: str
    disk: SimDisk
    staged: int
    acknowledged: int

    def history(self, of: History) -> History:
        """What a store that finds this disk may show and must show."""
        return History(of.shown[: self.staged + 1], of.payloads, self.acknowledged)


class WatchedIndex(SimIndex):
    """A key index whose disk remembers itself before each commit."""

    def __init__(self, index: SimIndex, before_commit: Callable[[str], None]) -> None:
        super().__init__()
        self.__dict__.update(index.__dict__)
        self._before_commit = before_commit

    @override
    def commit(self, changes: Mapping[bytes, bytes | None], covered: Covered) -> None:
        self._before_commit("commit")
        super().commit(changes, covered)


class WatchedDisk(SimDisk):
    """Goes on from a disk, which is used up, and keeps a cut before each operation."""

    def __init__(self, disk: SimDisk, history: History, faults: Faults | None = None) -> None:
        super().__init__()
        self.__dict__.update(disk.__dict__, faults=faults or Faults())
        self.index = WatchedIndex(disk.index, self.cut)
        self.index.disk = self
        self._history = history
        self.cuts: list[Cut] = []

    def cut(self, what: str) -> None:
        """Remember the present state."""
        twin = self.killed(0)
        twin.index.clean = self.index.clean
        history = self._history
        self.cuts.append(Cut(what, twin, len(history.shown) - 1, history.acknowledged))

    @override
    def step(self, what: str) -> bool:
        self.cut(what)
        return super().step(what)


@dataclass(frozen=True)
class State:
    """What the next start finds, by name."""

    name: str
    disk: SimDisk
    history: History


@dataclass
class Tally:
    """How many states were opened, and which broke a promise."""

    states: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    """Places to crash, by what was about to happen."""
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Survey:
    """What is run: lives per seed, states per cut, and what is wrong with the disk."""

    lives: int = 2
    groups: int = 6
    power_cuts: int = POWER_CUTS
    lazy_sync: bool = False
    lazy_names: bool = False
    life: Life = live

    @property
    def faults(self) -> Faults:
        """As every life of the survey meets them."""
        return Faults(lazy_sync=self.lazy_sync, lazy_names=self.lazy_names)


@contextmanager
def scheduled(seed: int) -> Iterator[None]:
    """Trio runs tasks in an order that follows from `seed`."""
    runner = trio._core._run
    before = runner._ALLOW_DETERMINISTIC_SCHEDULING
    runner._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    runner._r.seed(seed)
    try:
        yield
    finally:
        runner._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]


def survey(seed: int, plan: Survey = Survey(), only: str | None = None) -> Tally:
    """Run the lives of one seed and open every state; `only` opens the one of that name."""
    tally = Tally()
    disk, history = SimDisk(seed), History()
    for number in range(plan.lives):
        rng = Random(f"{seed} {number}")
        watched = WatchedDisk(disk, history, plan.faults)
        try:
            with scheduled(rng.getrandbits(32)):
                plan.life(watched, history, rng, plan.groups)
        except Exception as error:  # noqa: BLE001  whatever it is, the store did it
            tally.broken.append(f"{seed}:{number}: {error!r}")
            return tally
        watched.cut("end")
        tally.cuts.update(cut.what.split()[0] for cut in watched.cuts)
        for state in _states(f"{seed}:{number}", watched.cuts, history, plan.power_cuts):
            if only is None or state.name == only:
                _visit(state, plan, tally)
        cut = rng.choice(watched.cuts)
        history = cut.history(history)
        disk = _crashed(cut, rng)
    return tally


def recoveries(seed: int, plan: Survey = Survey()) -> Tally:
    """One life, killed before each sync; every recovery from that, cut at every place.

    Then the records that a recovery keeps, and all that it writes, may still be lost.
    """
    tally = Tally()
    history, rng = History(), Random(f"{seed} 0")
    watched = WatchedDisk(SimDisk(seed), history, plan.faults)
    with scheduled(rng.getrandbits(32)):
        plan.life(watched, history, rng, plan.groups)
    for at, cut in enumerate(watched.cuts):
        if cut.what != "sync":
            continue
        name = f"{seed}:recovery {at}"
        found = cut.history(history)
        recovering = WatchedDisk(cut.disk.killed(at), found, plan.faults)
        with scheduled(at):
            plan.life(recovering, found, Random(name), 0)
        tally.cuts.update(cut.what.split()[0] for cut in recovering.cuts)
        # Cuts before the end of the recovery know only what had been acknowledged before.
        for state in _states(name, recovering.cuts, cut.history(history), plan.power_cuts):
            _visit(state, plan, tally)
    return tally


def failed_syncs(seed: int, plan: Survey = Survey()) -> Tally:
    """One life per sync, in which that sync fails: nobody is told of what it did not sync."""
    tally = Tally()

    def run(faults: Faults) -> tuple[WatchedDisk, History, bool]:
        history, rng = History(), Random(f"{seed} 0")
        watched = WatchedDisk(SimDisk(seed), history, faults)
        with scheduled(rng.getrandbits(32)):
            stopped = plan.life(watched, history, rng, plan.groups)
        return watched, history, stopped

    whole = run(plan.faults)[0].log
    for number in (at for at, what in enumerate(whole, 1) if what == "sync"):
        watched, history, stopped = run(replace(plan.faults, sync_errors=frozenset({number})))
        name = f"{seed}:sync {number}"
        later = [what for what in watched.log[number:] if what.startswith(("write", "sync"))]
        if not stopped or later:
            tally.broken.append(f"{name}: went on after a failed sync")
        watched.cut("failed")
        for state in _states(name, watched.cuts[-1:], history, plan.power_cuts):
            _visit(state, plan, tally)
    return tally


def _states(name: str, cuts: list[Cut], history: History, power_cuts: int) -> Iterator[State]:
    for at, cut in enumerate(cuts):
        makers = [
            ("kill", lambda rng, cut=cut: cut.disk.killed(rng.getrandbits(32))),
            ("kill and index", lambda rng, cut=cut: _without_index(cut, rng)),
            ("kill and old index", lambda rng, cut=cut, at=at: _stale(cuts[: at + 1], cut, rng)),
        ]
        makers += [
            (f"power {n}", lambda rng, cut=cut: cut.disk.power_lost(rng.getrandbits(32)))
            for n in range(power_cuts if _unsynced(cut.disk) else 1)
        ]
        if at + 1 < len(cuts) and (write := _next_write(cut, cuts[at + 1])):
            makers.append(("torn", lambda rng, cut=cut, w=write: _torn(cut, w, rng)))
        for how, make in makers:
            called = f"{name}:{at}:{how}"
            yield State(called, make(Random(called)), cut.history(history))


def _unsynced(disk: SimDisk) -> bool:
    """Whether it is a matter of chance what a power cut leaves."""
    return bool(disk.pending_names) or any(inode.pending for inode in disk.files.values())


def _without_index(cut: Cut, rng: Random) -> SimDisk:
    disk = cut.disk.killed(rng.getrandbits(32))
    disk.index = SimIndex()
    return disk


def _stale(earlier: list[Cut], cut: Cut, rng: Random) -> SimDisk:
    disk = cut.disk.killed(rng.getrandbits(32))
    disk.index = copy_index(rng.choice(earlier).disk.index)
    return disk


def _torn(cut: Cut, write: tuple[str, Write], rng: Random) -> SimDisk:
    disk = cut.disk.killed(rng.getrandbits(32))
    name, whole = write
    disk.files[name].do(Write(whole.offset, whole.data[: rng.randint(0, len(whole.data))]))
    return disk


def _next_write(cut: Cut, following: Cut) -> tuple[str, Write] | None:
    """The file and the write that lies between two cuts."""
    if not cut.what.startswith(("write", "punch")):
        return None
    for name, inode in following.disk.files.items():
        before = cut.disk.files.get(name, Inode())
        if len(inode.pending) > len(before.pending):
            last = inode.pending[-1]
            assert isinstance(last, Write)
            return name, last
    return None


def _crashed(cut: Cut, rng: Random) -> SimDisk:
    seed = rng.getrandbits(32)
    disk = cut.disk.power_lost(seed) if rng.random() < 0.5 else cut.disk.killed(seed)
    if rng.random() < 0.25:
        disk.index = SimIndex()
    return disk


def _visit(state: State, plan: Survey, tally: Tally) -> None:
    """Open a state and check it; crash its recovery and open that, now and then."""
    rng = Random(state.name)
    disk, history = state.disk, state.history
    crashes = rng.choice((0, 0, 0, 1, RECOVERIES_MAX))
    for number in range(crashes + 1):
        tally.states += 1
        again = number < crashes
        opening = WatchedDisk(disk, history, plan.faults) if again else disk
        opening.faults = plan.faults
        try:
            with scheduled(rng.getrandbits(32)):
                plan.life(opening, history, rng, 0)
        except Exception as error:  # noqa: BLE001  whatever it is, the start was not right
            tally.broken.append(f"{state.name}: {error!r}")
            return
        if isinstance(opening, WatchedDisk):
            opening.cut("end")
            cut = rng.choice(opening.cuts)
            history = cut.history(history)
            disk = _crashed(cut, rng)


def verdict(tallies: list[Tally]) -> tuple[int, Counter[str], list[str]]:
    """States in all, places to crash, and what broke a promise, with the way to see it again."""
    broken = [
        f"{text}\n  again: python -m tests.support.crashstates '{text.split(': ')[0]}'"
        for tally in tallies
        for text in tally.broken
    ]
    cuts = sum((tally.cuts for tally in tallies), Counter[str]())
    return sum(tally.states for tally in tallies), cuts, broken


def again(name: str) -> Tally:
    """The state of that name."""
    seed, life, *_ = name.split(":")
    if life.startswith("sync"):
        return failed_syncs(int(seed))
    if life.startswith("recovery"):
        return recoveries(int(seed))
    return survey(int(seed), Survey(lives=int(life) + 1), only=name)


if __name__ == "__main__":
    found = again(sys.argv[1])
    sys.exit("\n".join(found.broken) or f"{found.states} states, nothing broken")
