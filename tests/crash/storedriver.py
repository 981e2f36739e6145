"""Writes groups to real stores and says on stdout which are durable; tests kill and fail it.

Reads lines `DATA_DIR GROUPS` and forks a child for each, so that a start of the interpreter is
paid once. A child stops itself until somebody has attached to it and sends SIGCONT. All disk
writes happen in one thread, because strace counts the calls it injects faults into per thread;
virtual time makes every run the same, markers of idle bursts included.

Prints `pid N`, then the child's `ready GROUPS` and `ack N` after group N is durable, then
`exit CODE`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path
from random import Random

import trio
import trio.testing

from ostnode.env import InlineWorker
from ostnode.store.disk import RealDisk
from tests.support.crashstates import scheduled
from tests.support.storecrash import TINY, group
from tests.support.storekit import opened

_PAUSE_EVERY = 4
"""Groups between pauses long enough for a marker."""
_PR_SET_PTRACER = 0x59616D61
"""prctl(2): who may attach, where the Yama module restricts it to ancestors."""
_LIFE_S = 20
_ANYBODY = ctypes.c_ulong(-1)


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def write_groups(data_dir: Path, groups: int) -> None:
    async with opened(RealDisk(data_dir), TINY, worker=InlineWorker(), seed=os.getpid()) as store:
        first = int(dict(store.state.scan(b"Mn")).get(b"Mn", b"0")) + 1
        say(f"ready {first - 1}")
        for number in range(first, first + groups):
            await store.commit(group(Random(number), number))
            say(f"ack {number}")
            if number % _PAUSE_EVERY == 0:
                await trio.sleep(0.2)


def child(data_dir: Path, groups: int) -> int:
    """The whole life of a child; returns its exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY)
    os.kill(os.getpid(), signal.SIGSTOP)
    signal.alarm(_LIFE_S)
    try:
        with scheduled(1):
            clock = trio.testing.MockClock(autojump_threshold=0)
            trio.run(write_groups, data_dir, groups, clock=clock)
    except Exception:  # noqa: BLE001  said on stderr, as an interpreter would
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    for line in sys.stdin:
        data_dir, groups = line.split()
        pid = os.fork()
        if pid == 0:
            os._exit(child(Path(data_dir), int(groups)))
        say(f"pid {pid}")
        _, status = os.waitpid(pid, 0)
        say(f"exit {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
