"""The index role: users, allocation, feed, heartbeat."""

from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.database.engine import (
    Database,
    DatabaseFailedError,
    DatabaseUnusableError,
)
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.roles.index.opening import open_index
from ostnode.roles.index.options import IndexOptions
from ostnode.roles.index.service import IndexService

__all__ = [
    "Database",
    "DatabaseFailedError",
    "DatabaseUnusableError",
    "IndexOptions",
    "IndexService",
    "Rules",
    "SqliteDatabase",
    "open_index",
]
