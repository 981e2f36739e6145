"""Which buckets a new blob gets: 16,384 partitions, weighted rendezvous hashing.

A blob's partition is its hash's leading 14 bits. Every bucket has a pseudo-random number per
partition, eight bytes of one BLAKE3 output of its principal; the higher its score
`weight / -ln(u)`, the earlier the bucket comes (Schindelhauer and Schomaker 2005). A bucket that
comes or goes moves only the partitions it wins or held. The map only chooses: once a blob is
placed, its placement row is the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
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


@dataclass(frozen=True, slots=True)
class Site:
    """What the map knows of a bucket: its share of new blobs, and what it fails together with.

    Buckets that tell no zone are taken to share one.
    """

    weight: int
    zone: str = ""


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
    """The buckets of each partition, for one set of sites and a number of replicas.

    A partition is worked out when it is first asked for, about 1 µs per bucket, and remembered:
    no call pays for all partitions at once.
    """

    def __init__(self, sites: Mapping[Principal, Site], replicas: int = 1) -> None:
        if not sites or min(site.weight for site in sites.values()) <= 0:
            raise InvalidArgumentError("a partition map needs buckets of positive weight")
        if replicas < 1:
            raise InvalidArgumentError("a blob has at least one replica")
        self.sites = dict(sites)
        self._replicas = min(replicas, len(sites))
        self._scorers = [
            (site.weight, bucket, blake3(bucket, derive_key_context=_CONTEXT))
            for bucket, site in sorted(sites.items())
        ]
        self._chosen: list[tuple[Principal, ...] | None] = [None] * PARTITIONS

    def bucket_of(self, blob_id: BlobId) -> Principal:
        """The first bucket of a new blob. Zones do not bear on it."""
        return self.buckets_of(blob_id)[0]

    def buckets_of(self, blob_id: BlobId) -> Sequence[Principal]:
        """The buckets of a new blob's replicas, fewer only where there are fewer buckets.

        They are of different zones as far as there are enough zones.
        """
        partition = partition_of(blob_id)
        chosen = self._chosen[partition]
        if chosen is None:
            chosen = self._chosen[partition] = self._choose(partition)
        return chosen

    def _choose(self, partition: int) -> tuple[Principal, ...]:
        at = partition * _SCORE_BYTES
        scored = [
            (weight / -log(_fraction(scorer.digest(_SCORE_BYTES, seek=at))), bucket)
            for weight, bucket, scorer in self._scorers
        ]
        if self._replicas == 1:
            return (max(scored)[1],)
        ranked = [bucket for _, bucket in nlargest(len(scored), scored)]
        firsts = {self.sites[bucket].zone: bucket for bucket in reversed(ranked)}
        # The best of each zone, in order; where zones run out, the best of all that are left.
        apart = [bucket for bucket in ranked if firsts[self.sites[bucket].zone] == bucket]
        rest = (bucket for bucket in ranked if bucket not in apart)
        return tuple(islice([*apart, *rest], self._replicas))


def _fraction(score: bytes) -> float:
    """Eight bytes as a number strictly between 0 and 1, exact in a double."""
    return ((int.from_bytes(score, "big") >> 12) + 0.5) / (1 << 52)
