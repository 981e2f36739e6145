"""Which bucket a new blob gets: 16,384 partitions, weighted rendezvous hashing.

A blob's partition is its hash's leading 14 bits. Every bucket has a pseudo-random number per
partition, eight bytes of one BLAKE3 output of its principal; the highest score
`weight / -ln(u)` takes the partition (Schindelhauer and Schomaker 2005). A bucket that comes or
goes moves only the partitions it wins or held. The map only chooses: once a blob is placed, its
placement row is the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Final

from blake3 import blake3

from ostnode.errors import InvalidArgumentError
from ostnode.ids import BlobId, Principal

PARTITION_BITS: Final = 14
PARTITIONS: Final = 1 << PARTITION_BITS
_CONTEXT: Final = "ostnode 2025 placement score of a bucket in a partition"
_SCORE_BYTES: Final = 8
_WEIGHT_BITS: Final = 3


def partition_of(blob_id: BlobId) -> int:
    """The blob's partition, 0 … PARTITIONS - 1."""
    return int.from_bytes(blob_id[:2], "big") >> (16 - PARTITION_BITS)


def weight_of(total_bytes: int) -> int:
    """A disk's size as a weight, to three significant bits.

    A file system whose total drifts a little must not move partitions. An unknown size (0) still
    gets the least weight.
    """
    shift = max(0, total_bytes.bit_length() - _WEIGHT_BITS)
    return max(1, total_bytes >> shift << shift)


class PartitionMap:
    """The bucket of each partition, for one set of weighted buckets.

    A partition is worked out when it is first asked for, about 1 µs per bucket, and remembered:
    no call pays for all partitions at once.
    """

    def __init__(self, weights: Mapping[Principal, int]) -> None:
        if not weights or min(weights.values()) <= 0:
            raise InvalidArgumentError("a partition map needs buckets of positive weight")
        self.weights = dict(weights)
        self._scorers = [
            (weight, bucket, blake3(bucket, derive_key_context=_CONTEXT))
            for bucket, weight in sorted(weights.items())
        ]
        self._winners: list[Principal | None] = [None] * PARTITIONS

    def bucket_of(self, blob_id: BlobId) -> Principal:
        """The bucket a new blob goes to."""
        partition = partition_of(blob_id)
        winner = self._winners[partition]
        if winner is None:
            winner = self._winners[partition] = self._winner(partition)
        return winner

    def _winner(self, partition: int) -> Principal:
        at = partition * _SCORE_BYTES
        return max(
            (weight / -log(_fraction(scorer.digest(_SCORE_BYTES, seek=at))), bucket)
            for weight, bucket, scorer in self._scorers
        )[1]


def _fraction(score: bytes) -> float:
    """Eight bytes as a number strictly between 0 and 1, exact in a double."""
    return ((int.from_bytes(score, "big") >> 12) + 0.5) / (1 << 52)
