"""The partition map: balanced, weighted, and moving no more than it must."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from ostnode.errors import InvalidArgumentError
from ostnode.ids import BlobId, Principal
from ostnode.placement import PARTITIONS, PartitionMap, Site, partition_of, weight_of

RANDOM = random.Random(5)
BUCKETS = [Principal(RANDOM.randbytes(32)) for _ in range(8)]
EVEN = {bucket: Site(1) for bucket in BUCKETS}
ALL = [BlobId((number << 2).to_bytes(2, "big") + bytes(30)) for number in range(PARTITIONS)]


def test_a_partition_is_the_leading_14_bits() -> None:
    assert partition_of(BlobId(b"\xff" * 32)) == PARTITIONS - 1
    assert partition_of(BlobId(b"\x00\x03" + b"\xff" * 30)) == 0
    assert partition_of(BlobId(b"\x00\x04" + bytes(30))) == 1
    assert [partition_of(blob_id) for blob_id in ALL] == list(range(PARTITIONS))


@pytest.mark.slow
def test_load_is_even_for_equal_weights() -> None:
    chosen = PartitionMap(EVEN)
    load = Counter(map(chosen.bucket_of, ALL))
    ideal = PARTITIONS / len(BUCKETS)
    assert min(load.values()) / ideal > 0.93
    assert max(load.values()) / ideal < 1.07


@pytest.mark.slow
def test_load_follows_the_weights() -> None:
    chosen = PartitionMap({BUCKETS[0]: Site(3), BUCKETS[1]: Site(1)})
    load = Counter(map(chosen.bucket_of, ALL))
    assert 0.73 < load[BUCKETS[0]] / PARTITIONS < 0.77


@pytest.mark.slow
def test_a_new_bucket_takes_only_what_it_wins() -> None:
    before = PartitionMap({bucket: Site(1) for bucket in BUCKETS[:7]})
    after = PartitionMap(EVEN)
    moved = [
        after.bucket_of(each) for each in ALL if before.bucket_of(each) != after.bucket_of(each)
    ]
    assert set(moved) == {BUCKETS[7]}


def test_the_choice_does_not_depend_on_the_order_given() -> None:
    one = PartitionMap(EVEN)
    other = PartitionMap(dict(reversed(EVEN.items())))
    some = ALL[::97]
    assert [one.bucket_of(each) for each in some] == [other.bucket_of(each) for each in some]
    # Asked again, and from the middle: remembered partitions are the same ones.
    assert [one.bucket_of(each) for each in reversed(some)] == [
        other.bucket_of(each) for each in reversed(some)
    ]


def test_the_choice_is_fixed_for_ever() -> None:
    """A known answer: a changed hash or score would move every new blob."""
    fixed = PartitionMap({Principal(bytes([i]) * 32): Site(i) for i in range(1, 6)})
    assert [fixed.bucket_of(blob_id)[0] for blob_id in ALL[::2000]] == [3, 5, 4, 2, 5, 4, 4, 5, 3]


@pytest.mark.parametrize(
    "sites", [{}, {BUCKETS[0]: Site(0)}, {BUCKETS[0]: Site(1), BUCKETS[1]: Site(-1)}]
)
def test_nothing_to_choose_from_is_refused(sites: dict[Principal, Site]) -> None:
    with pytest.raises(InvalidArgumentError):
        PartitionMap(sites)


def test_no_replica_at_all_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        PartitionMap(EVEN, replicas=0)


@pytest.mark.parametrize(
    ("total", "weight"), [(0, 1), (1, 1), (7, 7), (9, 8), (1 << 40, 1 << 40), (1023, 896)]
)
def test_a_weight_keeps_three_bits(total: int, weight: int) -> None:
    assert weight_of(total) == weight
