"""Who makes buckets when the index wants one: the seam to processes and to operators' commands."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Order:
    """A bucket to be made: its number, and the join token that makes it a member at once.

    Ordered again with another token, it is the same bucket; the token before is dead.
    """

    number: int
    invite_id: bytes
    secret: bytes = field(repr=False)


class Provider(Protocol):
    """Makes buckets when there are too few. Neither call waits."""

    @abstractmethod
    def provide(self, order: Order) -> None:
        """Make this bucket run and join."""

    @abstractmethod
    def keep(self, numbers: Collection[int]) -> None:
        """These belong to the cluster: keep running what is this provider's to run."""
