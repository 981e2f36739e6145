from __future__ import annotations

import pytest

from ostnode.client import ClientOptions
from ostnode.errors import InvalidArgumentError


@pytest.mark.parametrize("wrong", [{"parallel": 0}, {"parallel": 33}, {"connections_max": 3}])
def test_limits_that_cannot_work_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        ClientOptions(**wrong)


def test_every_default_is_finite() -> None:
    options = ClientOptions()
    waits_s = [
        options.answer_deadline_s,
        options.push_deadline_s,
        options.stall_deadline_s,
        options.retry.cap_s,
        options.retry.retry_after_max_s,
    ]
    assert min(waits_s) > 0
    assert max(waits_s) <= 120
    waited_s = sum(options.retry.ceiling_s(i) / 2 for i in range(1, options.retry.attempts_max))
    assert 10 < waited_s < 20
