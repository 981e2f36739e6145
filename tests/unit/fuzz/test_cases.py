"""Cases as files: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from random import Random

import pytest

from ostnode.fuzz.cases import (
    Case,
    CaseError,
    Deaf,
    Dial,
    Finish,
    Greet,
    Layer,
    Listen,
    Pause,
    Prove,
    Reset,
    Send,
    dump_case,
    load_case,
)
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.making.choosing import Chooser
from ostnode.fuzz.making.material import gather_material
from ostnode.fuzz.making.mutating import mutate

EVERYTHING = Case(
    "everything",
    Layer.SESSION,
    (
        Dial(0, "bucket"),
        Greet(0, "alice", {"protocol_max": 7}),
        Prove(0, "bob", over=1, side="accepter", binding="ab"),
        Send(0, b"\x00\xff", zeros=3, times=2, cuts=(1, 4), gap=0.5),
        Deaf(0),
        Pause(1.5),
        Listen(0),
        Finish(0),
        Reset(0),
    ),
)


def test_every_step_comes_back_as_it_was() -> None:
    assert load_case(dump_case(EVERYTHING)) == EVERYTHING


def test_the_digest_is_of_the_steps_alone() -> None:
    renamed = Case("other", Layer.BYTES, EVERYTHING.steps)
    assert renamed.digest == EVERYTHING.digest
    assert Case("", Layer.BYTES, EVERYTHING.steps[:-1]).digest != EVERYTHING.digest


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "format 1"),
        ({"layer": "paper"}, "layer"),
        ({"name": 7}, "name"),
        ({"steps": "none"}, "steps"),
        ({"steps": [{"do": "fly"}]}, r"steps\[0\]\.do"),
        ({"steps": [{"do": "dial", "link": 99}]}, r"steps\[0\]"),
        ({"steps": [{"do": "dial"}]}, r"steps\[0\]"),
        ({"steps": [{"do": "pause", "seconds": -1}]}, r"steps\[0\]"),
        ({"steps": [{"do": "pause", "seconds": 1, "why": "x"}]}, "no field why"),
        ({"steps": [{"do": "send", "link": 0, "data": "zz"}]}, r"steps\[0\]"),
        (
            {"steps": [{"do": "send", "link": 0, "data": "00", "times": 1 << 24, "zeros": 9}]},
            "more",
        ),
        ({"steps": [{"do": "pause", "seconds": 1}] * 257}, "at most 256"),
    ],
)
def test_what_cannot_be_played_is_refused(change: dict[str, object], told: str) -> None:
    text = json.dumps(json.loads(dump_case(EVERYTHING)) | change)
    with pytest.raises(CaseError, match=told):
        load_case(text)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_what_is_no_case_is_refused(text: str) -> None:
    with pytest.raises(CaseError):
        load_case(text)


def test_the_same_seed_makes_the_same_cases() -> None:
    material = gather_material(Cast())
    cases = [Chooser(4, material).case(number, []) for number in range(60)]
    assert cases == [Chooser(4, material).case(number, []) for number in range(60)]
    assert cases != [Chooser(5, material).case(number, []) for number in range(60)]
    assert {case.layer for case in cases} == set(Layer)
    for case in cases:
        assert load_case(dump_case(case)) == case


def test_changed_cases_can_still_be_written() -> None:
    rng = Random(1)
    case = EVERYTHING
    for _ in range(300):
        case = mutate(rng, case, [EVERYTHING])
        assert load_case(dump_case(case)) == case
