"""Comparison with a bucket at equal positions: what it holds against what the index charges.

The bucket's page and the index's rows speak of the same moment: every outbox event up to the
page's position is applied, none behind it. So a difference is one, whatever traffic there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final

from ostnode.errors import InvalidArgumentError, OstError
from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.roles.index.core import ledger
from ostnode.roles.index.core.rows import Bucket, Charge, Finding
from ostnode.roles.index.core.tables import Tables
from ostnode.wire.checking import Compare, Compared

CHARGES_MAX: Final = 1000
"""Rows of charges looked at in one transaction, of whatever bucket: some 10 ms."""
FINDINGS_MAX: Final = 200
"""Kept, and mended, in one transaction: some 20 ms."""
GRANTS_MAX: Final = 256
CLEARED_MAX: Final = 500
_UID_BYTES: Final = 8
_KEY_BYTES: Final = 40


class Kind(StrEnum):
    """What may be wrong; docs/agreement.md tells what each means and what a repair does."""

    REFERENCE_WITHOUT_CHARGE = "reference_without_charge"
    CHARGE_WITHOUT_REFERENCE = "charge_without_reference"
    CHARGED_ELSEWHERE = "charged_elsewhere"
    WRONG_SIZE = "wrong_size"
    ORPHAN_RESERVATION = "orphan_reservation"
    UNKNOWN_USER = "unknown_user"
    UNKNOWN_BUCKET = "unknown_bucket"
    WRONG_ACCOUNT = "wrong_account"
    WRONG_PLACEMENT = "wrong_placement"
    LOST_BLOB = "lost_blob"


class Mending(Enum):
    """What becomes of findings. RESYNC adds what only the bucket knows, and drops nothing."""

    REPORT = 0
    REPAIR = 1
    RESYNC = 2


@dataclass(frozen=True, slots=True)
class Run:
    """The comparison that a page is of."""

    number: int
    mending: Mending
    now: int


@dataclass(frozen=True, slots=True)
class Step:
    """An answer to the bucket, and how many rows and findings there were."""

    answer: Compared
    compared: int = 0
    findings: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """One key on which both sides differ: sizes in bytes, 0 for nothing, None for unknown."""

    kind: Kind
    key: bytes
    charged: int
    held: int | None


def key_of(uid: bytes, blob_id: bytes) -> bytes:
    """The place of a holding or a charge in the order of both sides."""
    return uid + blob_id


def split_key(key: bytes) -> tuple[Uid, BlobId]:
    """The uid and blob of such a key; raises InvalidArgumentError for one of another length."""
    if len(key) != _KEY_BYTES:
        raise InvalidArgumentError(f"a key of a holding has {_KEY_BYTES} bytes")
    return Uid(key[:_UID_BYTES]), BlobId(key[_UID_BYTES:])


def differences(
    held: Mapping[bytes, int | None], charged: Mapping[bytes, int]
) -> Iterator[Difference]:
    """Where holdings (size by key; None: unknown) and charges differ, in order of the keys."""
    for key in sorted(held.keys() | charged.keys()):
        size, charge = held.get(key), charged.get(key)
        if key not in held:
            yield Difference(Kind.CHARGE_WITHOUT_REFERENCE, key, charge or 0, 0)
        elif charge is None:
            yield Difference(Kind.REFERENCE_WITHOUT_CHARGE, key, 0, size)
        elif size not in {None, charge}:
            yield Difference(Kind.WRONG_SIZE, key, charge, size)


def require_position(bucket: Bucket, request: Compare) -> None:
    """Raise InvalidArgumentError unless bucket and index are at the same event."""
    here = bucket.incarnation, bucket.acked_seq
    if here != (request.incarnation, request.position):
        raise InvalidArgumentError(
            f"the index is at event {bucket.acked_seq}, not {request.position}",
            acked_seq=bucket.acked_seq,
        )


def compare_holdings(tables: Tables, bucket: Bucket, page: Compare, run: Run) -> Step:
    """Compare a page, or its beginning: the answer says how far, for the next page to go on."""
    require_position(bucket, page)
    held = _held(page)
    rows = tables.charges_between(page.after, page.through, CHARGES_MAX)
    cut = len(rows) == CHARGES_MAX
    end = key_of(rows[-1].uid, rows[-1].blob_id) if cut else page.through
    if cut:
        held = {key: size for key, size in held.items() if key <= end}
    charged = {key_of(row.uid, row.blob_id): row for row in rows}
    here = {key: row.size for key, row in charged.items() if row.bucket == bucket.principal}
    compared = held.keys() | here.keys()
    count = 0
    for found in differences(held, here):
        charge = charged.get(found.key)
        if charge is not None and charge.evicting and found.key not in held:
            continue  # its end is under way
        count += 1
        _mend(tables, bucket.principal, found, charge, run)
        if count == FINDINGS_MAX:
            end, cut = found.key, True
            held = {key: size for key, size in held.items() if key <= end}
            compared = {key for key in compared if key <= end}
            break
    count += _name_unknown(tables, bucket.principal, held, run)
    done = not cut and not page.through
    return Step(Compared(run.number, end, done=done), len(compared), count)


def _held(page: Compare) -> dict[bytes, int | None]:
    held: dict[bytes, int | None] = {
        key_of(row.uid, row.blob_id): row.size for row in page.holdings
    }
    keys = list(held)
    inside = not keys or (page.after < keys[0] and (not page.through or keys[-1] <= page.through))
    if keys != sorted(keys) or len(keys) != len(page.holdings) or not inside:
        raise InvalidArgumentError("holdings come in order, once each, inside their range")
    return held


def _mend(
    tables: Tables, bucket: Principal, found: Difference, charge: Charge | None, run: Run
) -> None:
    if found.kind is Kind.REFERENCE_WITHOUT_CHARGE and charge is not None:
        found = replace(found, kind=Kind.CHARGED_ELSEWHERE, charged=charge.size)
    repaired = _may_mend(found, run.mending) and _try_repair(tables, bucket, found, charge, run)
    sizes = found.charged, found.held or 0
    put_finding(tables, bucket, found.kind, found.key, run, sizes, repaired=repaired)


def _may_mend(found: Difference, mending: Mending) -> bool:
    """A reference whose blob's size nobody knows is charged once the blob has been healed."""
    if found.kind is Kind.CHARGED_ELSEWHERE or found.held is None:
        return False
    if mending is Mending.RESYNC:
        return found.kind is Kind.REFERENCE_WITHOUT_CHARGE
    return mending is Mending.REPAIR


def _try_repair(
    tables: Tables, bucket: Principal, found: Difference, charge: Charge | None, run: Run
) -> bool:
    """Whether it could be; an account that would leave its range is left as it is."""
    try:
        with tables.alone():
            _repair(tables, bucket, found, charge, run.now)
    except OstError:
        return False
    return True


def _repair(
    tables: Tables, bucket: Principal, found: Difference, charge: Charge | None, now: int
) -> None:
    uid, blob_id = split_key(found.key)
    if charge is not None:
        ledger.drop_charge(tables, uid, blob_id, bucket)
    if found.kind is not Kind.CHARGE_WITHOUT_REFERENCE:
        since = now if charge is None else charge.charged_at
        ledger.add_charge(tables, Charge(uid, blob_id, bucket, found.held or 0, since))


def _name_unknown(
    tables: Tables, bucket: Principal, held: Mapping[bytes, int | None], run: Run
) -> int:
    """Uids that the index has never heard of, one finding each, with a blob of theirs."""
    first = {key[:_UID_BYTES]: key for key in sorted(held, reverse=True)}
    unknown = [uid for uid in first if tables.users.get(uid) is None]
    for uid in unknown:
        put_finding(tables, bucket, Kind.UNKNOWN_USER, uid, run, (0, 1))
    return len(unknown)


def compare_grants(tables: Tables, bucket: Bucket, page: Compare, run: Run) -> Step:
    """End what the bucket has closed though its event is applied; name the next open grants."""
    require_position(bucket, page)
    count = 0
    for name in page.names:
        grant = tables.grants.get(GrantId(name))
        if grant is None or grant.bucket != bucket.principal:
            continue
        count += 1
        mend = run.mending is not Mending.REPORT
        if mend:
            ledger.end_grant(tables, grant)
        put_finding(
            tables,
            bucket.principal,
            Kind.ORPHAN_RESERVATION,
            name,
            run,
            (grant.reserved, 0),
            repaired=mend,
        )
    rows = tables.grants_at(bucket.principal, *_grant_place(page.after), GRANTS_MAX)
    end = b"" if not rows else rows[-1].latest_end.to_bytes(8, "big") + rows[-1].grant_id
    names = tuple(bytes(row.grant_id) for row in rows)
    return Step(Compared(run.number, end, done=not rows, names=names), len(rows), count)


def _grant_place(after: bytes) -> tuple[int, bytes]:
    return int.from_bytes(after[:8], "big"), after[8:]


def put_finding(
    tables: Tables,
    bucket: bytes,
    kind: Kind,
    key: bytes,
    run: Run,
    sizes: tuple[int, int],
    *,
    repaired: bool = False,
) -> None:
    """Keep what was found, in the place of what an earlier run found there."""
    expected, found = sizes
    tables.findings.put(Finding(bucket, kind, key, run.number, expected, found, run.now, repaired))


def clear_older(tables: Tables, bucket: bytes, run: int) -> bool:
    """Forget some of what earlier runs have found; whether that was all. Lost blobs stay."""
    older = tables.findings_before(bucket, run, CLEARED_MAX)
    for row in older:
        tables.findings.drop(row.bucket, row.kind, row.key)
    return len(older) < CLEARED_MAX
