"""Telling an index's database that it was put back from a backup, while no node has it open."""

from __future__ import annotations

from pathlib import Path

from ostnode.ids import Principal
from ostnode.roles.index.core.resync import missing, take_incarnation
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.engine import DatabaseUnusableError
from ostnode.roles.index.database.repository import run_alone
from ostnode.roles.index.database.sqlite import FILE_NAME, SqliteDatabase


def mark_restored(data_dir: Path, now_us: int) -> tuple[int, list[Principal]]:
    """Let the index in this directory begin anew; its incarnation, and the buckets it waits for.

    Blocking. Raises DatabaseUnusableError when there is no database, or a node has it open.
    """
    if not (data_dir / FILE_NAME).is_file():
        raise DatabaseUnusableError(f"{data_dir} holds no index database")
    database = SqliteDatabase(data_dir)

    def mark(tables: Tables) -> tuple[int, list[Principal]]:
        return take_incarnation(tables, now_us).incarnation, missing(tables)

    try:
        return run_alone(database, mark)
    finally:
        database.close()
