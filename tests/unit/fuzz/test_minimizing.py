"""Small cases out of large ones."""

from __future__ import annotations

from ostnode.fuzz.cases import Case, Deaf, Dial, Layer, Pause, Send
from ostnode.fuzz.minimizing import TRIES_MAX, minimize

LARGE = Case(
    "large",
    Layer.BYTES,
    (
        Dial(0),
        Pause(9.0),
        Send(0, bytes(range(200)), times=64, cuts=(3,), gap=1.0),
        Deaf(0),
        Send(0, b"nothing", zeros=900),
    ),
)


def shows(case: Case) -> bool:
    """A byte 77 sent on a link that was dialled."""
    sent = b"".join(step.data for step in case.steps if isinstance(step, Send))
    return Dial(0) in case.steps and 77 in sent


def test_only_what_matters_is_left() -> None:
    small = minimize(LARGE, shows)
    assert small.steps == (Dial(0), Send(0, bytes([77])))


def test_what_cannot_be_made_smaller_stays() -> None:
    assert minimize(LARGE, lambda case: case == LARGE) == LARGE


def test_it_does_not_try_for_ever() -> None:
    tries = 0

    def count(case: Case) -> bool:
        nonlocal tries
        tries += 1
        return False

    minimize(LARGE, count)
    assert tries <= TRIES_MAX
