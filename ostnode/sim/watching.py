"""Looks at a running cluster: at accounts with every commit, at everything now and then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import trio

from ostnode.ids import Uid
from ostnode.roles.index.core.rows import User
from ostnode.sim.invariants import Growing, problems_of, short
from ostnode.sim.model import Account
from ostnode.sim.pictures import BucketPicture, IndexPicture, picture_bucket, picture_index
from ostnode.sim.stage import Stage

COMMITS_BETWEEN_LOOKS: Final = 25


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
        self._growing = Growing()
        self._sums: dict[Uid, tuple[int, int]] = {}

    def start(self) -> None:
        """Look from now on."""
        self.world.index.database.on_commit = self._committed
        self.world.on_crash.append(self._crashed)

    def _crashed(self, _name: str) -> None:
        self.look()

    def _committed(self) -> None:
        self._commits += 1
        self._tell(self._overdrawn(self.world.index_tables().users.where()))
        if self._commits % COMMITS_BETWEEN_LOOKS == 0:
            self.look()

    def look(self) -> tuple[IndexPicture, list[BucketPicture]]:
        """Check everything that must hold at every moment."""
        self.looks += 1
        index, buckets = self.pictures()
        self._tell(problems_of(index, buckets))
        self._tell(iter(self._growing.look(index, buckets)))
        self._tell(self._unkept(index, buckets))
        for bucket in buckets:
            node = self.world.name_of(bucket.principal)
            self.stage.burned_at[node] = bucket.burned
        self._note_unblocked(index, buckets)
        if self.world.errors:
            self._tell(iter(f"a node logged: {error}" for error in self.world.errors[:1]))
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

    def _overdrawn(self, users: list[User]) -> Iterator[str]:
        """What adds to an account leaves it within a limit that may be in force."""
        limits = {account.uid: account.limits for account in self.stage.model.accounts}
        for user in users:
            total = user.used + user.reserved
            before, limit = self._sums.get(user.uid, (0, user.byte_limit))
            self._sums[user.uid] = total, user.byte_limit
            most = max(limit, user.byte_limit, before, *limits.get(user.uid, ()))
            if total > most and not user.deleted:
                yield f"account {short(user.uid)} has {total} of {user.byte_limit} bytes"

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
        if len(buckets) < len(self.world.buckets):
            return
        for account in self.stage.model.accounts:
            row = index.blocked.get(account.principal)
            heard = all(bucket.blocked.get(account.principal) == row for bucket in buckets)
            if account.blocked is None and heard and (row is None or not row[1]):
                account.blocked = False
