"""A schedule of faults from a seed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from random import Random
from typing import Final

from ostnode.sim.faults import AHEAD_MAX_S, Kind
from ostnode.sim.network import ANY
from ostnode.sim.plan import Fault
from ostnode.wire.session import FEATURES

EVERY_S: Final = 5.0
"""Between two faults, on average."""
_LONG_S: Final = 20.0
"""What lasts longest: over the 15 s after which a silent link is probed."""
_SHORT_S: Final = 3.0
_OPERATIONS_MAX: Final = 40
_SLOW_MAX_S: Final = 0.5
_FULL_BYTES_MAX: Final = 256 << 10
_OF_BUCKETS: Final = frozenset({Kind.SYNC_ERROR, Kind.FULL})
"""What happens to buckets' disks only."""
_BETWEEN: Final = frozenset({Kind.PARTITION, Kind.ONE_WAY, Kind.CUT, Kind.CUT_IN_FRAME})
_AMOUNTS: Final[Mapping[Kind, Callable[[Random], float]]] = {
    Kind.KILL_IN_WRITE: lambda rng: rng.randint(1, _OPERATIONS_MAX),
    Kind.POWER_IN_WRITE: lambda rng: rng.randint(1, _OPERATIONS_MAX),
    Kind.FULL: lambda rng: rng.randint(0, _FULL_BYTES_MAX),
    Kind.SLOW: lambda rng: rng.uniform(0, _SLOW_MAX_S),
    Kind.CLOCK: lambda rng: rng.uniform(-AHEAD_MAX_S, AHEAD_MAX_S),
    Kind.DRIFT: lambda rng: rng.uniform(-AHEAD_MAX_S, AHEAD_MAX_S) / _LONG_S,
    Kind.OLDER: lambda rng: rng.randint(0, len(FEATURES)),
}


def faults_of(
    seed: int, kinds: Collection[Kind], seconds: float, buckets: int
) -> tuple[Fault, ...]:
    """Faults of these kinds over so much time, one every EVERY_S on average, in order.

    `buckets` are called bucket0 and so on.
    """
    rng = Random(f"{seed} faults")  # noqa: S311  repeatable on purpose
    possible = sorted(kinds)
    names = ["index", *(f"bucket{number}" for number in range(buckets))]
    faults = []
    at_s = rng.expovariate(1 / EVERY_S)
    while possible and at_s < seconds:
        faults.append(_fault(rng, at_s, rng.choice(possible), names))
        at_s += rng.expovariate(1 / EVERY_S)
    return tuple(faults)


def _fault(rng: Random, at_s: float, kind: Kind, names: list[str]) -> Fault:
    node = rng.choice(names[1:] if kind in _OF_BUCKETS else names)
    others = [ANY, *(name for name in names if name != node)]
    amount = _AMOUNTS.get(kind, _nothing)(rng)
    return Fault(
        at_s=round(at_s, 3),
        kind=kind.value,
        node=node,
        for_s=round(rng.choice((rng.uniform(0, _SHORT_S), rng.uniform(0, _LONG_S))), 3),
        other=rng.choice(others) if kind in _BETWEEN else ANY,
        amount=round(amount, 4),
    )


def _nothing(_rng: Random) -> float:
    return 0.0
