"""Records a session at the newest version: `python -m tests.compat.write_transcript`.

To be run before PROTOCOL_MAX is raised. A recording that is there stays as it is, for as long as
a node of its version must be understood.
"""

from __future__ import annotations

import json
from pathlib import Path

from ostnode.errors import all_errors
from ostnode.wire.session import PROTOCOL_MAX, PROTOCOL_MIN
from tests.support.transcripts import record
from tests.support.wire_peers import accepter, dialler


def path_of(version: int) -> Path:
    """The recording of a version."""
    return Path(__file__).parent / "golden" / f"peer-session-{version}.json"


def main() -> None:
    path = path_of(PROTOCOL_MAX)
    if path.exists():
        return
    versions = {"protocol_min": PROTOCOL_MIN, "protocol_max": PROTOCOL_MAX}
    rows = record(dialler(**versions), accepter(**versions), all_errors())
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
