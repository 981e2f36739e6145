"""Writes what is missing of the golden files: `python -m tests.compat.write_golden`.

What is there stays as it is, for ever: a file written by an older version must stay readable.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.golden import build, new_payloads, parse

GOLDEN = Path(__file__).parent / "golden"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    path = GOLDEN / "payloads.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    known = {row["kind"] for row in rows}
    rows += [row for row in new_payloads() if row["kind"] not in known]
    path.write_text(_lines(rows))
    if (GOLDEN / "segments.json").exists():
        return
    made = build(rows)
    for name, data in made.items():
        (GOLDEN / name).write_bytes(data)
    (GOLDEN / "segments.json").write_text(_lines([parse(*item) for item in made.items()]))


def _lines(rows: list[dict[str, object]]) -> str:
    """One row a line."""
    inner = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f"[\n{inner}\n]\n"


if __name__ == "__main__":
    main()
