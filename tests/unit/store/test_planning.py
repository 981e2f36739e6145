"""Which segments are rewritten together."""

from __future__ import annotations

from ostnode.store.judging import Judgement
from ostnode.store.planning import Run, plan_compaction

MIB = 1 << 20


def segments(*sizes: tuple[int, int], tombstones: int = 0, free: bool = False) -> list[Judgement]:
    """Adjacent segments from (live, dead) bytes."""
    return [
        Judgement(
            number=10 * place + 10,
            generation=0,
            first_seq=100 * place + 1,
            last_seq=100 * place + 100,
            nbytes=live + dead + tombstones + 8192,
            allocated=live + dead + tombstones + 8192,
            records=20,
            kept=10,
            tombstones=tombstones // 100,
            live_bytes=live,
            dead_bytes=dead,
            tombstone_bytes=tombstones,
            clean=not dead,
            tombstones_free=free,
        )
        for place, (live, dead) in enumerate(sizes)
    ]


def plan(judgements: list[Judgement], share: float = 0.5, records_max: int = 1000) -> list[Run]:
    return plan_compaction(
        judgements, live_share_max=share, segment_bytes=16 * MIB, records_max=records_max
    )


def numbers(runs: list[Run]) -> list[tuple[int, ...]]:
    return [run.segments for run in runs]


FULL, HALF, EMPTY = (15 * MIB, 0), (6 * MIB, 9 * MIB), (0, 15 * MIB)


def test_what_is_mostly_dead_is_rewritten_with_its_neighbours() -> None:
    runs = plan(segments(FULL, HALF, HALF, FULL, EMPTY))
    assert numbers(runs) == [(20, 30), (50,)]
    assert (runs[0].first_seq, runs[0].last_seq) == (101, 300)
    assert 18 * MIB < runs[0].frees_bytes < 19 * MIB
    assert 12 * MIB < runs[0].keeps_bytes < 13 * MIB


def test_no_more_goes_into_one_output_than_fits() -> None:
    assert numbers(plan(segments(HALF, HALF, HALF, HALF))) == [(10, 20), (30, 40)]
    assert numbers(plan(segments(EMPTY, EMPTY, EMPTY), records_max=20)) == [(10, 20), (30,)]


def test_nothing_is_rewritten_for_nothing() -> None:
    assert plan(segments(FULL, FULL), share=1.0) == []
    assert plan(segments((8 * MIB, 7 * MIB))) == []
    assert numbers(plan(segments((8 * MIB, 7 * MIB)), share=0.8)) == [(10,)]


def test_tombstones_count_until_they_may_go() -> None:
    assert plan(segments((0, 0), tombstones=8 * MIB)) == []
    runs = plan(segments((0, 0), tombstones=8 * MIB, free=True))
    assert numbers(runs) == [(10,)]
    assert runs[0].frees_bytes > 7 * MIB
    assert runs[0].keeps_bytes > 8 * MIB


def test_a_punched_segment_is_judged_by_what_it_takes() -> None:
    (half,) = segments(HALF)
    punched = Judgement(**{
        **{name: getattr(half, name) for name in half.__slots__},
        "allocated": 7 * MIB,
    })
    assert numbers(plan([half])) == [(10,)]
    assert plan([punched]) == []


def test_small_segments_are_joined_when_no_one_of_them_outweighs_the_others() -> None:
    small = (MIB, 0)
    assert plan(segments(small, small, small)) == []
    assert numbers(plan(segments(small, small, small, small))) == [(10, 20, 30, 40)]
    large = (3 * MIB + MIB // 2, 0)
    assert numbers(plan(segments(large, small, small, small))) == []
    assert numbers(plan(segments(FULL, *[small] * 5, FULL))) == [(20, 30, 40, 50, 60)]


def test_segments_with_a_hole_between_them_stay_apart() -> None:
    before, _, after = segments(HALF, HALF, HALF)
    assert numbers(plan([before, after])) == [(10,), (30,)]
