"""What is measured of a node in this process is the node's."""

from __future__ import annotations

import gc
import weakref

from ostnode.fuzz.watching import CASES_PER_COLLECTION, blocks_above, own_garbage


class Knot:
    """Refers to itself: only a collection frees it."""

    def __init__(self) -> None:
        self.me = self


def test_a_case_collects_its_own_garbage_and_no_other() -> None:
    before = weakref.ref(Knot())
    with own_garbage():
        own = weakref.ref(Knot())
        assert blocks_above(0) > 0
        assert own() is None
        assert before() is not None
    for _ in range(CASES_PER_COLLECTION):
        with own_garbage():
            pass
    assert before() is None
    assert gc.get_freeze_count() == 0
