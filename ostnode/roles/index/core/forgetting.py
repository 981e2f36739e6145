"""A bucket that is lost for ever: its blobs are told, and everybody's bytes come back."""

from __future__ import annotations

from dataclasses import replace

from ostnode.errors import InvalidArgumentError, NotFoundError
from ostnode.ids import Principal
from ostnode.roles.index.core import ledger
from ostnode.roles.index.core.buckets import shut_out
from ostnode.roles.index.core.checking import CHARGES_MAX, Kind, Mending, Run, key_of, put_finding
from ostnode.roles.index.core.memberrows import MemberState
from ostnode.roles.index.core.resync import ENDED_MAX
from ostnode.roles.index.core.rows import Agreement, Charge
from ostnode.roles.index.core.tables import Tables
from ostnode.wire.checking import Forgotten


def forget_slice(tables: Tables, principal: Principal, after: bytes, now: int) -> Forgotten:
    """Free the bucket's grants, then its charges behind `after`; the answer says how far it came.

    From the first slice on the bucket is shut out. Raises NotFoundError for one that nobody has
    heard of, InvalidArgumentError for a member that has not been revoked: it might be alive.
    """
    bucket, member = tables.buckets.get(principal), tables.members.get(principal)
    if bucket is None:
        raise NotFoundError("there is no such bucket in this cluster")
    if member is not None and member.state is not MemberState.REVOKED:
        raise InvalidArgumentError("revoke the bucket first: then nobody uploads to it any more")
    agreement = tables.agreements.get(principal) or Agreement(principal, 0)
    if not agreement.forgotten:
        shut_out(tables, principal)
        agreement = replace(agreement, forgotten=True, freed=False)
        tables.agreements.put(agreement)
    grants = tables.grants_at(principal, 0, b"", ENDED_MAX)
    for grant in grants:
        ledger.end_grant(tables, grant)
    if grants:
        return Forgotten(done=False, after=after, grants=len(grants))
    rows = tables.charges_between(after, b"", CHARGES_MAX)
    freed = [row for row in rows if row.bucket == principal][:ENDED_MAX]
    done = len(freed) < ENDED_MAX and len(rows) < CHARGES_MAX
    run = Run(0, Mending.REPAIR, now)
    blobs = sum(_free(tables, charge, run) for charge in freed)
    if done:
        tables.agreements.put(replace(agreement, freed=True))
    last = freed[-1] if len(freed) == ENDED_MAX else rows[-1] if rows else None
    return Forgotten(
        done=done,
        after=after if last is None else key_of(last.uid, last.blob_id),
        charges=len(freed),
        blobs=blobs,
        bytes=sum(charge.size for charge in freed),
    )


def _free(tables: Tables, charge: Charge, run: Run) -> int:
    """Whether the blob is one more that is told as lost."""
    ledger.drop_charge(tables, charge.uid, charge.blob_id, charge.bucket)
    known = tables.findings.get(charge.bucket, Kind.LOST_BLOB, charge.blob_id)
    owners = 1 if known is None else known.found + 1
    sizes = charge.size, owners
    put_finding(tables, charge.bucket, Kind.LOST_BLOB, charge.blob_id, run, sizes, repaired=True)
    return int(known is None)
