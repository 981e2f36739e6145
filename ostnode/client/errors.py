"""What can go wrong at the client itself. A node's refusal is an `ostnode.errors.OstError`."""

from __future__ import annotations


class ClientError(Exception):
    """Base of every failure that is not a node's typed refusal."""


class UnreachableError(ClientError):
    """No usable answer from a node: connection refused or cut, silence, a gateway's error page.

    Whether the node did what it was asked is unknown. `retry_after_s` is set when whoever
    answered in the node's place said when to come back.
    """

    def __init__(self, node: str, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{node} is not reachable: {reason}")
        self.node = node
        self.reason = reason
        self.retry_after_s = retry_after_s


class BadAnswerError(ClientError):
    """An answer that is not this interface's: another program or version listens there."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node} answered something that is not its interface: {reason}")
        self.node = node


class IntegrityError(ClientError):
    """The bytes that came do not hash to the blob's id; nothing of them is kept."""


class SourceChangedError(ClientError):
    """The file being uploaded became shorter after it was hashed."""
