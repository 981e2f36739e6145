"""What `ostnode store` prints: of segments, records and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, cast

from ostnode.cli.output import Value, lines_of, size_text, table
from ostnode.ids import Principal, PrincipalKind
from ostnode.roles.bucket.records import Kind
from ostnode.store.format import FLAG_END, FLAG_FIRST, record_bytes
from ostnode.store.inspection import Inspected, Line
from ostnode.store.record import KIND_MARKER, KIND_SEAL, ZERO_32, Damage, Problem
from ostnode.store.schema import Worth

_OWN_KINDS: Final = {KIND_MARKER: "marker", KIND_SEAL: "seal"}
_COUNTED: Final = ("sealed", "open")
"""States of segments that are the log; the others are in no sum."""
_WORTH_BYTES: Final = [f"{worth.name.lower()}_bytes" for worth in Worth]
_MICROSECONDS: Final = 1_000_000

Json = dict[str, Value]


def kind_name(kind: int) -> str:
    """A record's kind by name, or its number when it is of a newer version."""
    if kind in _OWN_KINDS:
        return _OWN_KINDS[kind]
    try:
        return Kind(kind).name.lower()
    except ValueError:
        return str(kind)


def segment_json(file: str, state: str, found: Inspected, nbytes: int, allocated: int) -> Json:
    """One segment of `inspect --json`. Unknown values are null."""
    header = found.header
    return {
        "file": file,
        "state": state,
        "format": header.version if header else None,
        "generation": header.generation if header else None,
        "number": header.number if header else None,
        "uuid": header.uuid.hex() if header else None,
        "bucket": Principal(header.owner).text(PrincipalKind.BUCKET) if header else None,
        "created": _time(header.created) if header else None,
        "first_seq": header.first_seq if header else None,
        "first_batch": header.first_batch if header else None,
        "last_seq": found.seqs[1] if found.seqs else None,
        "last_batch": found.batches[1] if found.batches else None,
        "bytes": nbytes,
        "allocated": allocated,
        "records": sum(tally.records for tally in found.kinds.values()),
        "kinds": {
            kind_name(kind): {"records": tally.records, "bytes": tally.nbytes}
            for kind, tally in sorted(found.kinds.items())
        },
        **_worth_json(found),
        "problem_count": found.problem_count,
        "problems": [problem_json(problem) for problem in found.problems],
    }


def _worth_json(found: Inspected) -> Json:
    return {
        name: found.worth[worth].nbytes if found.worth else None
        for worth, name in zip(Worth, _WORTH_BYTES, strict=True)
    }


def _time(microseconds: int) -> str:
    seconds = microseconds / _MICROSECONDS
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    except (OverflowError, ValueError, OSError):
        return str(microseconds)


def problem_json(problem: Problem) -> Json:
    """A problem; what is not known of a record is null."""
    return {
        "what": str(problem.what),
        "segment": problem.segment,
        "offset": problem.offset,
        "length": problem.length,
        "kind": kind_name(problem.kind) if problem.kind else None,
        "seq": problem.seq or None,
        "blob": None if problem.blob == ZERO_32 else problem.blob.hex(),
        "number": problem.number if problem.kind else None,
        "chunk_index": problem.chunk_index if problem.kind else None,
    }


def line_json(line: Line) -> Json:
    """One record of `inspect --records --json`."""
    head = line.header
    flags: list[Value] = []
    flags += ["first"] if head.flags & FLAG_FIRST else []
    flags += ["end"] if head.flags & FLAG_END else []
    return {
        "seq": head.seq,
        "batch": head.batch,
        "kind": kind_name(head.kind),
        "flags": flags,
        "number": head.number,
        "chunk_index": head.chunk_index,
        "blob": None if head.blob == ZERO_32 else head.blob.hex(),
        "segment": line.extent.segment,
        "offset": line.extent.offset,
        "length": line.extent.length,
        "bytes": record_bytes(line.extent.length),
        "worth": line.worth.name.lower() if line.worth else None,
    }


def totals_json(segments: Sequence[Json], problems: int) -> Json:
    """Sums over the segments that are the log; null where one of them is not known.

    `problems` are those of no segment that could be read.
    """
    log = [item for item in segments if item["state"] in _COUNTED]
    kinds: dict[str, dict[str, int]] = {}
    for item in log:
        for name, tally in cast("dict[str, dict[str, int]]", item["kinds"]).items():
            total = kinds.setdefault(name, {"records": 0, "bytes": 0})
            for key, value in tally.items():
                total[key] += value
    return {
        "segments": len(log),
        **{name: _sum(log, name) for name in ("bytes", "allocated", "records")},
        **{
            f"{worth.name.lower()}_bytes": _sum(log, f"{worth.name.lower()}_bytes")
            for worth in Worth
        },
        "kinds": kinds,
        "problems": problems + sum(cast("int", item["problem_count"]) for item in segments),
    }


def _sum(items: Sequence[Json], name: str) -> int | None:
    values = [item[name] for item in items]
    return None if None in values else sum(cast("list[int]", values))


def inspection_text(data: Mapping[str, Value]) -> str:
    """`inspect` for people."""
    segments = cast("list[Json]", data["segments"])
    totals = cast("Json", data["totals"])
    parts = [_summary(data, totals), _segment_table(segments), _kind_table(totals)]
    problems = cast("list[Json]", data["problems"])[:]
    problems += [item for found in segments for item in cast("list[Json]", found["problems"])]
    if problems:
        parts.append("\n".join(problem_line(item) for item in problems))
    if "records" in data:
        parts.append(_record_table(cast("list[Json]", data["records"])))
        if data["more"]:
            last = cast("list[Json]", data["records"])[-1]["seq"]
            parts.append(f"more with --after {last}")
    return "\n\n".join(part for part in parts if part)


def _summary(data: Mapping[str, Value], totals: Json) -> str:
    user = data["in_use_by"]
    return lines_of({
        "path": data["path"],
        "bucket": data["bucket"],
        "in use": "no" if user is None else f"by process {user}",
        "segments": totals["segments"],
        "records": totals["records"],
        "size": _size(totals["bytes"]),
        "on disk": _size(totals["allocated"]),
        "live": _size(totals["live_bytes"]),
        "tombstones": _size(totals["tombstone_bytes"]),
        "dead": _size(totals["dead_bytes"]),
        "problems": totals["problems"],
    })


def _segment_table(segments: Sequence[Json]) -> str:
    heads = ("segment", "state", "gen", "seqs", "batches", "records", "size", "live", "dead")
    rows = [
        (
            str(item["file"]),
            str(item["state"]),
            _text(item["generation"]),
            _range(item["first_seq"], item["last_seq"]),
            _range(item["first_batch"], item["last_batch"]),
            str(item["records"]),
            _short(item["bytes"]),
            _short(item["live_bytes"]),
            _short(item["dead_bytes"]),
        )
        for item in segments
    ]
    return table([heads, *rows]) if rows else ""


def _kind_table(totals: Json) -> str:
    kinds = cast("dict[str, dict[str, int]]", totals["kinds"])
    rows = [(name, str(tally["records"]), _short(tally["bytes"])) for name, tally in kinds.items()]
    return table([("kind", "records", "size"), *rows]) if rows else ""


def _record_table(records: Sequence[Json]) -> str:
    names = ("seq", "batch", "kind", "flags", "segment", "offset", "length", "worth", "blob")
    rows = [[_text(item[name]) for name in names] for item in records]
    return table([names, *rows])


def problem_line(problem: Json) -> str:
    """A problem as one line."""
    if problem["what"] == Damage.GAP:
        many = f"{problem['length']} sequence numbers from {problem['seq']} on"
        return f"damage: gap before segment {problem['segment']}: {many} are in no segment"
    if problem["what"] == Damage.SEGMENT:
        return f"damage: header of segment {problem['segment']}"
    place = f"segment {problem['segment']}, offset {problem['offset']}"
    line = f"damage: {problem['what']} at {place} ({problem['length']} bytes)"
    if problem["kind"]:
        line += f": {problem['kind']}, sequence {problem['seq']}"
    return f"{line}, blob {problem['blob']}" if problem["blob"] else line


def _text(value: Value) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _range(first: Value, last: Value) -> str:
    return f"{_text(first)}..{_text(last)}"


def _size(value: Value) -> str:
    return size_text(value) if isinstance(value, int) else "unknown"


def _short(value: Value) -> str:
    return _size(value).partition(" (")[0]
