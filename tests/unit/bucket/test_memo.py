"""The memory of payloads, which the event loop and compaction's thread share."""

from __future__ import annotations

from ostnode.roles.bucket.memo import Memo


def test_what_was_used_last_stays() -> None:
    memo: Memo[int, str] = Memo(2)
    memo.put(1, "one")
    memo.put(2, "two")
    assert memo.get(1) == "one"
    memo.put(3, "three")
    assert [memo.get(key) for key in (1, 2, 3)] == ["one", None, "three"]
    memo.put(1, "uno")
    memo.put(4, "four")
    assert [memo.get(key) for key in (1, 3, 4)] == ["uno", None, "four"]


def test_one_thread_at_a_time_is_inside() -> None:
    memo: Memo[Watchful, int] = Memo(2)
    inside = []

    class Watchful:
        def __hash__(self) -> int:
            inside.append(memo._lock.locked())
            return 1

    key = Watchful()
    memo.put(key, 1)
    puts = len(inside)
    assert memo.get(key) == 1
    assert len(inside) > puts > 0
    assert all(inside)
    assert not memo._lock.locked()
