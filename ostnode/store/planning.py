"""Which segments to rewrite together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ostnode.store.format import SEGMENT_HEADER_BYTES, seal_bytes
from ostnode.store.judging import Judgement

_SMALL_PART: Final = 4
"""Segments below this part of a full one are joined with their neighbours."""
_JOIN_MIN: Final = 4


@dataclass(frozen=True, slots=True)
class Run:
    """Adjacent segments, in the order of the log, that one output is to stand for."""

    segments: tuple[int, ...]
    first_seq: int
    last_seq: int
    keeps_bytes: int
    """At most what the output takes."""
    frees_bytes: int
    """What is given back when nothing more dies, and the tombstones go that were judged free."""


def plan_compaction(
    judgements: Sequence[Judgement],
    *,
    live_share_max: float,
    segment_bytes: int,
    records_max: int,
) -> list[Run]:
    """Runs worth rewriting, in the order of the log; `judgements` are in that order.

    A segment is rewritten when at most `live_share_max` of what it takes on the disk is needed,
    and, when that gets smaller, with its neighbours. Small ones are joined, four and more, and only
    when the largest is not more than the others together: so a record is copied a logarithmic
    number of times, however often the store is restarted.
    """
    runs, at = [], 0
    worth = [_worth_it(judgement, live_share_max) for judgement in judgements]
    small = [j.allocated < segment_bytes // _SMALL_PART for j in judgements]
    while at < len(judgements):
        end = at
        while end < len(judgements) and (worth[end] or small[end]):
            if end > at and not _joins(judgements[at : end + 1], segment_bytes, records_max):
                break
            end += 1
        group = judgements[at:end]
        if any(worth[at:end]) or _worth_joining(group):
            runs.append(_run(group))
            at = end
        else:
            at += 1
    return runs


def _needed(judgement: Judgement) -> int:
    tombstones = 0 if judgement.tombstones_free else judgement.tombstone_bytes
    return judgement.live_bytes + tombstones


def _output_bytes(group: Sequence[Judgement]) -> int:
    """What the output takes when every tombstone has to be kept."""
    records = sum(judgement.live_bytes + judgement.tombstone_bytes for judgement in group)
    return SEGMENT_HEADER_BYTES + records + seal_bytes(sum(judgement.kept for judgement in group))


def _worth_it(judgement: Judgement, live_share_max: float) -> bool:
    needed = _needed(judgement)
    if needed > live_share_max * judgement.allocated:
        return False
    droppable = judgement.dead_bytes + judgement.tombstone_bytes + judgement.live_bytes - needed
    return droppable > 0 and _left_bytes([judgement]) < judgement.allocated


def _left_bytes(group: Sequence[Judgement]) -> int:
    """What the output takes when the tombstones go that were judged free."""
    records = sum(judgement.kept for judgement in group)
    free = sum(judgement.tombstones for judgement in group if judgement.tombstones_free)
    return SEGMENT_HEADER_BYTES + sum(map(_needed, group)) + seal_bytes(records - free)


def _joins(group: Sequence[Judgement], segment_bytes: int, records_max: int) -> bool:
    """Whether the last of the group lies next to the others and they fit one output."""
    before, last = group[-2:]
    if before.last_seq + 1 != last.first_seq:
        return False
    fits = _output_bytes(group) <= segment_bytes
    return fits and sum(judgement.kept for judgement in group) <= records_max


def _worth_joining(group: Sequence[Judgement]) -> bool:
    if len(group) < _JOIN_MIN:
        return False
    sizes = [judgement.allocated for judgement in group]
    return 2 * max(sizes) <= sum(sizes)


def _run(group: Sequence[Judgement]) -> Run:
    return Run(
        tuple(judgement.number for judgement in group),
        group[0].first_seq,
        group[-1].last_seq,
        _output_bytes(group),
        max(0, sum(judgement.allocated for judgement in group) - _left_bytes(group)),
    )
