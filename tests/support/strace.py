"""Runs of the store driver under strace: calls counted, faults injected, each one known to fire."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_WAIT_S = 10
_REFUSED = frozenset({errno.EPERM, errno.ENOSYS, errno.EACCES})

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None and os.environ.get("CI") != "true",
    reason="strace is not installed",
)


@dataclass(frozen=True)
class Run:
    """What one child did."""

    acknowledged: list[int]
    code: int
    """Its exit code; minus the signal that killed it."""
    threads: dict[int, Counter[str]]
    """Calls traced, by thread and name."""
    injected: int
    """How many of them were made to fail."""

    @property
    def last(self) -> int:
        """The last group that was acknowledged; 0 for none."""
        return self.acknowledged[-1] if self.acknowledged else 0


class Driver:
    """A warm driver process that forks a child per run."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def run(self, data_dir: Path, groups: int, *, trace: str = "", inject: str = "") -> Run:
        """One child, started once strace has attached to it; untraced without `trace`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{data_dir} {groups}\n")
        self._process.stdin.flush()
        pid = int(self._line("pid"))
        _wait_for_stop(pid)
        if not trace:
            os.kill(pid, signal.SIGCONT)
            return Run(*self._ended(), {}, 0)
        command = ["strace", "-f", "-p", str(pid), "-o", str(self._log), "-e", f"trace={trace}"]
        command += ["-e", f"inject={inject}"] if inject else []
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            attached = "attached" in said
            os.kill(pid, signal.SIGCONT if attached else signal.SIGKILL)
            ended = self._ended()
        if not attached:
            _refused(said)
        return Run(*ended, *_read_log(self._log))

    def _line(self, word: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(f"{word} "), line
        return line.removeprefix(f"{word} ")

    def _ended(self) -> tuple[list[int], int]:
        """What the child acknowledged, and its exit code."""
        assert self._process.stdout is not None
        acknowledged = []
        for line in self._process.stdout:
            word, value = line.split()
            if word == "ack":
                acknowledged.append(int(value))
            if word == "exit":
                return acknowledged, int(value)
        raise AssertionError("the driver has ended")


@contextmanager
def driving(directory: Path) -> Iterator[Driver]:
    """A driver whose log and complaints lie in `directory`."""
    command = [sys.executable, "-m", "tests.crash.storedriver"]
    with (
        (directory / "stderr").open("w", encoding="utf-8") as complaints,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        ) as process,
    ):
        yield Driver(process, directory / "strace.log")


def _wait_for_stop(pid: int) -> None:
    end = time.monotonic() + _WAIT_S
    while Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2][0] != "T":
        assert time.monotonic() < end, "the driver's child did not stop"
        time.sleep(0.0005)


def _refused(said: str) -> None:
    """Skip when the kernel does not let strace attach, fail for any other reason."""
    for code in _REFUSED:
        if os.strerror(code) in said:
            pytest.skip(f"strace may not attach: {errno.errorcode[code]}")
    raise AssertionError(f"strace did not attach: {said}")


def _read_log(log: Path) -> tuple[dict[int, Counter[str]], int]:
    """Calls by thread and name, and how many were made to fail."""
    text = log.read_text("utf-8", "replace")
    threads: dict[int, Counter[str]] = {}
    for pid, name in re.findall(r"^(\d+) +(\w+)\(", text, re.MULTILINE):
        threads.setdefault(int(pid), Counter())[name] += 1
    return threads, text.count("(INJECTED)")
