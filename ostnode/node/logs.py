"""Log lines on standard error: structlog, for people or as one JSON object per line.

No token ever stands in a line: whoever logs leaves them out, and what slips through is masked
here, by its field's name and by how every signed statement begins.
"""

from __future__ import annotations

import logging
import re
import sys
from functools import partial
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger
from typing_extensions import override

from ostnode.config import LogConfig

MASK: Final = "<hidden>"
_SECRET_FIELDS: Final = frozenset({
    "authorization",
    "cookie",
    "grant",
    "join",
    "login",
    "query",
    "secret",
    "seed",
    "session",
    "token",
})
_TRACEBACK: Final = "exception"
_SIGNED: Final = re.compile(r"0oRY[A-Za-z0-9_-]{32,}")
"""Base64url of a tagged COSE_Sign1 with a protected header: every token, grant and session."""
_JOIN_SECRET: Final = re.compile(r"(#[A-Za-z0-9_-]{11}\.)[A-Za-z0-9_-]{20,}")
"""The end of a join line, whose front may be read."""


def set_up_logging(config: LogConfig, stream: TextIO | None = None) -> None:
    """Configure structlog, and bring the standard library's warnings into the same lines."""
    stream = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[config.level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            hide_secrets,
            _renderer(config, stream),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=partial(_NamedLogger, stream),
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Forwarder()], force=True)


def hide_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask fields that are named like a secret, and anything in a text that looks like one."""
    for name, value in event.items():
        if name in _SECRET_FIELDS:
            event[name] = MASK
        elif isinstance(value, str):
            event[name] = _JOIN_SECRET.sub(rf"\1{MASK}", _SIGNED.sub(MASK, value))
            if name != _TRACEBACK and not value.isprintable():
                event[name] = repr(event[name])  # peers chose it: no line or colour of theirs
    return event


class _NamedLogger(structlog.WriteLogger):
    """Writes lines, and knows the module it was made for."""

    def __init__(self, stream: TextIO, name: str = "") -> None:
        super().__init__(stream)
        self.name = name


class _Forwarder(logging.Handler):
    """Hands the standard library's records to structlog."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger(record.name)
        logger.log(record.levelno, record.getMessage(), exc_info=record.exc_info or None)


def _add_logger_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    name = getattr(logger, "name", "")
    if name:
        event["logger"] = name
    return event


def _renderer(config: LogConfig, stream: TextIO) -> Processor:
    if config.format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False)
    return structlog.dev.ConsoleRenderer(colors=stream.isatty())
