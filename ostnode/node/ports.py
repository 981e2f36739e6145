"""Addresses for nodes that are about to be made."""

from __future__ import annotations

import random
import socket
from typing import Final

from ostnode.node.errors import StartError

LOOPBACK: Final = "127.0.0.1"
_PORTS: Final = range(20_000, 32_000)
"""Below the ephemeral range, whose ports the system may take between our look and the bind."""


def free_addresses(count: int, host: str = LOOPBACK) -> list[str]:
    """Addresses of this host that nobody listens on at this moment; raises StartError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = f"[{host}]" if ":" in host else host
    sockets: list[socket.socket] = []
    try:
        for port in random.sample(_PORTS, len(_PORTS)):
            candidate = socket.socket(family)
            sockets.append(candidate)
            try:
                candidate.bind((host, port))
            except OSError:
                candidate.close()
                sockets.pop()
            if len(sockets) == count:
                return [f"{shown}:{taken.getsockname()[1]}" for taken in sockets]
    finally:
        for taken in sockets:
            taken.close()
    problem = f"no {count} free ports between {_PORTS.start} and {_PORTS.stop} on {host}"
    raise StartError(problem, "is it an address of this host?")
