"""The index role: users, allocation, feed, heartbeat."""

from ostnode.roles.index.core.rows import Bucket, BucketState
from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.database.engine import (
    Database,
    DatabaseFailedError,
    DatabaseUnusableError,
)
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.roles.index.insight import Insight
from ostnode.roles.index.opening import open_index
from ostnode.roles.index.options import IndexOptions
from ostnode.roles.index.provider import Order, Provider
from ostnode.roles.index.service import IndexService

__all__ = [
    "Bucket",
    "BucketState",
    "Database",
    "DatabaseFailedError",
    "DatabaseUnusableError",
    "IndexOptions",
    "IndexService",
    "Insight",
    "Order",
    "Provider",
    "Rules",
    "SqliteDatabase",
    "open_index",
]
