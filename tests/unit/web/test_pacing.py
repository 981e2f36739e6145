"""Slow clients: what is waited for and what is not."""

from __future__ import annotations

from ostnode.web.pacing import Patience, send_patience


def test_a_client_at_the_minimum_rate_is_waited_for_without_end() -> None:
    patience = Patience(grace=10, rate=100)
    for _ in range(10_000):
        patience.spent(5, 500)
    assert patience.left > 0


def test_a_trickle_uses_patience_up() -> None:
    patience = Patience(grace=10, rate=100)
    waits = 0
    while patience.left > 0:
        patience.spent(1, 1)
        waits += 1
    assert waits == 11


def test_a_fast_start_pays_for_no_stall() -> None:
    patience = Patience(grace=10, rate=100)
    patience.spent(0.001, 1_000_000)
    assert patience.left == 10


def test_sending_more_may_take_longer() -> None:
    assert send_patience(0, timeout=20, rate=1024) == 20
    assert send_patience(10_240, timeout=20, rate=1024) == 30
