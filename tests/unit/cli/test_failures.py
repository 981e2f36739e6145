"""The table of exit codes."""

from __future__ import annotations

import pytest

from ostnode.cli.failures import CommandError, ExitCode, exit_code_of, failure_of
from ostnode.client import BadAnswerError, IntegrityError, SourceChangedError, UnreachableError
from ostnode.config import ConfigError, Mistake
from ostnode.errors import InternalError, all_errors
from ostnode.keyfiles import KeyFileError
from ostnode.node.errors import NodeFailedError, StartError

EXPECTED = {
    ExitCode.USAGE: {"invalid_argument"},
    ExitCode.NOT_FOUND: {"not_found", "accessor_deleted"},
    ExitCode.NOT_ALLOWED: {
        "unauthenticated",
        "token_invalid",
        "token_expired",
        "not_authorized",
        "user_unknown",
        "grant_invalid",
        "grant_expired",
        "blob_blocked",
    },
    ExitCode.ALLOWANCE: {"allowance_exceeded"},
    ExitCode.UNREACHABLE: {"no_bucket", "busy", "draining", "shutting_down"},
    ExitCode.INTEGRITY: {"hash_mismatch", "data_corrupt"},
}


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.code)
def test_every_refusal_has_its_exit_code(error) -> None:
    expected = next(
        (code for code, names in EXPECTED.items() if error.code in names), ExitCode.FAILED
    )
    assert exit_code_of(error.code) is expected
    failure = failure_of(error("why"))
    assert failure is not None
    assert (failure.exit_code, failure.code, failure.message) == (expected, error.code, "why")


def test_retryable_refusals_are_never_final_failures() -> None:
    retryable = {error.code for error in all_errors() if error.retryable}
    assert {exit_code_of(code) for code in retryable} == {ExitCode.UNREACHABLE}


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (UnreachableError("http://x", "refused"), ExitCode.UNREACHABLE),
        (BadAnswerError("http://x", "html"), ExitCode.UNREACHABLE),
        (IntegrityError("other bytes"), ExitCode.INTEGRITY),
        (SourceChangedError("shorter"), ExitCode.FAILED),
        (ConfigError([Mistake("log", "is wrong", "mend it")]), ExitCode.USAGE),
        (StartError("in use", "end it"), ExitCode.FAILED),
        (NodeFailedError("disk"), ExitCode.FAILED),
        (CommandError("no", "yes", ExitCode.ALLOWANCE), ExitCode.ALLOWANCE),
        (PermissionError(13, "Permission denied"), ExitCode.FAILED),
    ],
)
def test_other_failures(error: Exception, exit_code: ExitCode) -> None:
    failure = failure_of(error)
    assert failure is not None
    assert failure.exit_code is exit_code


def test_key_files_say_what_to_do(tmp_path) -> None:
    failure = failure_of(KeyFileError(tmp_path / "a.key", "it holds no key", "make one"))
    assert failure is not None
    assert (failure.exit_code, failure.hint) == (ExitCode.USAGE, "make one")
    assert failure.message == f"{tmp_path / 'a.key'}: it holds no key"


def test_a_file_of_another_user_says_what_to_do() -> None:
    failure = failure_of(PermissionError(13, "Permission denied", "data"))
    assert failure is not None
    assert "'data'" in failure.message
    assert failure.hint.startswith("run this as the user")


def test_groups_are_told_by_what_is_in_them() -> None:
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [InternalError("deep")])])
    failure = failure_of(nested)
    assert failure is not None
    assert failure.message == "deep"


def test_a_bug_is_no_failure_to_tell() -> None:
    assert failure_of(KeyError("x")) is None
