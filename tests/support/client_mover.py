"""A program that moves one blob up and down and tells its own memory, as JSON on one line.

Arguments: base URL, a file to upload, a file to download to. A process of its own, because peak
memory is a process's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio

from ostnode.client import connect
from tests.support.client_fakes import ALICE, INDEX


def _kib(field: str) -> int:
    """A field of /proc/self/status: VmRSS is memory now, VmHWM its peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1])


async def _move(url: str, source: Path, target: Path) -> dict[str, int]:
    async with connect(url, ALICE, index=INDEX.principal) as client:
        await client.upload(b"warm")
        idle = _kib("VmRSS")
        uploaded = await client.upload(source)
        after_upload = _kib("VmHWM")
        blob_id = uploaded.reference.blob_id
        await client.download(ALICE.principal, blob_id, to=target, bucket=uploaded.bucket)
        return {"idle": idle, "after_upload": after_upload, "after_download": _kib("VmHWM")}


if __name__ == "__main__":
    print(json.dumps(trio.run(_move, sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
