"""Clients that leave: nobody's bug, and never an answer."""

from __future__ import annotations


class ClientGoneError(OSError):
    """The client closed the connection, broke it, or stopped reading."""


def client_is_gone(error: BaseException) -> bool:
    """Whether it is ClientGoneError, or a group of nothing else (nurseries make groups)."""
    if isinstance(error, BaseExceptionGroup):
        return all(client_is_gone(inner) for inner in error.exceptions)
    return isinstance(error, ClientGoneError)
