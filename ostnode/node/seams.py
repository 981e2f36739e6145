"""What the node takes from outside, so that a whole cluster can run in one test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ostnode.env import Clock, Rng, SystemClock, SystemRng, ThreadWorker, Worker
from ostnode.net.transport import Network, TcpNetwork
from ostnode.store.disk import Disk, RealDisk


@dataclass(frozen=True, slots=True)
class Seams:
    """Time, randomness, threads, network and disks; by default the operating system's."""

    clock: Clock = field(default_factory=SystemClock)
    rng: Rng = field(default_factory=SystemRng)
    network: Network = field(default_factory=TcpNetwork)
    make_worker: Callable[[int], Worker] = ThreadWorker
    make_disk: Callable[[Path], Disk] = RealDisk
