"""The model promises what answers say, and never more."""

from __future__ import annotations

import pytest

from ostnode.ids import BlobId, Principal, Uid
from ostnode.roles.bucket.tables import ReferenceId
from ostnode.sim.model import Model, Ref, State

BUCKET, CHAT = Principal(bytes(31) + b"\x01"), Principal(bytes(31) + b"\x02")
NAME = ReferenceId(BlobId(bytes(32)), CHAT, Uid(b"alice's."), b"1")
NOW = 1000.0


@pytest.fixture
def model() -> Model:
    return Model()


def made(model: Model, expires_at: int = 0) -> Ref:
    (ref,) = model.begin([NAME], 5, expires_at)
    ref.bucket = BUCKET
    ref.end_making(there=True)
    return ref


def test_a_reference_is_open_until_an_answer_says_that_it_is_there(model: Model) -> None:
    (ref,) = model.begin([NAME], 5)
    assert ref.state is State.OPEN
    ref.end_making(there=True)
    assert ref.state is State.THERE


def test_a_making_that_is_refused_has_made_nothing(model: Model) -> None:
    (ref,) = model.begin([NAME], 5)
    ref.end_making(there=False)
    assert ref.state is State.GONE


def test_a_removal_without_an_answer_leaves_it_open_for_good(model: Model) -> None:
    ref = made(model)
    ref.begin_removing()
    assert ref.state is State.OPEN
    assert model.state_at_rest(ref, NOW) is State.OPEN


@pytest.mark.parametrize(("gone", "state"), [(True, State.GONE), (False, State.THERE)])
def test_a_removal_is_what_its_answer_says(model: Model, gone: bool, state: State) -> None:
    ref = made(model)
    ref.begin_removing()
    ref.end_removing(gone=gone)
    assert ref.state is state


def test_what_was_removed_stays_so_though_its_making_is_heard_of_later(model: Model) -> None:
    (ref,) = model.begin([NAME], 5)
    ref.begin_removing()
    ref.end_removing(gone=True)
    ref.end_making(there=True)
    assert ref.state is State.GONE


def test_making_and_removing_at_once_cannot_be_told_apart(model: Model) -> None:
    ref = made(model)
    ref.begin_removing()
    model.begin([NAME], 5)
    ref.end_removing(gone=True)
    ref.end_making(there=True)
    assert ref.state is State.OPEN


def test_a_deletion_without_an_answer_leaves_all_of_it_open(model: Model) -> None:
    ref = made(model)
    model.burning.add(CHAT)
    assert model.state(ref, NOW, 0) is State.OPEN
    model.burned.add(CHAT)
    assert model.state(ref, NOW, 0) is State.OPEN, "until its bucket has heard"
    assert model.state_at_rest(ref, NOW) is State.GONE


def test_an_end_in_time_is_open_while_clocks_may_differ(model: Model) -> None:
    ref = made(model, expires_at=1020)
    assert model.state(ref, NOW, 10) is State.THERE
    assert model.state(ref, NOW, 25) is State.OPEN
    assert model.state_at_rest(ref, 1020) is State.OPEN
    assert model.state_at_rest(ref, 1030) is State.GONE


def test_what_is_promised_must_be_held(model: Model) -> None:
    made(model)
    assert not list(model.unkept({BUCKET: {NAME: None}}, NOW, 0))
    assert not list(model.unkept({}, NOW, 0)), "a bucket that is down shows nothing"
    (problem,) = model.unkept({BUCKET: {}}, NOW, 0)
    assert "was acknowledged and is not there" in problem


def test_at_rest_nothing_more_and_nothing_less_is_held(model: Model) -> None:
    ref = made(model)
    assert not list(model.unkept_at_rest({BUCKET: {NAME: None}}, NOW))
    (lost,) = model.unkept_at_rest({BUCKET: {}}, NOW)
    assert "is not there" in lost
    ref.begin_removing()
    ref.end_removing(gone=True)
    (kept,) = model.unkept_at_rest({BUCKET: {NAME: None}}, NOW)
    assert "has ended and is still there" in kept
    (foreign,) = Model().unkept_at_rest({BUCKET: {NAME: None}}, NOW)
    assert "nobody has asked for it" in foreign
