"""The bucket's calls to its index."""

from __future__ import annotations

from typing import Protocol, TypeVar

from ostnode.errors import InternalError
from ostnode.wire.calls import Reply
from ostnode.wire.fields import Message, Request

R = TypeVar("R", bound=Message)


class IndexPort(Protocol):
    """A link to the index, or the index itself."""

    @property
    def features(self) -> frozenset[str]:
        """What both ends understand beyond the version."""
        ...

    async def call(self, request: Request) -> Reply:
        """Make one call; raises the OstError it was refused with, or that the link is over."""
        ...


async def ask(port: IndexPort, request: Request, expected: type[R]) -> R:
    """Call and check the answer's type."""
    reply = await port.call(request)
    if not isinstance(reply.message, expected):
        raise InternalError(f"the index answered {type(reply.message).__name__}")
    return reply.message
