"""Builds with one thing wrong each, which the simulator must find."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
import trio

from ostnode.roles.bucket import liveness
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core import admission, sync, uploads
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.desk import Desk
from ostnode.roles.bucket.records import Kind
from ostnode.roles.index import service as index_service
from ostnode.roles.index.core import eviction, ledger, outbox
from ostnode.roles.index.core.buckets import Chooser
from ostnode.store.schema import Worth
from ostnode.wire import messages as m


@dataclass(frozen=True)
class Mutant:
    """What is wrong, how to make it so, and how many seeds are tried."""

    name: str
    apply: Callable[[pytest.MonkeyPatch], None]
    seeds: int = 6


def _double_decrement(patch: pytest.MonkeyPatch) -> None:
    """What is freed is taken from the account twice."""
    right = ledger._change_account

    def change(tables, uid, *, used=0, reserved=0, blobs=0, grants=0):
        user = tables.users.get(uid)
        if used < 0 and user is not None and user.used + 2 * used >= 0:
            used *= 2
        right(tables, uid, used=used, reserved=reserved, blobs=blobs, grants=grants)

    patch.setattr(ledger, "_change_account", change)


def _reservation_kept(patch: pytest.MonkeyPatch) -> None:
    """A grant that its bucket closes without a completion goes on reserving."""
    right = outbox._apply

    def apply(tables, bucket, event, *more):
        if type(event).__name__ == "GrantClosed" and event.reason == "revoked":
            return m.ClosedEnd(event.grant_id, bucket.floor)
        return right(tables, bucket, event, *more)

    patch.setattr(outbox, "_apply", apply)


class _TakenBackError(Exception):
    """Has a transaction undone, though its result is known."""


def _acknowledged_early(patch: pytest.MonkeyPatch) -> None:
    """The bucket hears that its events are applied a moment before the index commits them."""
    right = index_service.sync_bucket
    known: dict[bytes, m.SyncResult] = {}

    def sync_early(tables, rules, bucket, *more):
        result = right(tables, rules, bucket, *more)
        known[bucket] = result
        raise _TakenBackError

    async def answer(self, caller, request):
        if not isinstance(request, m.SyncBucket) or not request.events:
            return await asked(self, caller, request)
        patch.setattr(index_service, "sync_bucket", sync_early)
        try:
            with suppress(_TakenBackError):
                await asked(self, caller, request)
            early = known.pop(self.membership.bucket_of(caller))
        finally:
            patch.setattr(index_service, "sync_bucket", right)

        async def commit() -> None:
            await trio.sleep(0.2)
            with suppress(Exception):
                await asked(self, caller, request)

        trio.lowlevel.spawn_system_task(commit)
        return early

    asked = index_service.IndexService._answer
    patch.setattr(index_service.IndexService, "_answer", answer)


def _feed_out_of_order(patch: pytest.MonkeyPatch) -> None:
    """A long batch is cut at its beginning instead of its end."""
    right = index_service.read_feed

    def read(*args):
        batch = right(*args)
        return replace(batch, events=batch.events[-2:])

    patch.setattr(index_service, "read_feed", read)


def _floor_unchecked(patch: pytest.MonkeyPatch) -> None:
    """A grant is good until its own time, whatever floor the index was told."""
    number = Draft.number

    def unchecked(right):
        def decide(draft, *args, **kwargs):
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(
                    Draft, "number", lambda self, key: number(self, key) * (key != t.FLOOR)
                )
                return right(draft, *args, **kwargs)

        return decide

    patch.setattr(admission, "_check_grant", lambda view, ask: None)
    patch.setattr("ostnode.roles.bucket.completions.finish", unchecked(uploads.finish))


def _closed_grant_accepted(patch: pytest.MonkeyPatch) -> None:
    """A dead grant may be used again."""

    def answer(view, rules, upload, closed, now):
        return None

    patch.setattr(admission, "answer_again", answer)
    patch.setattr(uploads, "answer_again", answer)


def _burned_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Compaction drops the records of burned accessors."""
    right = liveness.worth_of

    def worth(record, rows):
        if record.kind == Kind.ACCESSOR_BURNED:
            return Worth.DEAD
        return right(record, rows)

    patch.setattr("ostnode.roles.bucket.schema.worth_of", worth)


def _applied_twice(patch: pytest.MonkeyPatch) -> None:
    """Events that come again are applied again, and charge again."""
    right = outbox._admitted

    def admitted(tables, principal, request, *more):
        bucket = right(tables, principal, request, *more)
        return replace(bucket, acked_seq=min(bucket.acked_seq, request.first_seq - 1))

    def add(tables, charge):
        tables.charges.put(charge)
        ledger._change_account(tables, charge.uid, used=charge.size, blobs=1)
        ledger._change_placement(tables, charge.blob_id, charge.bucket, charges=1)

    patch.setattr(outbox, "_admitted", admitted)
    patch.setattr(ledger, "add_charge", add)


def _answered_before_sync(patch: pytest.MonkeyPatch) -> None:
    """A bucket answers before what it has decided is on the disk."""

    async def decide(self, decision, nbytes=4096):
        store = self._store
        async with store.admit(nbytes):
            draft = Draft(store.state, store.next_seq)
            answer = decision(draft)
            self._stage(draft)
        if isinstance(answer, Exception):
            raise answer
        return answer

    patch.setattr(Desk, "decide", decide)


def _overdrawn(patch: pytest.MonkeyPatch) -> None:
    """What is reserved does not count against the limit."""
    right = eviction.lack_of

    def lack(user, rules, size):
        return right(replace(user, reserved=0), rules, size)

    patch.setattr(eviction, "lack_of", lack)


def _blob_kept(patch: pytest.MonkeyPatch) -> None:
    """What has no references any more is not collected."""
    patch.setattr(Draft, "release", lambda self, blob_id: None)


def _blob_dropped(patch: pytest.MonkeyPatch) -> None:
    """The first reference to go takes the blob with it."""
    right = Draft.needed

    def needed(self, blob_id):
        return right(self, blob_id) and not self.records

    patch.setattr(Draft, "needed", needed)


def _cursor_first(patch: pytest.MonkeyPatch) -> None:
    """The place in the feed is written down before what was read there."""
    right = sync.apply_feed

    def apply(draft, events, *more):
        right(draft, events[:-1], *more)

    patch.setattr("ostnode.roles.bucket.talking.apply_feed", apply)


def _two_copies(patch: pytest.MonkeyPatch) -> None:
    """A blob's bucket is chosen anew with every grant."""

    def bucket_for(self, tables, blob_id, size=0):
        buckets = sorted(tables.buckets.where(), key=lambda row: row.principal)
        grants = tables.placements.get(blob_id)
        return buckets[0 if grants is None else grants.charges % len(buckets)]

    patch.setattr(Chooser, "bucket_for", bucket_for)


MUTANTS = (
    Mutant("double decrement", _double_decrement),
    Mutant("reservation not freed", _reservation_kept),
    Mutant("outbox acknowledged before the commit", _acknowledged_early),
    Mutant("feed out of order", _feed_out_of_order),
    Mutant("grant floor not checked", _floor_unchecked, seeds=12),
    Mutant("closed grant accepted", _closed_grant_accepted, seeds=10),
    Mutant("burned accessor forgotten by compaction", _burned_forgotten),
    Mutant("event applied twice", _applied_twice),
    Mutant("answered before the sync", _answered_before_sync),
    Mutant("reservations not counted", _overdrawn, seeds=12),
    Mutant("blob not collected", _blob_kept),
    Mutant("blob collected too early", _blob_dropped),
    Mutant("feed cursor before its events", _cursor_first),
    Mutant("two copies of a blob", _two_copies),
)
