"""Where staged records go: which groups share a batch."""

from __future__ import annotations

from ostnode.store.record import KIND_MARKER
from ostnode.store.staging import Batch, Position, Staging
from tests.support.storekit import SMALL, set_


def new_staging() -> Staging:
    staging = Staging(Position(1, 1, 1), SMALL.segment_bytes, SMALL.batch_bytes_max)
    staging.provided(1, SMALL.segment_bytes)
    return staging


def staged(staging: Staging, name: str) -> Batch:
    plan = staging.plan([set_(name)])
    staging.accept(plan)
    return plan.batch


def test_groups_that_wait_share_a_batch() -> None:
    staging = new_staging()
    assert staged(staging, "a") is staged(staging, "b")


def test_b57_records_staged_behind_a_waiting_marker_get_a_marker_of_their_own() -> None:
    # The writer closes a burst when the batch begins with a role's record, and gives back what
    # was admitted: a batch that began with the marker would be neither closed nor reckoned up.
    staging = new_staging()
    staged(staging, "a")
    staging.queue.popleft()
    staging.close_burst()
    batch = staged(staging, "b")
    assert [len(waiting.records) for waiting in staging.queue] == [1, 1]
    assert staging.queue[0].records[0].kind == KIND_MARKER
    assert staging.queue[1] is batch
    assert batch.number == staging.queue[0].number + 1
    assert batch.offset == staging.queue[0].end


def test_a_batch_finds_a_record_by_its_extent_alone() -> None:
    staging = new_staging()
    first = staged(staging, "a")
    staging.queue.popleft()
    second = staged(staging, "b")
    assert staged(staging, "c") is second
    extents = [record.extent for record in first.records + second.records]
    assert [first.find(extent) for extent in extents] == [0, None, None]
    assert [second.find(extent) for extent in extents] == [None, 0, 1]
    last = extents[-1]
    assert second.find(last._replace(length=0)) is None
    assert second.find(last._replace(offset=last.offset + 8)) is None
    assert second.find(last._replace(segment=2)) is None


def test_only_a_batch_with_others_behind_it_is_closed() -> None:
    staging = new_staging()
    assert staging.take_closed() is None
    first = staged(staging, "a")
    assert staging.take_closed() is None
    staging.close_segment()
    assert staging.take_closed() is first
    assert staging.take_closed() is None
