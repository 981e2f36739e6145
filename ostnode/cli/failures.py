"""Every failure a command can end with: its exit code, and what to do next. One table each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from ostnode.config import ConfigError
from ostnode.errors import DetailValue, OstError, first_failure
from ostnode.keyfiles import KeyFileError
from ostnode.node.errors import NodeFailedError, StartError


class ExitCode(IntEnum):
    """What a script can tell from `$?`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    ALLOWANCE = 5
    UNREACHABLE = 6
    INTEGRITY = 7


class CommandError(Exception):
    """A failure of the command line's own, with its exit code and a hint."""

    def __init__(
        self,
        message: str,
        hint: str,
        exit_code: ExitCode = ExitCode.FAILED,
        *,
        code: str = "failed",
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code
        self.code = code


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as it is told: one line, a hint, and for programs a code and details."""

    exit_code: ExitCode
    code: str
    message: str
    hint: str = ""
    details: Mapping[str, DetailValue] = field(default_factory=dict)


_EXIT_CODES: Final[Mapping[str, ExitCode]] = {
    "invalid_argument": ExitCode.USAGE,
    "not_found": ExitCode.NOT_FOUND,
    "accessor_deleted": ExitCode.NOT_FOUND,
    "unauthenticated": ExitCode.NOT_ALLOWED,
    "token_invalid": ExitCode.NOT_ALLOWED,
    "token_expired": ExitCode.NOT_ALLOWED,
    "not_authorized": ExitCode.NOT_ALLOWED,
    "user_unknown": ExitCode.NOT_ALLOWED,
    "grant_invalid": ExitCode.NOT_ALLOWED,
    "grant_expired": ExitCode.NOT_ALLOWED,
    "blob_blocked": ExitCode.NOT_ALLOWED,
    "allowance_exceeded": ExitCode.ALLOWANCE,
    "no_bucket": ExitCode.UNREACHABLE,
    "busy": ExitCode.UNREACHABLE,
    "draining": ExitCode.UNREACHABLE,
    "shutting_down": ExitCode.UNREACHABLE,
    "hash_mismatch": ExitCode.INTEGRITY,
    "data_corrupt": ExitCode.INTEGRITY,
}
"""By a refusal's code; every other one is FAILED."""

_HINTS: Final[Mapping[str, str]] = {
    "not_found": "it is absent, or the token, the accessor or the caller does not fit",
    "unauthenticated": "check --key, and that this computer's clock is right",
    "token_invalid": "look into it with `ostnode token inspect`; mint one for this caller; and the "
    "principal in --index or --bucket must be that of the node at its URL",
    "token_expired": "mint a new one with `ostnode token mint`",
    "not_authorized": "pass with --key the key of whoever may do this: the app, or an operator",
    "user_unknown": "register the principal first: `ostnode user add PRINCIPAL --limit SIZE`",
    "allowance_exceeded": "remove something (`ostnode blob rm`) or raise it (`ostnode user set`)",
    "blob_blocked": "an operator has blocked it: see `ostnode blob blocked` and `blob unblock`",
    "bucket_full": "a blob that somebody holds stays in its bucket: give that bucket room "
    "(`ostnode cluster status`), or try again once nobody holds the blob",
    "no_bucket": "see `ostnode cluster status`: activate a bucket, start one, or give one room",
    "busy": "try again in a moment",
    "accessor_deleted": "a deleted accessor never returns: make a new one (`ostnode accessor new`)",
    "hash_mismatch": "the bytes changed on the way: upload again",
    "data_corrupt": "uploading the same bytes again heals it",
    "unreachable": "check --index or --bucket, and `ostnode cluster status`; is the node running?",
    "bad_answer": "check --index: something else, or another version, listens there",
    "integrity": "nothing was kept; fetch it again, and report it if it stays so",
    "source_changed": "upload again when nobody writes the file",
    "denied": "run this as the user whose file it is; a data directory is the node's",
}


def exit_code_of(code: str) -> ExitCode:
    """The exit code of a refusal's code."""
    return _EXIT_CODES.get(code, ExitCode.FAILED)


def failure_of(error: BaseException) -> Failure | None:
    """How to tell a failure; None for what is not expected: a bug, shown with its traceback."""
    match first_failure(error):
        case OstError() as refusal:
            hint = _HINTS.get(refusal.code, "")
            code = exit_code_of(refusal.code)
            return Failure(code, refusal.code, _with_details(refusal), hint, refusal.details)
        case CommandError() as own:
            return Failure(own.exit_code, own.code, str(own), own.hint)
        case StartError() as start:
            return Failure(ExitCode.FAILED, "start", str(start), start.hint)
        case NodeFailedError() as node:
            return Failure(ExitCode.FAILED, "node", str(node))
        case ConfigError() as config:
            return Failure(ExitCode.USAGE, "config", str(config))
        case KeyFileError() as key:
            return Failure(ExitCode.USAGE, "key_file", f"{key.path}: {key.problem}", key.hint)
        case PermissionError() as denied:
            return Failure(ExitCode.FAILED, "system", str(denied), _HINTS["denied"])
        case OSError() as system:
            return Failure(ExitCode.FAILED, "system", str(system))
        case other:
            return _client_failure(other)


def _client_failure(error: BaseException) -> Failure | None:
    # Importing the client imports the HTTP stack: only failures pay for it.
    from ostnode.client import errors as client  # noqa: PLC0415

    match error:
        case client.UnreachableError():
            exit_code, code = ExitCode.UNREACHABLE, "unreachable"
        case client.BadAnswerError():
            exit_code, code = ExitCode.UNREACHABLE, "bad_answer"
        case client.IntegrityError():
            exit_code, code = ExitCode.INTEGRITY, "integrity"
        case client.SourceChangedError():
            exit_code, code = ExitCode.FAILED, "source_changed"
        case _:
            return None
    return Failure(exit_code, code, str(error), _HINTS[code])


def _with_details(error: OstError) -> str:
    if not error.details:
        return error.message
    details = ", ".join(f"{name} {value}" for name, value in error.details.items())
    return f"{error.message} ({details})"
