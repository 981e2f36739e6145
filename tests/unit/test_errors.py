"""The error table, row by row: other people's programs depend on it."""

from __future__ import annotations

import pytest

from ostnode.errors import (
    AllowanceExceededError,
    InternalError,
    NotFoundError,
    OstError,
    all_errors,
    bare,
    error_class,
)

TABLE = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "token_invalid": 401,
    "token_expired": 401,
    "not_authorized": 403,
    "not_found": 404,
    "user_unknown": 403,
    "grant_invalid": 403,
    "grant_expired": 403,
    "user_exists": 409,
    "allowance_exceeded": 413,
    "blob_too_large": 413,
    "blob_blocked": 451,
    "chunk_out_of_range": 400,
    "chunk_size_mismatch": 400,
    "upload_conflict": 409,
    "grant_closed": 409,
    "accessor_deleted": 410,
    "hash_mismatch": 422,
    "wrong_bucket": 421,
    "range_not_satisfiable": 416,
    "unsupported_media_type": 415,
    "method_not_allowed": 405,
    "no_bucket": 503,
    "data_corrupt": 500,
    "frame_too_large": 413,
    "unknown_call": 404,
    "bucket_full": 507,
    "busy": 503,
    "draining": 503,
    "shutting_down": 503,
    "internal": 500,
}
RETRYABLE = {"no_bucket", "busy", "draining", "shutting_down"}


def test_the_table_is_complete_and_nothing_else() -> None:
    assert {error.code: error.http_status for error in all_errors()} == TABLE
    assert {error.code for error in all_errors() if error.retryable} == RETRYABLE


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.code)
def test_a_class_is_found_by_its_code_and_documented(error: type[OstError]) -> None:
    assert error_class(error.code) is error
    assert error.__doc__
    assert isinstance(error(), OstError)


def test_a_code_of_a_later_version_is_an_internal_error() -> None:
    assert error_class("from_the_future") is InternalError


def test_an_error_says_what_happened_and_carries_scalars() -> None:
    error = AllowanceExceededError("too much", limit=10, used=7, reserved=1, needed=5)
    assert (str(error), error.message) == ("too much", "too much")
    assert error.details == {"limit": 10, "used": 7, "reserved": 1, "needed": 5}


def test_without_a_message_the_code_is_read_out() -> None:
    assert str(NotFoundError()) == NotFoundError().message == "not found"
    assert NotFoundError().details == {}


def test_a_code_cannot_be_defined_twice() -> None:
    with pytest.raises(TypeError, match="not_found is defined twice"):

        class AgainError(OstError, code="not_found", status=404):
            pass

    assert error_class("not_found") is NotFoundError


def test_a_bare_error_keeps_nothing_alive():
    with pytest.raises(NotFoundError) as raised:
        raise NotFoundError("no such blob") from KeyError("cause")
    kept = bare(raised.value)
    assert (kept.code, kept.message) == ("not_found", "no such blob")
    assert kept.__traceback__ is kept.__cause__ is kept.__context__ is None
