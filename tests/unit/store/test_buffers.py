"""Read buffers: whose they are, when they are used again, how many are kept."""

from __future__ import annotations

import pytest

from ostnode.store.buffers import _KEPT_MAX, _SIZES, Buffers

LARGE = 1 << 20


def test_a_buffer_is_used_again_when_its_last_view_is_gone() -> None:
    buffers = Buffers()
    first = buffers.take(LARGE)
    kept = first.obj
    part = first[10:20]
    del first
    assert buffers.take(LARGE).obj is not kept
    del part
    assert buffers.take(LARGE).obj is kept


def test_what_somebody_holds_is_never_given_to_another() -> None:
    buffers = Buffers()
    views = [buffers.take(LARGE) for _ in range(_KEPT_MAX + 3)]
    assert len({id(view.obj) for view in views}) == len(views)
    for number, view in enumerate(views):
        view[:] = bytes([number]) * LARGE
    for number, view in enumerate(views):
        assert view == bytes([number]) * LARGE


def test_how_many_are_kept_is_bounded() -> None:
    buffers = Buffers()
    views = [buffers.take(LARGE) for _ in range(_KEPT_MAX + 3)]
    assert sum(map(len, buffers._kept.values())) == _KEPT_MAX
    del views


@pytest.mark.parametrize(
    "length",
    [0, 1, 4096, 128 << 10, 256 << 10, (256 << 10) + 96, 300_000, 512 << 10, LARGE + 96, 5 * LARGE],
)
def test_a_view_has_the_length_asked_for_and_keeps_at_most_twice_as_much(length: int) -> None:
    view = Buffers().take(length)
    assert len(view) == length
    assert len(view.obj) <= 2 * length + 1
    assert not view.readonly


def test_a_buffer_keeps_its_size() -> None:
    buffers = Buffers()
    for _ in range(5):
        buffers.take(_SIZES[-1])
    assert [len(buffer) for buffer in buffers._kept[_SIZES[-1]]] == [_SIZES[-1]]
