"""Bits flipped in every class of bytes of a segment: what was said of it, and what still serves.

Whatever is hit and whatever key index there is: the store starts, serves no wrong byte, keeps
every record that was not hit, and reports those that it could not keep.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random

import pytest

from ostnode.store.format import SEGMENT_HEADER_BYTES
from tests.support.damagekit import (
    HARMLESS,
    INDEXES,
    ROLES,
    Known,
    Region,
    is_reported,
    judge,
    known,
    look,
)

SAMPLES = 2
"""Flips per class of bytes and key index."""
BURSTS = 300
SPARE = frozenset({"footer", "trailer", "nothing yet"})
"""Classes that the records can do without."""


@pytest.fixture(scope="module")
def log() -> Known:
    return known()


def expected(region: Region, index: str) -> set[str]:
    """What may come of one flipped bit."""
    what = region.what
    kind, _, field = what.partition(" ")
    if what in HARMLESS or kind == "marker":
        return {"whole"}
    if what in SPARE or kind == "seal":
        return {"whole", "whole and reported"}
    if kind == "bulk":
        return {"refused when read", "refused and reported", "lost and reported"}
    indexed = index == "kept" or (index == "old" and region.role == ROLES[0])
    if indexed or field != "payload":
        return {"whole", "whole and reported", "lost and reported"}
    return {"lost and reported"}


@pytest.mark.slow
def test_b41_one_bit_in_every_class_of_bytes(log: Known) -> None:
    rng = Random(41)
    classes = defaultdict(list)
    for region in log.regions:
        classes[region.name].append(region)
    words: Counter[str] = Counter()
    for name, regions in classes.items():
        for index in INDEXES:
            for _ in range(SAMPLES):
                region = rng.choice(regions)
                offset, mask = rng.randrange(region.start, region.end), 1 << rng.randrange(8)
                found = judge(log, region.segment, offset, bytes([mask]), index)
                assert found in expected(region, index), f"{name} at {offset}, {index} index"
                words[found] += 1
    print(f"{words.total()} flips in {len(classes)} classes of bytes: {dict(words)}")
    assert len(classes) >= 100
    assert len(words) == 5


@pytest.mark.slow
def test_b41_bursts(log: Known) -> None:
    """Sectors lost and runs of bytes overwritten, across the borders of classes.

    Not from the last records into the marker that proves them: that cannot be told from a tear.
    """
    rng = Random(42)
    words: Counter[str] = Counter()
    for number in range(BURSTS):
        region = rng.choice(log.regions)
        length = rng.choice((2, 8, 100, 512))
        start = max(0, rng.randrange(region.start, region.end) - rng.randrange(length))
        size = max(r.end for r in log.regions if r.segment == region.segment)
        mask = rng.randbytes(min(length, size - start))
        hit = log.hit(region.segment, start, len(mask))
        if any(r.row for r in hit) and any(r.what == "marker magic" for r in hit):
            continue
        words[judge(log, region.segment, start, mask, INDEXES[number % 3])] += 1
    print(f"{words.total()} bursts: {dict(words)}")


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("segment", [1, 2, 3])
def test_b41_both_copies_of_a_header(log: Known, segment: int, index: str) -> None:
    """Everything in that segment may be lost, nothing in another."""
    outcome = look(log, log.damaged(segment, 0, bytes([1]) * SEGMENT_HEADER_BYTES, index))
    rows = {region.row for region in log.regions if region.segment == segment}
    assert outcome.wrong == []
    assert outcome.refused | outcome.absent <= rows
    assert outcome.refused | outcome.absent
    assert is_reported(outcome, segment, 0)


@pytest.mark.deep
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("index", INDEXES)
def test_b41_every_bit_of_a_segment(log: Known, role: str, index: str) -> None:
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for region in log.regions:
        if region.role != role:
            continue
        step = 61 if region.what in {"tail", "header rest", "nothing yet"} else 1
        for bit in range(region.start * 8, region.end * 8, step):
            found = judge(log, region.segment, bit // 8, bytes([1 << bit % 8]), index)
            assert found in expected(region, index), f"{region.name} at bit {bit}"
            words[region.what][found] += 1
    for what, counts in words.items():
        print(f"{what}: {dict(counts)}")
