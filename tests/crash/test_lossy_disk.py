"""The store on a file system that loses its power: real system calls, simulated forgetting.

The key index is in memory, and every start rebuilds it: LMDB maps its file, which this file system
cannot do while it bypasses the page cache.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from ostnode.store.disk import RealDisk
from ostnode.store.errors import StoreFailedError
from ostnode.store.memoryindex import MemoryIndex
from tests.support.lossyfs import Switch, mounted
from tests.support.smallfs import need
from tests.support.storecrash import TINY, BrokenPromiseError, History, check, work
from tests.support.storekit import opened

CUTS = 40
pytestmark = pytest.mark.system


@pytest.fixture
def lossy(tmp_path: Path) -> Iterator[tuple[Path, Switch]]:
    need("fusermount3")
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/fuse: {errno.errorcode[error.errno or 0]}")
    mount = tmp_path / "mount"
    with mounted(mount) as switch:
        yield mount / "data", switch


def life(data_dir: Path, history: History, rng: Random, groups: int) -> None:
    """Open, check, and work until the end or until the power goes."""

    async def live() -> None:
        disk, index = RealDisk(data_dir), MemoryIndex()
        async with opened(disk, TINY, index=index, seed=rng.getrandbits(32)) as store:
            history.cut(await check(store, history))
            await work(store, history, rng, groups)

    try:
        trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    except BaseExceptionGroup as errors:
        broken = errors.subgroup(BrokenPromiseError)
        if broken is not None:
            raise BrokenPromiseError(repr(broken.exceptions)) from errors
        if errors.split((StoreFailedError, OSError))[1] is not None:
            raise


def lives(data_dir: Path, switch: Switch, cuts: int) -> History:
    """Lives that most often end with a power cut, until there were so many."""
    rng, history = Random(0), History()
    while cuts:
        switch.arm(rng.randint(1, 120), rng.getrandbits(32))
        life(data_dir, history, rng, groups=rng.randint(1, 8))
        cuts -= switch.on()
    life(data_dir, history, rng, groups=0)
    return history


def test_b40_power_cuts_on_a_lossy_file_system(lossy: tuple[Path, Switch]) -> None:
    assert lives(*lossy, CUTS).acknowledged > CUTS


@pytest.mark.parametrize("forgotten", ["RealFile.sync", "RealDisk.sync_names"])
def test_a_store_that_forgets_a_sync_is_caught_there_too(
    lossy: tuple[Path, Switch], forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"ostnode.store.disk.{forgotten}", lambda _self: None)
    with pytest.raises(BrokenPromiseError):
        lives(*lossy, 10 * CUTS)
