"""Simulated nodes: the production roles on simulated machines, killed and started at will."""

from __future__ import annotations

import errno
from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from random import Random
from typing import Final, Protocol

import trio
from typing_extensions import override

from ostnode.config import Config
from ostnode.env import Worker
from ostnode.errors import first_failure
from ostnode.identity.keys import KeyPair
from ostnode.net.link import DEFAULT_LIMITS
from ostnode.net.session import LinkLimits
from ostnode.node.bucket import open_bucket_role
from ostnode.node.index import open_index_role
from ostnode.node.listeners import serve_peers
from ostnode.node.role import Role
from ostnode.node.seams import Seams
from ostnode.roles.bucket.service import BucketService
from ostnode.roles.index import DatabaseFailedError
from ostnode.sim.database import Moment, SimDatabase
from ostnode.sim.machine import Life, SimClock, SimMemory, SimWorker
from ostnode.sim.network import Port, SimNetwork
from ostnode.sim.overhearing import Overheard
from ostnode.sim.tracing import Trace
from ostnode.store.errors import StoreFailedError, StoreFullError
from ostnode.store.keyspace import Reader
from ostnode.store.simdisk import Faults, SimCrash, SimDisk
from ostnode.virtual import SeededRng
from ostnode.wire.calls import Caller
from ostnode.wire.fields import Message, Request

STOP_S: Final = 10.0
"""What a stopping node gets for what is in flight; then it is cut."""
_START_ANEW_S: Final = 5.0
"""A process that has ended by itself is started again after this."""
_DELAYED_SHARE: Final = 0.2
_DELAY_S: Final = 0.004


_ENDS: Final = (StoreFailedError, StoreFullError, DatabaseFailedError, OSError, SimCrash)
"""What a process may end with by itself when its disk fails it; anything else is our bug."""


class Surroundings(Protocol):
    """What nodes need of their world."""

    seed: int
    network: SimNetwork
    config: Config
    nursery: trio.Nursery
    trace: Trace

    def rng(self, label: str) -> Random:
        """Randomness of its own for whatever bears this name."""
        ...

    def crashed(self, name: str) -> None:
        """A node was killed, or ended by itself."""
        ...

    def told(self, name: str, caller: Caller, request: Request, answer: Message) -> None:
        """A node is about to answer."""
        ...


class SimNode:
    """A role on a machine of its own, at a peer address."""

    def __init__(self, world: Surroundings, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.key = KeyPair.from_seed(world.rng(f"key of {name}").randbytes(32))
        self.clock = SimClock()
        self.link_limits: LinkLimits = DEFAULT_LIMITS
        """What the program speaks here, from the next start on."""
        self.speaks: LinkLimits = DEFAULT_LIMITS
        """What the one speaks that was started last."""
        self.slow_s = 0.0
        """How much longer than usual its disk may take."""
        self.away = False
        """Its machine is gone: nobody can start it."""
        self._world = world
        self._rng = world.rng(f"machine of {name}")
        self._starts = 0
        self._power_goes = False
        """Whether the next crash in a write takes the machine along."""
        self._life: Life | None = None
        self._port: Port
        self._role: Role | None = None
        world.network.place(address, name)

    @property
    def running(self) -> bool:
        """Whether it has started and is not about to end."""
        ending = self._life is None or self._life.stopping.is_set()
        return self._role is not None and not ending

    @property
    def role(self) -> Role | None:
        """What runs here, while it serves."""
        return self._role

    @abstractmethod
    def open_role(self, seams: Seams) -> AbstractAsyncContextManager[Role]:
        """The role, on what the machine has kept."""

    @abstractmethod
    def keep(self, *, power: bool) -> None:
        """A process is killed: what its machine keeps is settled here and now."""

    def seams(self, life: Life) -> Seams:
        """What a process of this machine gets from outside."""
        return Seams(
            clock=self.clock,
            rng=SeededRng(f"{self._world.seed} {self.name} {self._starts}"),
            network=self._port,
            below_tls=self._port,
            make_worker=partial(self._worker, life),
            load_seed=lambda _path: self.key.seed,
            link_limits=self.link_limits,
        )

    def heal(self) -> None:
        """End what is wrong with the machine."""
        self.clock.set(0)
        self.slow_s = 0.0
        self.link_limits = DEFAULT_LIMITS
        self.crash_in_write(None)

    def _worker(self, life: Life, threads: int) -> Worker:
        return SimWorker(threads, life, self._delay_s, partial(self._crashed, life))

    def _delay_s(self) -> float:
        """Most often none: each costs two steps of the scheduler."""
        dice = self._rng.random()
        if self.slow_s:
            return dice * self.slow_s
        return 0.0 if dice > _DELAYED_SHARE else dice * _DELAY_S / _DELAYED_SHARE

    async def start(self) -> None:
        """Start a process unless one runs; returns once it serves, or has ended.

        One that is about to end is awaited first. While the machine is away nothing happens.
        """
        while self._life is not None and (self._life.over or self._life.stopping.is_set()):
            await self._life.ended.wait()
        if self.away:
            return
        life = self._life
        if life is None:
            self._starts += 1
            self.speaks = self.link_limits
            self._world.trace(f"start {self.name}")
            life = self._life = Life()
            self._world.network.back(self.name)
            self._port = self._world.network.port(self.name)
            self._world.nursery.start_soon(self._live, life)
        async with trio.open_nursery() as either:
            for event in (life.started, life.ended):
                either.start_soon(_cancel_after, event, either.cancel_scope)

    @abstractmethod
    def crash_in_write(self, operations: int | None, *, power: bool = False) -> None:
        """Have it killed in the middle of the so manieth operation on its disk from now; None for
        not any more.
        """

    async def stop(self) -> None:
        """As on SIGTERM: what is in flight is finished first, within STOP_S."""
        life = self._life
        if life is not None:
            self._world.trace(f"stop {self.name}")
            life.stopping.set()
            life.scope.deadline = trio.current_time() + STOP_S
            await life.ended.wait()

    async def crash(self, *, power: bool = False) -> None:
        """As on SIGKILL: links break without a word.

        With `power` the machine goes too: nobody hears of it, and what was not synced is lost at
        random.
        """
        life = self._life
        if life is not None:
            self._die(life, power=power)
            await life.ended.wait()

    async def take_away(self) -> None:
        """The machine goes, and does not come before `bring_back`."""
        self.away = True
        await self.crash(power=True)

    async def bring_back(self) -> None:
        """The machine is there again."""
        self.away = False
        await self.start()

    def _die(self, life: Life, *, power: bool) -> None:
        if life.over:
            return
        life.over = True
        self._world.trace(f"{'power cut' if power else 'kill'} {self.name}")
        self._role = None
        self.keep(power=power)
        self._world.network.end(self._port, silent=power)
        life.scope.cancel()
        self._world.crashed(self.name)

    def _crashed(self, life: Life) -> None:
        self._die(life, power=self._power_goes)

    async def _live(self, life: Life) -> None:
        try:
            with life.scope:
                await self._serve(life)
        except* _ENDS as group:
            life.failure = type(first_failure(group)).__name__
            self._world.trace(f"{self.name} failed: {life.failure}")
        finally:
            if not life.over:
                life.over = True
                self._role = None
                self.keep(power=False)
                self._world.network.end(self._port, silent=False)
                if life.failure:
                    self._world.crashed(self.name)
                    self._world.nursery.start_soon(self._start_anew)
            self._life = None
            life.ended.set()

    async def _start_anew(self) -> None:
        """As whatever keeps services running does."""
        await trio.sleep(_START_ANEW_S)
        await self.start()

    async def _serve(self, life: Life) -> None:
        seams = self.seams(life)
        async with self.open_role(seams) as role, trio.open_nursery() as nursery:
            told = partial(self._world.told, self.name)
            served = replace(role, service=Overheard(role.service, told))
            await nursery.start(serve_peers, served, seams, life.stopping)
            self._role = role
            life.started.set()


class IndexNode(SimNode):
    """The index, on a database that survives its processes."""

    def __init__(self, world: Surroundings, name: str, address: str) -> None:
        super().__init__(world, name, address)
        self.database = SimDatabase()

    @override
    def open_role(self, seams: Seams) -> AbstractAsyncContextManager[Role]:
        config = self._world.config
        assert config.index is not None
        return open_index_role(config, config.index, seams)

    @override
    def keep(self, *, power: bool) -> None:
        self.database.crash_at = None
        self.database.shut_out()

    @override
    def crash_in_write(self, operations: int | None, *, power: bool = False) -> None:
        self._power_goes = power
        moments = tuple(Moment)
        self.database.crash_at = None if operations is None else moments[operations % len(moments)]

    @override
    def seams(self, life: Life) -> Seams:
        return replace(super().seams(life), make_database=self.database.open)


class BucketNode(SimNode):
    """A bucket, on a disk that loses what was not synced."""

    def __init__(self, world: Surroundings, name: str, address: str, number: int) -> None:
        super().__init__(world, name, address)
        self.disk = SimDisk(self._rng.getrandbits(32))
        self.memory = SimMemory()
        self._number = number

    @property
    def rows(self) -> Reader | None:
        """What is durable, while it is open."""
        return None if self._role is None else self._service(self._role).rows

    @property
    def decided(self) -> Reader | None:
        """The same with what is on its way to the disk."""
        return None if self._role is None else self._service(self._role).decided

    def _service(self, role: Role) -> BucketService:
        assert isinstance(role.service, BucketService)
        return role.service

    @override
    def open_role(self, seams: Seams) -> AbstractAsyncContextManager[Role]:
        config = self._world.config
        return open_bucket_role(self.name, config, config.bucket[self._number], seams)

    @override
    def heal(self) -> None:
        super().heal()
        self.disk.faults = Faults()

    @override
    def crash_in_write(self, operations: int | None, *, power: bool = False) -> None:
        self._power_goes = power
        at = None if operations is None else self.disk.operations + operations
        self.disk.faults.crash_at = at

    def backup(self) -> SimDisk:
        """A copy of the disk, as a snapshot of a running machine's volume is one."""
        return self.disk.killed(self._rng.getrandbits(32))

    def restore(self, backup: SimDisk) -> None:
        """Set the disk back, while no process runs."""
        self.disk = backup.killed(self._rng.getrandbits(32))

    def erase(self) -> None:
        """Another disk, an empty one, while no process runs."""
        self.disk, self.memory = SimDisk(self._rng.getrandbits(32)), SimMemory()

    def fail_sync(self, *, failing: bool = True) -> None:
        """Have the next syncs of files fail, or succeed again."""
        self.disk.faults.errors = {"sync": errno.EIO} if failing else {}

    def fill(self, left: int | None) -> None:
        """Leave so many bytes free on the disk; None for as many as there were."""
        self.disk.faults.capacity = None if left is None else self.disk.used() + left

    @override
    def keep(self, *, power: bool) -> None:
        seed = self._rng.getrandbits(32)
        self.disk = self.disk.power_lost(seed) if power else self.disk.killed(seed)

    @override
    def seams(self, life: Life) -> Seams:
        disk = self.disk
        return replace(
            super().seams(life),
            make_disk=lambda _path: disk,
            make_memory=lambda _path: self.memory,
        )


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
