"""Two hosts for real processes: network namespaces joined by a cable, or two loopback addresses."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

_CLONE_NEWNET = 0x40000000
"""linux/sched.h."""
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EROFS, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)
"""With which a kernel says that it has no such devices, or not for us."""
_PROBE = (
    "import ctypes, sys; libc = ctypes.CDLL(None, use_errno=True);"
    f"sys.exit(ctypes.get_errno() if libc.unshare({_CLONE_NEWNET}) else 0)"
)


@dataclass(frozen=True)
class Host:
    """Where a process runs: put `prefix` before its command, and it has `address`."""

    address: str
    prefix: Sequence[str] = ()


@contextmanager
def loopback_hosts() -> Iterator[tuple[Host, Host]]:
    """All of 127.0.0.0/8 is this machine; two of its addresses are two hosts to whoever binds."""
    yield Host("127.77.0.1"), Host("127.77.0.2")


@contextmanager
def namespaces() -> Iterator[tuple[Host, Host]]:
    """Two network namespaces, each with nothing but its end of one cable. Needs root."""
    if shutil.which("ip") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("ip (iproute2) is not installed")
        pytest.skip("ip (iproute2) is not installed")
    probe = subprocess.run([sys.executable, "-c", _PROBE], timeout=30, check=False)
    if probe.returncode:
        pytest.skip(f"unshare: {errno.errorcode[probe.returncode]}")
    names = [f"ost-{os.getpid()}-{end}" for end in "ab"]
    cables = [f"ost{os.getpid() % 100_000}{end}" for end in "ab"]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        hosts = []
        for number, (name, cable) in enumerate(zip(names, cables, strict=True), 1):
            host = Host(f"10.77.0.{number}", ("ip", "netns", "exec", name))
            _ip("link", "set", cable, "netns", name)
            _ip("-n", name, "addr", "add", f"{host.address}/24", "dev", cable)
            _ip("-n", name, "link", "set", cable, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            hosts.append(host)
        yield hosts[0], hosts[1]
    finally:
        for name in names:  # the cable goes with its ends
            subprocess.run(
                ["ip", "netns", "del", name], capture_output=True, timeout=30, check=False
            )


def _ip(*arguments: str) -> None:
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    what = f"ip {' '.join(arguments)}: {done.stderr}"
    for code in _REFUSALS:
        # A kernel without these cables says so in words of its own, and means EOPNOTSUPP.
        words = "Unknown device type" if code == errno.EOPNOTSUPP else os.strerror(code)
        if words in done.stderr or os.strerror(code) in done.stderr:
            pytest.skip(f"{errno.errorcode[code]}: {what}")
    assert done.returncode == 0, what
