"""Large buffers are used again when, and only when, nobody refers to them."""

from __future__ import annotations

from ostnode.wire.buffers import KEPT_MAX, REUSED_BYTES_MIN, BodyBuffers

SIZE = REUSED_BYTES_MIN


def test_a_buffer_nobody_holds_is_used_again():
    buffers = BodyBuffers()
    address = id(buffers.take(SIZE))
    assert id(buffers.take(SIZE)) == address
    assert len(buffers.take(SIZE + 1)) == SIZE + 1


def test_a_buffer_somebody_holds_is_not():
    buffers = BodyBuffers()
    first = buffers.take(SIZE)
    view = memoryview(buffers.take(SIZE))[5:]
    second_id = id(view.obj)
    third = buffers.take(SIZE)
    assert len({id(first), second_id, id(third)}) == 3
    del view
    assert id(buffers.take(SIZE)) == second_id


def test_small_ones_are_left_to_the_allocator():
    buffers = BodyBuffers()
    first = buffers.take(SIZE - 1)
    assert len(first) == SIZE - 1
    assert buffers._kept == []


def test_few_are_kept_and_none_after_forgetting():
    buffers = BodyBuffers()
    held = [buffers.take(SIZE) for _ in range(KEPT_MAX + 5)]
    assert len({id(buffer) for buffer in held}) == KEPT_MAX + 5
    assert len(buffers._kept) == KEPT_MAX
    buffers.forget()
    assert buffers._kept == []
