"""What `ostnode store verify` prints, and whom a damaged blob concerns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from ostnode.cli.output import Value, lines_of, size_text
from ostnode.cli.storetext import Json, problem_json, problem_line
from ostnode.ids import BlobId, PrincipalKind
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.referencerows import accessors_of as all_accessors
from ostnode.store.keyspace import Reader
from ostnode.store.verification import Finding, Verified

_ACCESSORS_MAX: Final = 16
_TABLES: Final = {
    getattr(t, name): name.lower()
    for name in dir(t)
    if name.isupper() and isinstance(getattr(t, name), bytes) and getattr(t, name).isupper()
    if len(getattr(t, name)) == 1
}


def accessors_of(blob: bytes, rows: Reader) -> Sequence[str]:
    """Who sees a blob: the first few accessors with a reference to it, and `…` for others."""
    accessors = list(islice(all_accessors(rows, BlobId(blob)), _ACCESSORS_MAX + 1))
    found = [accessor.text(PrincipalKind.ACCESSOR) for accessor in accessors[:_ACCESSORS_MAX]]
    return [*found, "…"] if len(accessors) > _ACCESSORS_MAX else found


def verified_json(data_dir: Path, found: Verified) -> Json:
    """`verify --json`."""
    return {
        "path": str(data_dir),
        "segments": found.segments,
        "records": found.records,
        "bytes": found.nbytes,
        "key_index": found.index,
        "rows": found.rows,
        "rows_differing": found.rows_differing,
        "key_index_replaced": found.is_replaced,
        "notes": list(found.notes),
        "finding_count": found.finding_count,
        "findings": [_finding_json(finding) for finding in found.findings],
    }


def _finding_json(finding: Finding) -> Json:
    problem: Json = {"what": "row" if finding.key else "key_index"}
    if finding.problem is not None:
        problem = problem_json(finding.problem)
    return {
        **problem,
        "detail": finding.detail or None,
        "table": _table(finding.key) if finding.key else None,
        "key": finding.key.hex() or None,
        "accessors": list(finding.referrers),
    }


def _table(key: bytes) -> str:
    return _TABLES.get(key[:1], "unknown")


def verified_text(found: Verified) -> str:
    """`verify` for people."""
    compared = f"{found.index} ({found.rows} rows compared)" if found.rows else "not compared"
    data: dict[str, Value] = {
        "segments": found.segments,
        "records": found.records,
        "size": size_text(found.nbytes),
        "key index": compared,
        "findings": found.finding_count,
    }
    lines = [lines_of(data), *(f"note: {note}" for note in found.notes)]
    lines += [line for finding in found.findings for line in _finding_lines(finding)]
    if found.finding_count > len(found.findings):
        lines.append(f"… and {found.finding_count - len(found.findings)} more")
    if found.is_replaced:
        lines.append("the key index was replaced by one made from the log")
    return "\n".join(lines)


def _finding_lines(finding: Finding) -> list[str]:
    if finding.key:
        return [f"damage: key index, {_table(finding.key)} {finding.key.hex()}: {finding.detail}"]
    if finding.problem is None:
        return [f"damage: {finding.detail}"]
    line = problem_line(problem_json(finding.problem))
    lines = [f"{line}: {finding.detail}" if finding.detail else line]
    return lines + [f"  seen by {accessor}" for accessor in finding.referrers]
