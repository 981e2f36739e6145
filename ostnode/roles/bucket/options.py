"""How a bucket is set up."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ostnode.identity.tokens import TokenLimits
from ostnode.ids import ClusterId, Principal
from ostnode.roles.bucket.core.rules import Rules
from ostnode.store.store import StoreOptions


def no_address(bucket: Principal) -> str:
    """Of a bucket that knows no other."""
    del bucket
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepOptions:
    """Background work. Rates are bytes per second; times are seconds.

    A sealed segment is compacted when less than `compact_below` of what it takes on the disk is
    needed; that is looked for every `compaction_interval_s`. Everything is read again within
    `scrub_period_s`.
    """

    compact_below: float = 0.5
    compaction_rate: int = 64 << 20
    compaction_interval_s: float = 60.0
    scrub_period_s: float = 14 * 86_400.0
    scrub_rate_max: int = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketOptions:
    """Times are seconds. At least two segments of the disk are left alone, or `free_bytes_min`.

    The floor follows the index's clock at most every `floor_interval_s`; the index hears of the
    disk's space at least every `space_interval_s`; sweeps start when there is cause, and every
    `sweep_interval_s`. `index` is the key under which the bucket first knew its index; `index_keys`
    says with which that may sign now, by default this one. `zone` is what the bucket fails together
    with, `weight` its share of new blobs, 0 for the size of its disk. `address_of` tells where
    another bucket is, empty when nobody here knows.
    """

    principal: Principal
    index: Principal
    cluster_id: ClusterId
    user_uploads_max: int = 64
    user_references_max: int = 1_000_000
    upload_ttl_s: int = 24 * 3600
    free_bytes_min: int = 64 << 20
    floor_interval_s: float = 60.0
    space_interval_s: float = 10.0
    sweep_interval_s: float = 1.0
    zone: str = ""
    weight: int = 0
    index_keys: Callable[[], Collection[Principal]] | None = None
    address_of: Callable[[Principal], str] = no_address
    tokens: TokenLimits = field(default_factory=TokenLimits)
    store: StoreOptions = field(default_factory=StoreOptions)
    upkeep: UpkeepOptions = field(default_factory=UpkeepOptions)

    def signers(self) -> Collection[Principal]:
        """Whose grants count now."""
        return self.index_keys() if self.index_keys else (self.index,)

    @property
    def rules(self) -> Rules:
        """What decisions go by."""
        return Rules(
            bucket=self.principal,
            user_uploads_max=self.user_uploads_max,
            user_references_max=self.user_references_max,
            # The log takes its room a segment at a time, and leaves some at the end of each: beside
            # what is promised one more may be begun, and the next is made before that is full.
            free_bytes_min=max(self.free_bytes_min, 2 * self.store.segment_bytes),
            skew_s=self.tokens.skew_s,
        )
