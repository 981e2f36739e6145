"""How an index is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ostnode.identity.tokens import TokenLimits
from ostnode.ids import ClusterId, Principal
from ostnode.roles.index.core.rules import Rules
from ostnode.roles.index.provider import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """`buckets` are members beforehand; without `data_dir` the database is in memory.

    `peer` is where buckets reach the index, empty when its config does not say. `successor` is the
    key to come, which the roster announces; after the switch to it the one before counts for
    `key_overlap_s` more.
    A bucket that is silent for `lost_after_s` is lost. `provider` makes buckets when there are too
    few, none when it is None; one that has not reported `provision_retry_s` later is ordered again.
    Apps do not block `operators`.
    Bytes left are pushed to buckets at most every `push_interval_s`; everything else at once.
    """

    cluster_id: ClusterId
    buckets: tuple[Principal, ...]
    peer: str = ""
    successor: Principal | None = None
    key_overlap_s: int = 7 * 86_400
    data_dir: Path | None = None
    rules: Rules = field(default_factory=Rules)
    tokens: TokenLimits = field(default_factory=TokenLimits)
    push_interval_s: float = 1.0
    operators: frozenset[Principal] = frozenset()
    lost_after_s: float = 300.0
    provider: Provider | None = None
    provision_retry_s: int = 600
