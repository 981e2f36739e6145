"""Full disks: seeded crash states on a simulated one, a real store on a real one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from ostnode.store.disk import RealDisk
from ostnode.store.memoryindex import MemoryIndex
from tests.crash.fulldriver import OPTIONS, read_all
from tests.support.fullcrash import Seen, full_run
from tests.support.smallfs import fill, mounted_ext4
from tests.support.storekit import names, opened

ROOT = Path(__file__).parents[2]
SIZE = 100_000
STATES = 150


@pytest.mark.slow
def test_b43_crashes_on_a_disk_that_is_full_now_and_then() -> None:
    seen = Seen()
    for seed in range(STATES):
        full_run(seed, seen)
    assert min(seen.crashes, seen.refused, seen.deleted) > STATES
    assert seen.stuck > 2


@pytest.mark.deep
def test_b43_thousands_of_lives_on_full_disks() -> None:
    for seed in range(100_000, 105_000):
        full_run(seed, Seen())


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    with mounted_ext4(tmp_path, 64 << 20) as path:
        yield path


class Driven:
    """A running driver."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.hear()

    def chunks(self, first: int, most: int) -> tuple[int, str]:
        """Push chunks until one is refused; how many were taken, and the last answer."""
        for number in range(first, first + most):
            heard = self.say(f"chunk {number} {SIZE}")
            if heard != "ok":
                return number - first, heard
        return most, "ok"


@contextmanager
def driven(data_dir: Path) -> Iterator[Driven]:
    command = [sys.executable, "-m", "tests.crash.fulldriver", str(data_dir)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            driver = Driven(process)
            assert driver.hear() == "ready"
            yield driver
            if process.poll() is None:
                assert process.stdin is not None
                process.stdin.close()
                assert process.wait(20) == 0
        finally:
            watchdog.cancel()
            process.kill()


def check(data_dir: Path, chunks: int, kept: int) -> None:
    """What a rebuild from the log alone finds."""

    async def look() -> None:
        async with opened(RealDisk(data_dir), OPTIONS, index=MemoryIndex(), seed=1) as store:
            assert store.problems == ()
            assert await read_all(store) == chunks
            assert len(names(store.state)) == kept

    trio.run(look)


@pytest.mark.system
def test_b43_full_to_the_last_byte(mount: Path) -> None:
    data_dir, foreign = mount / "data", mount / "foreign"
    with driven(data_dir) as driver:
        assert driver.chunks(0, 10) == (10, "ok")
        for number in range(100):
            assert driver.say(f"set k{number:02} 1000") == "ok"
        fill(foreign)
        assert os.statvfs(mount).f_bavail == 0
        taken, heard = driver.chunks(10, 1000)
        assert heard.startswith("full: the disk is full: ")
        chunks = 10 + taken
        assert driver.say("read") == str(chunks)
        for number in range(40):
            assert driver.say(f"unset k{number:02}") == "ok"
        assert driver.say("names") == "60"
        assert driver.say("read") == str(chunks)

        fill(foreign)
        driver.process.kill()
        driver.process.wait()
        with driven(data_dir) as again:  # killed when full
            assert again.say("names") == "60"
            fill(foreign)  # what the last segment had not used
            taken, heard = again.chunks(chunks, 1000)
            assert heard.startswith("full: ")
            chunks += taken
            for number in range(40, 80):
                assert again.say(f"unset k{number:02}") == "ok"
            assert again.say("names") == "20"
            assert again.say("read") == str(chunks)

            foreign.unlink()
            deadline = time.monotonic() + 10
            while again.chunks(chunks, 1)[1] != "ok":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert again.chunks(chunks + 1, 100) == (100, "ok")
    check(data_dir, chunks + 101, 20)


@pytest.mark.system
def test_b43_when_not_even_deletions_fit(mount: Path) -> None:
    data_dir, foreign = mount / "data", mount / "foreign"
    with driven(data_dir) as driver:
        assert driver.chunks(0, 1) == (1, "ok")
        assert driver.say("set kept 100") == "ok"
        fill(foreign)
        nothing, heard = "x" * 20_000, "ok"
        taken = 0
        while heard == "ok":
            heard = driver.say(f"unset {nothing}")
            taken += heard == "ok"
        assert heard.startswith("full: ")
        assert taken > OPTIONS.segment_bytes // 20_000  # the segment, and most of the reserve
        assert driver.say(f"unset {nothing}").startswith("full: ")
        assert driver.say("read") == driver.say("names") == "1"
        assert driver.process.poll() is None
        foreign.unlink()
        time.sleep(2.5)
        assert driver.say(f"unset {nothing}") == "ok"
        assert driver.chunks(1, 20) == (20, "ok")
    check(data_dir, 21, 1)
