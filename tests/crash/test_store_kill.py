"""A real store in a real process, killed or failed at its Nth system call."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import trio

from ostnode.store.disk import RealDisk
from ostnode.store.memoryindex import MemoryIndex
from tests.support.simdisk import SimDisk
from tests.support.storecrash import TINY, group
from tests.support.storekit import dump, opened

ROOT = Path(__file__).parents[2]
GROUPS = 30
CALLS = ["pwritev2", "fdatasync", "ftruncate", "fsync", "pwrite64", "writev"]
"""What the store and LMDB write with: os.pwritev is pwritev2 in CPython."""
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        shutil.which("strace") is None and os.environ.get("CI") != "true",
        reason="strace is not installed",
    ),
]


def drive(data_dir: Path, inject: str | None) -> tuple[list[int], int]:
    """Run the driver, with a fault or without; the groups it acknowledged, and its exit code."""
    command = [sys.executable, "-m", "tests.crash.storedriver", str(data_dir), str(GROUPS)]
    if inject is not None:
        call = inject.split(":")[0]
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
                   "-e", f"inject={inject}", *command]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    acknowledged = re.findall(r"^ack (\d+)$", done.stdout, re.MULTILINE)
    return [int(number) for number in acknowledged], done.returncode


async def expected(groups: int) -> dict[bytes, bytes]:
    """The metadata after that many groups; extents depend on where a crash cut segments off."""
    async with opened(SimDisk(), TINY) as store:
        for number in range(1, groups + 1):
            store.stage(group(Random(number), number))
        return {key: value for key, value in dump(store.state).items() if key[:1] != b"C"}


def check(data_dir: Path, acknowledged: int, *, rebuild: bool) -> None:
    """What is found is some number of whole groups, not fewer than were acknowledged."""

    async def look() -> None:
        index = MemoryIndex() if rebuild else None
        async with opened(RealDisk(data_dir), TINY, index=index, seed=1) as store:
            assert store.problems == ()
            found = dump(store.state)
            groups = int(found.get(b"Mn", b"0"))
            assert groups >= acknowledged
            metadata = {key: value for key, value in found.items() if key[:1] != b"C"}
            assert metadata == await expected(groups)

    trio.run(look)


@pytest.mark.parametrize("call", CALLS)
def test_b40_killed_at_each_call(tmp_path: Path, call: str) -> None:
    """Sweep N until the fault no longer fires; a sweep in which it never fired proves nothing.

    Every other time the key index is lost as well.
    """
    fired = 0
    for number in [*range(1, 9), *range(9, 200, 8)]:
        data_dir = tmp_path / str(number)
        acknowledged, code = drive(data_dir, f"{call}:signal=KILL:when={number}")
        check(data_dir, max(acknowledged, default=0), rebuild=number % 2 == 0)
        if code == 0:
            assert acknowledged[-1] == GROUPS
            break
        fired += 1
    assert fired


@pytest.mark.parametrize("number", [2, 5, 9, 20])
def test_b44_a_failed_fdatasync_acknowledges_nothing_more(tmp_path: Path, number: int) -> None:
    acknowledged, code = drive(tmp_path, f"fdatasync:error=EIO:when={number}")
    assert code != 0
    assert len(acknowledged) < GROUPS
    check(tmp_path, max(acknowledged, default=0), rebuild=False)


def test_b40_killed_again_and_again(tmp_path: Path) -> None:
    """Each life goes on where the last one ended, recovery included."""
    last = 0
    for number in range(1, 16):
        acknowledged, _ = drive(tmp_path, f"pwritev2:signal=KILL:when={3 * number}")
        last = max(acknowledged, default=last)
        check(tmp_path, last, rebuild=number % 2 == 0)
    assert last > GROUPS


def test_b46_a_second_process_is_refused(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.lock()
    acknowledged, code = drive(tmp_path, None)
    assert code == 1
    assert acknowledged == []
    disk.unlock()
    acknowledged, code = drive(tmp_path, None)
    assert code == 0
    assert acknowledged == list(range(1, GROUPS + 1))
