from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostnode.client.errors import BadAnswerError, UnreachableError
from ostnode.client.retry import RetryPolicy, is_retryable, parse_retry_after, retry_after_of
from ostnode.errors import BusyError, DrainingError, NoBucketError, NotFoundError, all_errors
from tests.support.client_fakes import FakeRng

POLICY = RetryPolicy(attempts_max=4, base_s=1.0, cap_s=3.0, retry_after_max_s=10.0)
GONE = UnreachableError("node", "refused")


def test_b12_the_ceiling_doubles_up_to_the_cap() -> None:
    assert [POLICY.ceiling_s(attempt) for attempt in range(1, 5)] == [1.0, 2.0, 3.0, 3.0]
    assert POLICY.ceiling_s(10**9) == 3.0


@given(attempt=st.integers(1, 3), part=st.floats(0, 1))
def test_b12_jitter_is_full(attempt: int, part: float) -> None:
    delay = POLICY.delay_s(attempt, GONE, FakeRng(part))
    assert delay == pytest.approx(part * POLICY.ceiling_s(attempt))


def test_b12_attempts_are_bounded() -> None:
    assert POLICY.delay_s(3, GONE, FakeRng()) is not None
    assert POLICY.delay_s(4, GONE, FakeRng()) is None


def test_b12_terminal_errors_are_never_tried_again() -> None:
    retryable = {cls.code for cls in all_errors() if is_retryable(cls())}
    assert retryable == {"no_bucket", "busy", "draining", "shutting_down"}
    assert POLICY.delay_s(1, NotFoundError(), FakeRng()) is None
    assert POLICY.delay_s(1, BadAnswerError("node", "?"), FakeRng()) is None


def test_b12_retry_after_is_waited_out_and_jitter_comes_on_top() -> None:
    assert POLICY.delay_s(1, BusyError(retry_after_s=7), FakeRng(0.0)) == 7.0
    assert POLICY.delay_s(1, BusyError(retry_after_s=7), FakeRng(1.0)) == 8.0
    assert POLICY.delay_s(1, UnreachableError("node", "502", 2.5), FakeRng(0.0)) == 2.5


def test_b12_a_retry_after_beyond_the_limit_gives_up_rather_than_coming_early() -> None:
    assert POLICY.delay_s(1, DrainingError(retry_after_s=11), FakeRng()) is None


@pytest.mark.parametrize("nonsense", [True, "5", -1])
def test_a_retry_after_detail_that_is_no_number_counts_as_absent(nonsense: object) -> None:
    error = NoBucketError()
    error.details = {"retry_after_s": nonsense}  # type: ignore[dict-item]
    assert retry_after_of(error) is None
    assert retry_after_of(ValueError()) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        ("9" * 400, 999_999_999.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
        ("Thu, 01 Jan 1970 00:01:40 -0000", 90.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=10.0) == seconds


@given(st.text())
def test_no_retry_after_header_can_hurt(value: str) -> None:
    seconds = parse_retry_after(value, now=0.0)
    assert seconds is None or seconds >= 0
