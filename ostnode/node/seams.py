"""What the node takes from outside, so that a whole cluster can run in one test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ostnode.env import Clock, Rng, SystemClock, SystemRng, ThreadWorker, Worker
from ostnode.identity.keys import KeyPair
from ostnode.keyfiles import load_seed
from ostnode.net.link import DEFAULT_LIMITS
from ostnode.net.session import LinkLimits
from ostnode.net.tls import TlsNetwork
from ostnode.net.transport import PORT_MAX, Network, TcpNetwork
from ostnode.node.keychanges import load_changes
from ostnode.node.memory import MembershipFile, Memory
from ostnode.roles.index import Database, SqliteDatabase
from ostnode.store.disk import Disk, RealDisk
from ostnode.wire.membership import ChangeBucketKey


@dataclass(frozen=True, slots=True)
class Seams:
    """Time, randomness, threads, networks, disks and files; by default the operating system's.

    Peers meet on `network` in plain text, and over TLS on `below_tls`; how many is for each role
    to bound. Links keep to `link_limits`.
    """

    clock: Clock = field(default_factory=SystemClock)
    rng: Rng = field(default_factory=SystemRng)
    network: Network = field(default_factory=partial(TcpNetwork, connections_max=PORT_MAX))
    below_tls: Network = field(
        default_factory=partial(TcpNetwork, connections_max=PORT_MAX, loopback_only=False)
    )
    make_worker: Callable[[int], Worker] = ThreadWorker
    make_disk: Callable[[Path], Disk] = RealDisk
    make_database: Callable[[Path | None], Database] = SqliteDatabase
    make_memory: Callable[[Path], Memory] = MembershipFile
    load_seed: Callable[[Path], bytes] = load_seed
    load_changes: Callable[[Path], Sequence[ChangeBucketKey]] = load_changes
    link_limits: LinkLimits = DEFAULT_LIMITS

    def peers(self, key: KeyPair, *, tls: bool) -> Network:
        """Where the node with this key meets its peers."""
        return TlsNetwork(key, self.below_tls) if tls else self.network
