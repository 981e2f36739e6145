"""What an open index shows of itself to metrics."""

from __future__ import annotations

from dataclasses import dataclass

from ostnode.roles.index.figures import Figures
from ostnode.roles.index.fleet import Fleet
from ostnode.roles.index.heartbeat import Heartbeat
from ostnode.roles.index.leading import Leader
from ostnode.roles.index.upkeep import Upkeep


@dataclass(frozen=True, slots=True)
class Insight:
    """The parts whose figures are read, whenever they are asked for, from memory."""

    figures: Figures
    fleet: Fleet
    heartbeat: Heartbeat
    leader: Leader
    upkeep: Upkeep
