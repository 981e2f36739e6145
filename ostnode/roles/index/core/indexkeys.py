"""The index's own key: the present one, the one to come, and the one before it.

A key is announced in the roster while its predecessor signs that, and takes over at a later start.
Then the roster says how long the old one counts: for grants that it has signed, and for logins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ostnode.ids import Principal
from ostnode.roles.index.core.memberrows import IndexKey, IndexKeyState
from ostnode.roles.index.core.membership import raise_epoch
from ostnode.roles.index.core.rows import Meta
from ostnode.roles.index.core.tables import Tables
from ostnode.wire.roster import RosterKey


def take_up_keys(
    tables: Tables,
    meta: Meta,
    present: Principal,
    successor: Principal | None,
    *,
    overlap_s: int,
    now: int,
) -> Meta | None:
    """Sign with `present` from now on, and announce `successor`; the meta row as it is then.

    None for a key that is neither the last one nor was announced by it.
    """
    before = list(tables.index_keys.where())
    if present != meta.principal:
        announced = tables.index_keys.get(present)
        if announced is None or announced.state is not IndexKeyState.NEXT:
            return None
        meta = _switched(tables, meta, present, now + overlap_s)
    for row in tables.index_keys.where(state=IndexKeyState.NEXT):
        if row.key != successor:
            tables.index_keys.drop(row.key)
    if successor is not None and successor != present:
        tables.index_keys.put(IndexKey(successor, IndexKeyState.NEXT))
    if tables.index_keys.where() != before:
        raise_epoch(tables, now)
    return meta


def roster_keys(tables: Tables, present: Principal, changed_at: int) -> tuple[RosterKey, ...]:
    """What a roster of that time says of the index's keys."""
    others = [
        RosterKey(row.key, row.until)
        for row in tables.index_keys.where()
        if row.state is IndexKeyState.NEXT or changed_at <= row.until
    ]
    return RosterKey(present), *others


def names(rows: Sequence[IndexKey], present: Principal, now: float) -> tuple[Principal, ...]:
    """Whom logins may be to: the present key, and the old one while it counts."""
    old = [row.key for row in rows if row.state is IndexKeyState.OLD and now <= row.until]
    return present, *old


def _switched(tables: Tables, meta: Meta, present: Principal, until: int) -> Meta:
    for row in tables.index_keys.where():
        tables.index_keys.drop(row.key)
    tables.index_keys.put(IndexKey(meta.principal, IndexKeyState.OLD, until))
    meta = replace(meta, principal=present)
    tables.meta.put(meta)
    return meta
