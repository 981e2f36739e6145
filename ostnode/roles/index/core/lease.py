"""The lease: which index node does what only one may do, and a token that fences off the last.

Every taking raises the token; whoever writes as the holder checks it in the same transaction. So
a node that was held up and believes itself the holder writes nothing. Clocks are not compared: the
holder counts its beats, and whoever has watched the count stand still for the lease's time takes
over.
"""

from __future__ import annotations

from dataclasses import replace

from ostnode.roles.index.core.rows import THE_INDEX, Lease
from ostnode.roles.index.core.tables import Tables


class LostLeaseError(Exception):
    """Somebody else has taken the lease: nothing was written."""


def look(tables: Tables) -> Lease | None:
    """The lease as it stands; None before it was first taken."""
    return tables.leases.get(THE_INDEX)


def take(tables: Tables, holder: bytes, seen: Lease | None) -> Lease | None:
    """Take the lease that was last `seen`; None when it has changed since."""
    lease = look(tables)
    if lease != seen:
        return None
    token = lease.token + 1 if lease else 1
    taken = Lease(THE_INDEX, holder, token, beats=0)
    tables.leases.put(taken)
    return taken


def renew(tables: Tables, token: int) -> None:
    """Count one beat; raises LostLeaseError."""
    lease = check(tables, token)
    tables.leases.put(replace(lease, beats=lease.beats + 1))


def check(tables: Tables, token: int) -> Lease:
    """The lease, which has this token; raises LostLeaseError."""
    lease = look(tables)
    if lease is None or lease.token != token:
        raise LostLeaseError
    return lease
