"""kill -9 while the index allocates and applies events: what was answered stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.index_cluster import blob
from tests.support.index_victim import SIZE, chat, cluster, user

ROOT = Path(__file__).parents[2]


def _run_and_kill(directory: Path, lines: int) -> list[tuple[int, str]]:
    """The acknowledged steps of a process killed after about this many."""
    command = [sys.executable, "-m", "tests.support.index_victim", str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
    steps = [line.split() for line in said if line.endswith("\n")]
    return [(int(number), step) for number, step in steps]


@pytest.mark.system
async def test_b38_kill_9_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    steps: list[tuple[int, str]] = []
    for lines in (40, 333, 1200):
        steps += _run_and_kill(tmp_path, lines)
        index = cluster(tmp_path)
        async with index.open():
            status = await index.status()
            charged = {number for number, step in steps if step == "charged"}
            granted = {number for number, step in steps if step == "granted"}
            assert status.charges >= len(charged)
            assert status.charges + status.open_grants >= len(granted)
            assert await index.account(index.alice) == (
                status.charges * SIZE,
                status.open_grants * SIZE,
            )
            rows = await _rows(index)
            assert {blob(number) for number in charged} <= rows["charges"]
            assert {blob(number) for number in granted} <= rows["charges"] | rows["grants"]
            assert rows["charges"] | rows["grants"] == rows["placements"]
            for number, step in steps:
                if step == "registered":
                    told = await index.user(user(number).proven)
                    assert told.allowance.limit == 7
            burned = await index.service._transact(lambda tables: tables.burned.where())
            deleted = {chat(number) for number, step in steps if step == "deleted"}
            assert deleted
            assert deleted <= {row.accessor for row in burned}


async def _rows(index) -> dict[str, set]:
    return await index.service._transact(
        lambda tables: {
            name: {row.blob_id for row in getattr(tables, name).where()}
            for name in ("charges", "grants", "placements")
        }
    )
