"""Why a node does not start, or ends before it was told to."""

from __future__ import annotations


class StartError(Exception):
    """The node cannot start as configured: what is wrong, and what to do about it."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.hint = hint


class NodeFailedError(Exception):
    """A part failed so that nothing may be decided any more. What was acknowledged is kept."""
