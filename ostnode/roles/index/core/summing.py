"""The index's own sums, recomputed a slice of rows at a time: accounts, placements, dangling rows.

Each row is compared with what it sums in one transaction, so live traffic makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from ostnode.ids import BlobId, Principal
from ostnode.roles.index.core import feed, ledger
from ostnode.roles.index.core.checking import Kind, Mending, Run, put_finding
from ostnode.roles.index.core.rows import Account, Charge, OpenGrant, Placement, User
from ostnode.roles.index.core.tables import Tables

ROWS_MAX: Final = 200
"""Looked at in one transaction, some 10 ms."""
SUMMED_MAX: Final = 20_000
"""Rows summed up in one transaction, but for a single account that has more."""
_OWN: Final = b""
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Slice:
    """How far a slice came (`after`, empty: to the end), over how many rows, with what findings."""

    after: bytes
    rows: int
    findings: int


def check_users(tables: Tables, after: bytes, run: Run) -> Slice:
    """Accounts against the charges and grants they sum."""
    users = tables.users_after(after, ROWS_MAX)
    findings = summed = count = 0
    for user in users:
        count += 1
        if not user.deleted:
            truth = tables.account_of(user.uid)
            findings += _check_user(tables, user, truth, run)
            summed += truth.blobs + truth.grants
        if summed > SUMMED_MAX:
            break
    return Slice(_next(users, count, lambda row: row.uid), count, findings)


def _check_user(tables: Tables, user: User, truth: Account, run: Run) -> int:
    if truth == Account(user.used, user.reserved, user.blobs, user.grants):
        return 0
    mend = run.mending is Mending.REPAIR
    if mend:
        tables.users.put(
            replace(
                user,
                used=truth.used,
                reserved=truth.reserved,
                blobs=truth.blobs,
                grants=truth.grants,
                version=user.version + 1,
            )
        )
        feed.announce_user(tables, user.uid, urgent=False)
    sizes = user.used + user.reserved, truth.used + truth.reserved
    put_finding(tables, _OWN, Kind.WRONG_ACCOUNT, user.uid, run, sizes, repaired=mend)
    return 1


def check_placements(tables: Tables, after: bytes, run: Run) -> Slice:
    """Placements against the grants and charges they count."""
    rows = tables.placements_after(after, ROWS_MAX)
    findings = summed = count = 0
    for row in rows:
        count += 1
        grants, charges = tables.placed(row.blob_id)
        findings += _check_placement(tables, row, (grants, charges), run)
        summed += grants + charges
        if summed > SUMMED_MAX:
            break
    return Slice(_next(rows, count, lambda row: row.blob_id), count, findings)


def _check_placement(tables: Tables, row: Placement, truth: tuple[int, int], run: Run) -> int:
    if truth == (row.grants, row.charges):
        return 0
    mend = run.mending is Mending.REPAIR
    if mend and any(truth):
        tables.placements.put(replace(row, grants=truth[0], charges=truth[1]))
    elif mend:
        tables.placements.drop(row.blob_id)
    sizes = row.grants + row.charges, sum(truth)
    put_finding(tables, _OWN, Kind.WRONG_PLACEMENT, row.blob_id, run, sizes, repaired=mend)
    return 1


def check_charges(tables: Tables, after: bytes, run: Run) -> Slice:
    """That every charge names a bucket there is, and is of a blob that is placed there."""
    rows = tables.charges_between(after, b"", ROWS_MAX)
    findings = sum(_check_charge(tables, row, run) for row in rows)
    return Slice(_next(rows, len(rows), lambda row: row.uid + row.blob_id), len(rows), findings)


def _check_charge(tables: Tables, row: Charge, run: Run) -> int:
    key = row.uid + row.blob_id
    if tables.buckets.get(row.bucket) is None:
        mend = run.mending is Mending.REPAIR
        if mend:
            ledger.drop_charge(tables, row.uid, row.blob_id, row.bucket)
        put_finding(tables, _OWN, Kind.UNKNOWN_BUCKET, key, run, (row.size, 0), repaired=mend)
        return 1
    return _check_placed(tables, row.blob_id, row.bucket, run)


def check_grants(tables: Tables, after: bytes, run: Run) -> Slice:
    """The same of grants."""
    rows = tables.grants_after(after, ROWS_MAX)
    findings = sum(_check_grant(tables, row, run) for row in rows)
    return Slice(_next(rows, len(rows), lambda row: row.grant_id), len(rows), findings)


def _check_grant(tables: Tables, row: OpenGrant, run: Run) -> int:
    if tables.buckets.get(row.bucket) is None:
        mend = run.mending is Mending.REPAIR
        if mend:
            ledger.end_grant(tables, row)
        sizes = row.reserved, 0
        put_finding(tables, _OWN, Kind.UNKNOWN_BUCKET, row.grant_id, run, sizes, repaired=mend)
        return 1
    return _check_placed(tables, row.blob_id, row.bucket, run)


def _check_placed(tables: Tables, blob_id: BlobId, bucket: Principal, run: Run) -> int:
    placement = tables.placements.get(blob_id)
    if placement is not None:
        return 0
    truth = tables.placed(blob_id)
    mend = run.mending is Mending.REPAIR
    if mend:
        tables.placements.put(Placement(blob_id, bucket, *truth))
    put_finding(tables, _OWN, Kind.WRONG_PLACEMENT, blob_id, run, (0, sum(truth)), repaired=mend)
    return 1


def _next(rows: Sequence[R], looked_at: int, key: Callable[[R], bytes]) -> bytes:
    """Where the next slice begins."""
    if looked_at == len(rows) < ROWS_MAX:
        return b""
    return key(rows[looked_at - 1])


Check = Callable[[Tables, bytes, Run], Slice]
STAGES: Final[tuple[Check, ...]] = (check_grants, check_charges, check_placements, check_users)
"""In this order: what an earlier one mends, a later one sums."""
