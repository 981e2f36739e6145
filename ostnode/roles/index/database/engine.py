"""What an engine is: it runs jobs in batches, each batch one durable transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ostnode.roles.index.core.tables import Tables


class DatabaseUnusableError(Exception):
    """The index's database cannot be opened; the message says what to do."""


class DatabaseFailedError(Exception):
    """A transaction's outcome is not known: nothing may be decided on this database any more.

    The node ends; the next start finds what is durable, and callers retry.
    """


class Job(Protocol):
    """One operation of a batch, and where its end is told.

    A batch may be taken back and run again: the last end counts.
    """

    def run(self, tables: Tables) -> None:
        """Do it. May raise: what it wrote is then taken back, and the others go on."""
        ...

    def fail(self, error: Exception) -> None:
        """It had no effect, or (DatabaseFailedError) an unknown one."""
        ...


class Database(Protocol):
    """An engine. One batch at a time; blocking."""

    def run_batch(self, jobs: Sequence[Job]) -> bool:
        """Run the jobs in order in one transaction; durable when this returns.

        Returns whether something urgent was written. A job that raised, or whose transaction
        had no room, has been failed. Raises DatabaseFailedError.
        """
        ...

    def close(self) -> None:
        """Leave everything committed in order, and let go of the files."""
        ...
