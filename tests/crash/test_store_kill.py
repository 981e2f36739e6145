"""A real store in a real process, killed or failed at each of its system calls."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import pytest
import trio

from ostnode.store.disk import RealDisk
from ostnode.store.memoryindex import MemoryIndex
from ostnode.store.record import Extent
from ostnode.store.simdisk import SimDisk
from ostnode.store.store import Store
from tests.support.storecrash import TINY, group
from tests.support.storekit import dump, opened
from tests.support.strace import Driver, driving, needs_strace

GROUPS = 16
SYNCS = ("fdatasync", "fsync")
WRITES = ("pwritev2", "pwrite64", "writev", "write", "ftruncate", "fallocate")
"""What the store and LMDB write with: os.pwritev is pwritev2 in CPython."""
NAMES = ("openat", "rename", "unlink")
CALLS = SYNCS + WRITES + NAMES
EIO = "error=EIO"
ENOSPC = "error=ENOSPC"
FATAL = frozenset({"fdatasync", "fsync", "pwritev2"})
"""After EIO from these the process must end; others have a way round, such as a rebuild."""
STARTS = {"new": "", "torn": "pwritev2:signal=KILL:when=9"}
"""Where scripts start, by the kill that left it: from nothing, from an unfinished burst."""
on_every_start = pytest.mark.parametrize("script", STARTS, indirect=True)
on_a_new_start = pytest.mark.parametrize("script", ["new"], indirect=True)
pytestmark = needs_strace

Shown = tuple[dict[bytes, bytes], dict[bytes, bytes]]
"""Metadata, and payloads by key; where they lie depends on where a crash cut segments off."""


@dataclass(frozen=True)
class Script:
    """Where a driver starts, and every call it makes from there."""

    start: Path
    known: int
    calls: Counter[str]

    def copy(self, to: Path) -> Path:
        """A data directory of its own."""
        shutil.copytree(self.start, to)
        return to


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with driving(tmp_path_factory.mktemp("driver")) as driver:
        yield driver


@pytest.fixture(scope="module", params=STARTS)
def script(
    request: pytest.FixtureRequest, driver: Driver, tmp_path_factory: pytest.TempPathFactory
) -> Script:
    """From nothing, or from what a kill left."""
    start = tmp_path_factory.mktemp("script") / "start"
    start.mkdir()
    known = 0
    if fault := STARTS[request.param]:
        known = driver.run(start, GROUPS, trace=fault.split(":")[0], inject=fault).last
        assert 0 < known < GROUPS
    counted = shutil.copytree(start, start.with_name("counted"))
    run = driver.run(counted, GROUPS, trace=",".join(CALLS))
    assert (run.code, run.last) == (0, known + GROUPS)
    (calls,) = run.threads.values()
    assert set(CALLS) - set(calls) <= {"unlink"}
    return Script(start, known, calls)


@cache
def after(groups: int) -> Shown:
    """What that many groups make."""

    async def make() -> Shown:
        async with opened(SimDisk(), TINY) as store:
            for number in range(1, groups + 1):
                await store.commit(group(Random(number), number))
            return await shown(store)

    return trio.run(make)


async def shown(store: Store) -> Shown:
    rows = dump(store.durable)
    payloads = {
        key: bytes(await store.read(Extent.unpack(value)))
        for key, value in rows.items()
        if key[:1] == b"C"
    }
    return {key: value for key, value in rows.items() if key not in payloads}, payloads


def check(data_dir: Path, acknowledged: int) -> int:
    """What is found, also by a rebuild, is so many whole groups, no fewer than acknowledged."""

    async def look() -> tuple[Shown, Shown]:
        async with opened(RealDisk(data_dir), TINY, seed=1) as store:
            assert store.problems == ()
            found = await shown(store)
        async with opened(RealDisk(data_dir), TINY, index=MemoryIndex(), seed=1) as store:
            assert store.problems == ()
            return found, await shown(store)

    found, rebuilt = trio.run(look)
    groups = int(found[0].get(b"Mn", b"0"))
    assert groups >= acknowledged
    assert found == after(groups)
    assert rebuilt == found
    return groups


def sweep(driver: Driver, script: Script, tmp_path: Path, call: str, fault: str) -> None:
    """Inject at every call of that name, none left out; each fault must be seen to happen."""
    kills, began = fault.startswith("signal"), time.monotonic()
    count = script.calls[call]
    for number in range(1, count + 1):
        data_dir = script.copy(tmp_path / str(number))
        run = driver.run(data_dir, GROUPS, trace=call, inject=f"{call}:{fault}:when={number}")
        fired = run.code == -9 if kills else run.injected == 1
        assert fired, f"{call} {number} of {count} was not hit: exit {run.code}"
        assert run.code or fault != EIO or call not in FATAL
        check(data_dir, max(run.last, script.known))
        shutil.rmtree(data_dir)
    data_dir = script.copy(tmp_path / "none")
    run = driver.run(data_dir, GROUPS, trace=call, inject=f"{call}:{fault}:when={count + 1}")
    assert (run.code, run.last, run.injected) == (0, script.known + GROUPS, 0)
    print(f"{call} {fault}: {count} of {count} fired, {time.monotonic() - began:.1f} s")


@pytest.mark.system
@on_every_start
@pytest.mark.parametrize("call", CALLS)
def test_b40_killed_at_each_call(driver: Driver, script: Script, tmp_path: Path, call: str) -> None:
    sweep(driver, script, tmp_path, call, "signal=KILL")


@pytest.mark.system
@on_a_new_start
@pytest.mark.parametrize("call", SYNCS + WRITES)
def test_b44_each_call_fails_once(
    driver: Driver, script: Script, tmp_path: Path, call: str
) -> None:
    sweep(driver, script, tmp_path, call, EIO)


@pytest.mark.system
@on_a_new_start
@pytest.mark.parametrize("call", WRITES)
def test_b43_the_disk_is_full_at_each_write(
    driver: Driver, script: Script, tmp_path: Path, call: str
) -> None:
    sweep(driver, script, tmp_path, call, ENOSPC)


@pytest.mark.deep
@on_every_start
@pytest.mark.parametrize("fault", [EIO, ENOSPC])
@pytest.mark.parametrize("call", CALLS)
def test_b43_b44_each_call_fails_from_every_start(
    driver: Driver, script: Script, tmp_path: Path, call: str, fault: str
) -> None:
    sweep(driver, script, tmp_path, call, fault)


@pytest.mark.system
def test_b40_killed_again_and_again(driver: Driver, tmp_path: Path) -> None:
    """Each life goes on where the last one ended, recovery included."""
    last = 0
    for number in range(1, 25):
        fault = f"pwritev2:signal=KILL:when={3 * number}"
        run = driver.run(tmp_path, GROUPS, trace="pwritev2", inject=fault)
        last = check(tmp_path, max(last, run.last))
    assert last > 4 * GROUPS


@pytest.mark.system
def test_b46_a_second_process_is_refused(driver: Driver, tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.lock()
    run = driver.run(tmp_path, GROUPS)
    assert (run.code, run.acknowledged) == (1, [])
    disk.unlock()
    run = driver.run(tmp_path, GROUPS)
    assert (run.code, run.acknowledged) == (0, list(range(1, GROUPS + 1)))
