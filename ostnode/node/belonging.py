"""A bucket's place in its cluster: which index is its own, joining it, and the newest roster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import structlog

from ostnode.config import BucketConfig, JoinToken
from ostnode.env import Worker
from ostnode.errors import InternalError, NotAuthorizedError, OstError, TokenInvalidError
from ostnode.ids import ClusterId, Principal, PrincipalKind
from ostnode.net.link import Link
from ostnode.node.errors import StartError
from ostnode.node.memory import Memory, Remembered
from ostnode.wire import membership as mb
from ostnode.wire.fields import Message, Request
from ostnode.wire.roster import Roster, RosterKey, open_roster

R = TypeVar("R", bound=Message)

APPROVED: Final = "approved"
PENDING: Final = "pending"
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IndexPlace:
    """The index that a bucket belongs to, as its config, its memory or a join token says."""

    index: Principal
    peer: str
    token: JoinToken | None
    """To be shown when the index does not know this bucket."""


def find_index(
    name: str, table: BucketConfig, cluster: ClusterId, remembered: Remembered | None
) -> IndexPlace:
    """Which index `name` belongs to; raises StartError when nothing says so, or two differ."""
    if remembered is not None and remembered.cluster_id != cluster:
        raise StartError(
            f"{name} has joined another cluster", f"check cluster_id and {name}.data_dir"
        )
    if table.index is not None:
        place = IndexPlace(table.index, table.index_peer, None)
    elif table.join is not None:
        place = IndexPlace(table.join.index, table.join.peer, table.join)
    elif remembered is not None:
        place = IndexPlace(remembered.index, remembered.index_peer, None)
    else:
        hint = f"give {name}.join, which `ostnode bucket invite` prints, or index and index_peer"
        raise StartError(f"{name} has joined no index yet", hint)
    if remembered is not None and place.index not in remembered.index_names():
        raise StartError(
            f"{name} has joined another index", f"check {name}.index or join, and {name}.data_dir"
        )
    return place


def counting(keys: Iterable[RosterKey], now: float) -> tuple[Principal, ...]:
    """Those of an index's keys that count now."""
    return tuple(each.key for each in keys if not each.until or now <= each.until)


class Belonging:
    """Kept across links and restarts: `enter` each new link, then `follow` beside the work.

    `bucket` is the bucket's name, `key` what this process signs with, `changes` are those by which
    it came to it.
    """

    def __init__(
        self,
        place: IndexPlace,
        bucket: Principal,
        key: Principal,
        cluster: ClusterId,
        remembered: Remembered | None,
        file: Memory,
        worker: Worker,
        now: Callable[[], float],
        *,
        changes: Sequence[mb.ChangeBucketKey] = (),
    ) -> None:
        self.place = place
        self.bucket = bucket
        self._key = key
        self._cluster = cluster
        self._file = file
        self._worker = worker
        self._known = remembered or Remembered(cluster, bucket, place.index, place.peer)
        self._saved = remembered is not None
        self._now = now
        self._changes = changes
        self._token_refused = False
        self._superseded = False
        self._told = 0
        self._dials = 0
        self._keys = self._known.keys
        self._roster: Roster | None = None
        self._addresses: dict[Principal, str] = {}
        self._problem = ""

    @property
    def epoch(self) -> int:
        """Of the newest roster ever seen here."""
        return self._known.epoch

    def index_keys(self) -> tuple[Principal, ...]:
        """With what the index may sign now, and answer at its peer address."""
        return counting(self._keys, self._now()) or (self.place.index,)

    def address_of(self, bucket: Principal) -> str:
        """Where another bucket answers over HTTP; empty until the roster says so."""
        return self._addresses.get(bucket, "")

    def expected(self) -> Principal:
        """Whom to dial: another of its keys each time, until `reached`."""
        keys = self.index_keys()
        key = keys[self._dials % len(keys)]
        self._dials += 1
        return key

    def reached(self) -> None:
        """The index answered under the key that was expected last."""
        self._dials -= 1

    def checks(self) -> Mapping[str, str]:
        """For /readyz."""
        return {"membership": self._problem}

    async def enter(self, link: Link) -> None:
        """Return once this bucket is approved, having joined first if it must.

        Raises what the index refuses with.
        """
        try:
            signed = await self._heard(link, wait_ms=0)
        except NotAuthorizedError as refusal:
            await self._make_known(link, refusal)
            signed = await self._heard(link, wait_ms=0)
        await self._take(signed)
        while self._state() == PENDING:
            self._problem = "pending: an operator must approve it (`ostnode bucket approve`)"
            await self._ask(link, wait_ms=mb.ROSTER_WAIT_MS_MAX)

    async def follow(self, link: Link) -> None:
        """Take every new roster, until the link fails."""
        while True:
            await self._ask(link, wait_ms=mb.ROSTER_WAIT_MS_MAX)

    async def _make_known(self, link: Link, refusal: NotAuthorizedError) -> None:
        """Show what may make the index know this bucket; raises what it refuses with.

        One that has changed its key does not join: it would get that key for its name. A secret
        that was refused is not shown again: whoever copies it right would find the token used up.
        """
        if self._superseded:
            self._problem = "another key has followed the one it runs with: start it again"
            raise refusal
        if self._token_refused:
            raise refusal  # what was said of the token still holds
        self._problem = "the index does not take the key it runs with: see `ostnode bucket ls`"
        if self._key != self.bucket:
            await self._show_changes(link, refusal)
        elif self.place.token is None:
            raise refusal
        else:
            await self._join(link, self.place.token)

    async def _show_changes(self, link: Link, refusal: NotAuthorizedError) -> None:
        """From the key by which an index knows the bucket that was set back, to the present one."""
        taken = 0
        for change in self._changes:
            # One that it knows of, or does not need; or the file was tampered with.
            with suppress(NotAuthorizedError, TokenInvalidError):
                await _call(link, change, mb.KeyChanged)
                taken += 1
        if not taken:
            raise refusal
        _log.warning(
            "key_changes_shown_again", bucket=self.bucket.text(PrincipalKind.BUCKET), taken=taken
        )

    async def _join(self, link: Link, token: JoinToken) -> None:
        try:
            standing = await _call(link, mb.Join(token.invite_id, token.secret), mb.Standing)
        except OstError as error:
            self._token_refused = isinstance(error, TokenInvalidError)
            self._problem = f"the index refuses to let it join: {error.message}"
            if self._token_refused:
                self._problem += ", put its line into the config, and start again"
            _log.warning("join_refused", reason=error.message)
            raise
        _log.info("joined", bucket=self.bucket.text(PrincipalKind.BUCKET), state=standing.state)

    async def _ask(self, link: Link, *, wait_ms: int) -> None:
        await self._take(await self._heard(link, wait_ms=wait_ms))

    async def _heard(self, link: Link, *, wait_ms: int) -> bytes:
        told = await _call(link, mb.GetRoster(self._told, wait_ms), mb.SignedRoster)
        return told.roster

    async def _take(self, signed: bytes) -> None:
        """Keep a roster of this cluster's index unless a newer one was seen.

        A key that another one follows signs no rosters: whoever stole it could stay for ever.
        Raises TokenInvalidError for one of another cluster or signer.
        """
        lasting = tuple(each.key for each in self._keys if not each.until)
        signers = lasting or (self.place.index,)
        roster = open_roster(signed, cluster=self._cluster, signers=signers)
        self._told = roster.epoch
        if roster.epoch < self._known.epoch:
            self._roster = None  # how this bucket stands is no longer as the newer one had it
            self._problem = f"the index tells roster {roster.epoch}, older than one seen before"
            _log.warning("old_roster_refused", epoch=roster.epoch, newest=self._known.epoch)
            return
        self._roster, self._problem = roster, ""
        self._addresses = {each.principal: each.http for each in roster.buckets}
        self._look_for_key(roster)
        if roster.epoch > self._known.epoch or not self._saved:
            self._keys = roster.index_keys
            known = replace(self._known, epoch=roster.epoch, keys=self._keys, roster=signed)
            await self._save(known)

    def _look_for_key(self, roster: Roster) -> None:
        """Raise NotAuthorizedError for a key of another bucket: its events would pass for ours."""
        for each in roster.buckets:
            if self._key not in {each.key, each.old_key}:
                continue
            if each.principal != self.bucket:
                self._problem = "key_file holds the key of another bucket"
                raise NotAuthorizedError(self._problem)
            self._superseded = each.old_key == self._key
            if self._superseded:
                _log.warning("restart_for_new_key", old_key_until=each.old_until)

    async def _save(self, known: Remembered) -> None:
        self._known = replace(known, index_peer=self.place.peer)
        try:
            await self._worker.run(self._file.save, self._known)
        except OSError as error:
            # The work goes on: the next answer is written down again.
            self._saved = False
            self._problem = f"the membership cannot be written down: {error.strerror}"
            _log.warning("membership_not_saved", reason=str(error))
        else:
            self._saved = True

    def _state(self) -> str:
        """As the newest roster has it; whoever is asked to decide is the index itself."""
        if self._roster is None:
            return APPROVED
        buckets = {each.principal: each.state for each in self._roster.buckets}
        return buckets.get(self.bucket, APPROVED)


async def _call(link: Link, request: Request, expected: type[R]) -> R:
    reply = await link.call(request)
    if not isinstance(reply.message, expected):
        raise InternalError(f"the index answered {type(reply.message).__name__}")
    return reply.message
