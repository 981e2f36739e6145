"""Looks at a running cluster: at accounts with every commit, at everything now and then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

from ostnode.ids import BlobId, Uid
from ostnode.roles.bucket.views import View
from ostnode.roles.index.core.tables import Tables
from ostnode.sim.invariants import Growing, problems_of, short
from ostnode.sim.model import Account
from ostnode.sim.overhearing import undone_at_bucket, undone_at_index, unsent
from ostnode.sim.pictures import BucketPicture, IndexPicture, picture_bucket, picture_index
from ostnode.sim.stage import Stage
from ostnode.wire.calls import Caller
from ostnode.wire.fields import Message, Request

COMMITS_BETWEEN_LOOKS: Final = 25
_EXPECTED: Final = (
    "the index was set back, and begins anew",
    "bucket was set back, and begins anew",
    "index_was_set_back",
)
"""What nodes log as an error when somebody has put one of them back."""


@dataclass(frozen=True, slots=True)
class _Account:
    """A registration as of the commit before."""

    version: int = 0
    total: int = 0
    limit: int = 0
    charged: set[BlobId] = field(default_factory=set)
    granted: set[BlobId] = field(default_factory=set)


_NEW: Final = _Account()


class Watch:
    """Whoever breaks a promise is caught between two events; `found` says how.

    `news` is set then. Nothing is awaited: a look is at one moment.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage, self.world = stage, stage.world
        self.found: str | None = None
        self.news = trio.Event()
        self.looks = 0
        self._commits = 0
        self._was_set_back = False
        self._up: list[bool] = []
        self._growing = Growing()
        self._accounts: dict[Uid, _Account] = {}

    def start(self) -> None:
        """Look from now on."""
        self.world.index.database.on_commit = self._committed
        self.world.on_crash.append(self._crashed)
        self.world.on_answer.append(self._answered)
        self.stage.on_set_back.append(self._set_back)

    def _set_back(self) -> None:
        self._was_set_back = True
        self._growing = Growing()
        self._accounts.clear()

    def _crashed(self, _name: str) -> None:
        self.look()

    def _committed(self) -> None:
        self._commits += 1
        problems = list(self._misled(self.world.index_tables()))
        if not self.stage.restored:
            self._tell(iter(problems))
        up = [node.running for node in self.world.buckets]
        if self._commits % COMMITS_BETWEEN_LOOKS == 0 or up != self._up:
            self.look()
        self._up = up  # one that is up again shows what it has kept, before it hears anything new

    def _answered(self, name: str, caller: Caller, request: Request, answer: Message) -> None:
        """Nobody is told what a crash at this moment would undo (10)."""
        for problem in self._undone(name, caller, request, answer):
            self._tell(iter([f"{problem} by {name}, and would be undone by a crash"]))

    def _undone(
        self, name: str, caller: Caller, request: Request, answer: Message
    ) -> Iterator[str]:
        for node in self.world.buckets:
            if node.rows is None or node.decided is None:
                continue
            if node.name == name:
                durable, decided = View(node.rows), View(node.decided)
                yield from undone_at_bucket(durable, decided, request, answer)
            elif node.key.principal == caller.principal:
                yield from unsent(View(node.rows), request)
        if name == self.world.index.name:
            yield from undone_at_index(self.world.index_tables(), caller.principal, request, answer)

    def look(self) -> tuple[IndexPicture, list[BucketPicture]]:
        """Check everything that must hold at every moment."""
        self.looks += 1
        index, buckets = self.pictures()
        # What a restored index charges is compared again once it is repaired.
        stage = self.stage
        problems = problems_of(
            index, buckets, agreeing=not stage.restored, single=not stage.old_buckets
        )
        self._tell(problems)
        self._tell(iter(self._growing.look(index, buckets)))
        self._tell(self._unkept(index, buckets))
        for bucket in buckets:
            node = self.world.name_of(bucket.principal)
            self.stage.burned_at[node] = bucket.burned
        self._note_unblocked(index, buckets)
        for error in self.world.errors:
            if not (self._was_set_back and error.startswith(_EXPECTED)):
                lines = error.strip().splitlines()
                self._tell(iter([f"a node logged: {lines[0]} … {lines[-1]}"]))
        return index, buckets

    def pictures(self) -> tuple[IndexPicture, list[BucketPicture]]:
        """What is durable now; buckets that are down are left out."""
        buckets = []
        for node in self.world.buckets:
            rows = self.world.bucket_rows(node.name)
            if rows is not None:
                buckets.append(picture_bucket(node.key.principal, rows))
        return picture_index(self.world.index_tables()), buckets

    def _tell(self, problems: Iterator[str]) -> None:
        if self.found is None:
            self.found = next(problems, None)
            if self.found is not None:
                self.news.set()

    def _misled(self, tables: Tables) -> Iterator[str]:
        """Accounts that were changed as they must not be (2, 3): what adds to one leaves it within
        a limit that may be in force, and what is charged was reserved before.
        """
        limits = {account.uid: account.limits for account in self.stage.model.accounts}
        for user in tables.users.where():
            before = self._accounts.get(user.uid, _NEW)
            if user.version == before.version or user.deleted:
                continue
            total = user.used + user.reserved
            rows = tables.charges.where(uid=user.uid)
            charged = {row.blob_id for row in rows}
            self.stage.note_evictions(user.uid, {row.blob_id for row in rows if row.evicting})
            granted = {row.blob_id for row in tables.grants.where(uid=user.uid)}
            now = _Account(user.version, total, user.byte_limit, charged, granted)
            self._accounts[user.uid] = now
            may_be = limits.get(user.uid, set()) | {user.byte_limit, before.limit, before.total}
            known = before.version or not self._was_set_back
            if known and total > max(may_be):
                yield f"account {short(user.uid)} has {total} of {user.byte_limit} bytes"
            for blob_id in charged - before.charged - before.granted if before.version else ():
                yield f"{short(user.uid)} is charged for blob {short(blob_id)} without a grant"

    def _unkept(self, index: IndexPicture, buckets: list[BucketPicture]) -> Iterator[str]:
        """Every acknowledgement against what is durable (1, 10)."""
        stage, model = self.stage, self.stage.model
        held = {bucket.principal: bucket.references for bucket in buckets}
        yield from model.unkept(held, stage.now, stage.skew_s)
        for accessor in model.burned - index.burned:
            yield f"the deletion of chat {short(accessor)} was acknowledged and is undone"
        for uid in model.dead:
            if not index.users[uid].deleted:
                yield f"the deletion of user {short(uid)} was acknowledged and is undone"
        for account in model.accounts:
            yield from self._unregistered(account, index)
        yield from self._lost_chunks(buckets)
        if not stage.restored:
            yield from self._misplaced(index)

    def _misplaced(self, index: IndexPicture) -> Iterator[str]:
        for blob_id, place in index.placements.items():
            if blob_id not in self.stage.resting.get(place.bucket, {blob_id}):
                name = self.world.name_of(place.bucket)
                yield f"blob {short(blob_id)} was placed in {name}, which is out of use"

    def _unregistered(self, account: Account, index: IndexPicture) -> Iterator[str]:
        user = None if account.uid is None else index.users.get(account.uid)
        if account.uid is not None and (user is None or user.deleted):
            yield f"user {short(account.uid)} was registered and is not"
        elif user is not None and not account.moving and user.principal != account.principal:
            yield f"user {short(user.uid)} has another principal than was acknowledged"

    def _lost_chunks(self, buckets: list[BucketPicture]) -> Iterator[str]:
        acked = self.stage.model.chunks
        for bucket in buckets:
            for grant_id, received in bucket.received.items():
                lost = acked.get(grant_id, set()) - received
                if lost:
                    yield f"chunks {sorted(lost)} of grant {short(grant_id)} were acknowledged"

    def _note_unblocked(self, index: IndexPicture, buckets: list[BucketPicture]) -> None:
        """Who and what was unblocked is so for sure once every bucket has heard of it."""
        if len(buckets) < len(self.world.buckets):
            return

        def everywhere(name: bytes) -> bool:
            row = index.blocked.get(name)
            heard = all(bucket.blocked.get(name) == row for bucket in buckets)
            return heard and (row is None or not row[1])

        for account in self.stage.model.accounts:
            if account.blocked is None and everywhere(account.principal):
                account.blocked = False
        blobs = self.stage.blocked_blobs
        for blob_id in [one for one, sure in blobs.items() if not sure and everywhere(one)]:
            del blobs[blob_id]
