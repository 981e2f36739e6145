"""File descriptors: never so many connections that the store cannot open its next segment."""

from __future__ import annotations

import resource
from typing import Final

import structlog

from ostnode.config import Config
from ostnode.node.errors import StartError
from ostnode.node.role import NEWCOMERS

KEPT_BACK: Final = 128
"""Per role: segments, database, directories, and connections on their way in or out."""
CONNECTIONS_MIN: Final = 16
_log = structlog.get_logger(__name__)


def raise_limit() -> int:
    """Take all the descriptors that the process may have; how many that is.

    The customary soft limit, 1024, is for programs that call `select`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def within_descriptors(config: Config, limit: int) -> Config:
    """The config with no more HTTP connections than `limit` descriptors leave room for.

    Strangers choose how many connections there are; when the last descriptor is theirs, the next
    segment cannot be made, and the node ends. Raises StartError when there is no room at all.
    """
    roles = len(config.bucket) + (config.index is not None)
    if limit == resource.RLIM_INFINITY or not roles:
        return config
    kept_back = config.node.peer_links_max + NEWCOMERS + KEPT_BACK
    # Each role has two HTTP listeners, of which one is the admin's.
    room = (limit - roles * kept_back) // (2 * roles)
    if room < CONNECTIONS_MIN:
        needed = roles * (kept_back + 2 * CONNECTIONS_MIN)
        raise StartError(
            f"{limit} file descriptors are too few for {roles} roles",
            f"allow at least {needed}: ulimit -n, or LimitNOFILE= in a unit; "
            "or lower node.peer_links_max",
        )
    if config.http.connections_max <= room:
        return config
    _log.warning("connections_limited", connections_max=room, descriptors=limit)
    http = config.http.model_copy(update={"connections_max": room})
    return config.model_copy(update={"http": http})
