"""What can go wrong in a simulation: made from a seed, or told by hand, and let happen in time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

import trio

from ostnode.net.link import DEFAULT_LIMITS
from ostnode.net.session import LinkLimits
from ostnode.sim.network import SimNetwork
from ostnode.sim.nodes import BucketNode, SimNode
from ostnode.sim.plan import Fault
from ostnode.wire.session import FEATURES, PROTOCOL_MIN

AHEAD_MAX_S: Final = 20.0
"""How far a clock is from the true time at most; two are within the 60 s that statements allow."""
_RETRY_S: Final = 1.0
_HALF: Final = 0.5


class Kind(StrEnum):
    """`node` is where it goes wrong. Who is down starts again after `for_s`."""

    KILL = "kill"
    POWER = "power"
    """The machine goes: half-open links, and what was not synced is lost at random."""
    STOP = "stop"
    """In order, as for an upgrade."""
    KILL_IN_WRITE = "kill in write"
    """In the middle of the disk's operation number `amount` from now; an index dies before a
    COMMIT, or after it when `amount` is odd."""
    POWER_IN_WRITE = "power in write"
    SYNC_ERROR = "sync error"
    """A bucket's disk fails to sync; the node must end."""
    FULL = "full"
    """A bucket's disk takes `amount` bytes more."""
    SLOW = "slow"
    """Every operation of the disk takes up to `amount` seconds."""
    PARTITION = "partition"
    """Nothing gets through to `other` or back."""
    ONE_WAY = "one way"
    """Nothing gets through to `other`, but what that sends comes."""
    CUT = "cut"
    """Connections with `other` break once."""
    CUT_IN_FRAME = "cut in frame"
    """Within the next bytes that are sent to `other`."""
    REFUSE = "refuse"
    """No new connections are taken."""
    CLOCK = "clock"
    """The clock jumps to `amount` seconds ahead of the true time, and back at the end."""
    DRIFT = "drift"
    """The clock gains `amount` seconds a second, and jumps back at the end."""
    OLDER = "older"
    """An older program runs: of protocol 1 when `amount` is 0, else with `amount` - 1 features."""


class Broken(Protocol):
    """The world, as far as faults go."""

    network: SimNetwork
    nodes: Mapping[str, SimNode]

    def trace(self, line: str) -> None:
        """Note what happens."""
        ...


Happening: TypeAlias = Callable[[Broken, SimNode, Fault], Awaitable[None]]


async def happen(world: Broken, faults: Sequence[Fault]) -> None:
    """Let each fault happen in its time from now on; returns when all are over."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for fault in faults:
            nursery.start_soon(_happen, world, fault, start + fault.at_s)


async def _happen(world: Broken, fault: Fault, at: float) -> None:
    await trio.sleep_until(at)
    world.trace(f"fault {fault.kind} {fault.node} {fault.other} {fault.for_s} {fault.amount}")
    await _HAPPENINGS[Kind(fault.kind)](world, world.nodes[fault.node], fault)


async def up_again(node: SimNode) -> None:
    """Start a node, as often as it takes: what it meets may end it at once."""
    while not node.running:
        await node.start()
        if not node.running:
            await trio.sleep(_RETRY_S)


async def _down(_world: Broken, node: SimNode, fault: Fault) -> None:
    if fault.kind == Kind.STOP:
        await node.stop()
    else:
        await node.crash(power=fault.kind == Kind.POWER)
    await trio.sleep(fault.for_s)
    await up_again(node)


async def _in_write(_world: Broken, node: SimNode, fault: Fault) -> None:
    node.crash_in_write(int(fault.amount), power=fault.kind == Kind.POWER_IN_WRITE)
    await trio.sleep(fault.for_s)
    node.crash_in_write(None)
    await up_again(node)


async def _sync_error(_world: Broken, node: SimNode, fault: Fault) -> None:
    if isinstance(node, BucketNode):
        node.fail_sync()
        await trio.sleep(fault.for_s)
        node.fail_sync(failing=False)
        await up_again(node)


async def _full(_world: Broken, node: SimNode, fault: Fault) -> None:
    if isinstance(node, BucketNode):
        node.fill(int(fault.amount))
        await trio.sleep(fault.for_s)
        node.fill(None)


async def _slow(_world: Broken, node: SimNode, fault: Fault) -> None:
    node.slow_s = fault.amount
    await trio.sleep(fault.for_s)
    node.slow_s = 0.0


async def _partition(world: Broken, _node: SimNode, fault: Fault) -> None:
    world.network.partition(fault.node, fault.other, one_way=fault.kind == Kind.ONE_WAY)
    await trio.sleep(fault.for_s)
    world.network.heal(fault.node, fault.other)


async def _cut(world: Broken, _node: SimNode, fault: Fault) -> None:
    await trio.lowlevel.checkpoint()
    if fault.kind == Kind.CUT:
        world.network.cut(fault.node, fault.other)
    else:
        world.network.cut_in_frame(fault.node, fault.other)


async def _refuse(world: Broken, node: SimNode, fault: Fault) -> None:
    world.network.refuse(node.name)
    await trio.sleep(fault.for_s)
    world.network.refuse(node.name, refusing=False)


async def _clock(_world: Broken, node: SimNode, fault: Fault) -> None:
    if fault.kind == Kind.CLOCK:
        node.clock.set(fault.amount)
    else:
        node.clock.set(0.0, drift=fault.amount)
    await trio.sleep(fault.for_s)
    node.clock.set(0.0)


async def _older(_world: Broken, node: SimNode, fault: Fault) -> None:
    for limits in (older_limits(int(fault.amount)), DEFAULT_LIMITS):
        node.link_limits = limits
        await node.stop()
        await up_again(node)
        if limits is not DEFAULT_LIMITS:
            await trio.sleep(fault.for_s)


def older_limits(amount: int) -> LinkLimits:
    """What links of an older program keep to; see Kind.OLDER."""
    if amount <= 0:
        return replace(DEFAULT_LIMITS, protocol_max=PROTOCOL_MIN, features=())
    return replace(DEFAULT_LIMITS, features=FEATURES[: amount - 1])


_HAPPENINGS: Final[Mapping[Kind, Happening]] = {
    Kind.KILL: _down,
    Kind.POWER: _down,
    Kind.STOP: _down,
    Kind.KILL_IN_WRITE: _in_write,
    Kind.POWER_IN_WRITE: _in_write,
    Kind.SYNC_ERROR: _sync_error,
    Kind.FULL: _full,
    Kind.SLOW: _slow,
    Kind.PARTITION: _partition,
    Kind.ONE_WAY: _partition,
    Kind.CUT: _cut,
    Kind.CUT_IN_FRAME: _cut,
    Kind.REFUSE: _refuse,
    Kind.CLOCK: _clock,
    Kind.DRIFT: _clock,
    Kind.OLDER: _older,
}
