"""The index's calls about who belongs to the cluster, and what a key is to it right now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

import structlog
import trio

from ostnode.env import Clock, Rng
from ostnode.errors import (
    InvalidArgumentError,
    NotAuthorizedError,
    OstError,
    UnknownCallError,
)
from ostnode.identity.keys import KeyPair
from ostnode.ids import Principal, PrincipalKind
from ostnode.roles.index.core import membership as core
from ostnode.roles.index.core.indexkeys import names
from ostnode.roles.index.core.memberrows import IndexKey, Invite, Member, MemberState
from ostnode.roles.index.core.roster import Hearing, hearing_of, page, roster
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.repository import Repository
from ostnode.roles.index.options import IndexOptions
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Kind
from ostnode.wire.fields import Message, Request
from ostnode.wire.roster import Roster, sign_roster
from ostnode.wire.rotation import open_key_change

_KINDS: Final = {
    MemberState.APPROVED: frozenset({Kind.BUCKET}),
    MemberState.PENDING: frozenset({Kind.CANDIDATE}),
}
ADDRESS_NEWS_S: Final = 5.0
_NOTHING: Final[frozenset[Kind]] = frozenset()
_log = structlog.get_logger(__name__)


class Membership:
    """Members as of the last durable transaction, from memory: every request asks for them.

    `on_change` is called when one has changed.
    """

    def __init__(
        self,
        options: IndexOptions,
        key: KeyPair,
        members: Iterable[Member],
        repository: Repository,
        on_change: Callable[[], None],
        *,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._options = options
        self._key = key
        self._transact = repository.transact
        self._on_change = on_change
        self._clock = clock
        self._rng = rng
        self._members = {member.principal: member for member in members}
        self._by_key: dict[Principal, Principal] = {}
        self._news = trio.Event()
        self._woken_at = -ADDRESS_NEWS_S
        self._untold = False
        self.addresses: dict[Principal, str] = {}
        """Where buckets answer over HTTP, as the roster has it."""
        self.epoch = 0
        """Of the newest roster, for HELLO."""
        self._signed = b""
        self.keys: Sequence[IndexKey] = ()
        """Of the index beside its present one."""
        for member in self._members.values():
            self._note_keys(member)

    def names(self) -> tuple[Principal, ...]:
        """Whom logins to this index may name."""
        return names(self.keys, self._key.principal, self._clock.now())

    @property
    def news(self) -> trio.Event:
        """Set once the membership has changed after the moment this is asked for."""
        return self._news

    def note_address(self, bucket: Principal, http: str) -> None:
        """Let those who wait for the roster hear where a bucket is from now on.

        Not too often: buckets choose what they say. What is held back goes with the next report of
        any bucket after that time.
        """
        if self.addresses.get(bucket, "") != http:
            self.addresses[bucket] = http
            self._untold = True
        if self._untold and trio.current_time() - self._woken_at >= ADDRESS_NEWS_S:
            self._untold = False
            self._woken_at = trio.current_time()
            self._tell()

    def kinds(self, key: Principal) -> frozenset[Kind]:
        """What whoever signs with this key is to the index now."""
        member = self._member(key)
        return _NOTHING if member is None else _KINDS.get(member.state, _NOTHING)

    def bucket_of(self, caller: Caller) -> Principal:
        """The bucket that the caller signs for; raises NotAuthorizedError."""
        member = self._member(caller.proven)
        if member is None:
            raise NotAuthorizedError("this bucket is not, or no longer, a member")
        return member.principal

    def check_blockable(self, caller: Caller, request: m.BlockPrincipal) -> None:
        """Raise for who is not to be shut out this way.

        InvalidArgumentError for a bucket, NotAuthorizedError for an app that would shut out those
        who are over it.
        """
        if not request.blocked:
            return
        if self.kinds(request.principal):
            raise InvalidArgumentError("this is a bucket: revoke it instead")
        if request.principal in self._options.operators and Kind.OPERATOR not in caller.kinds:
            raise NotAuthorizedError("an app does not block an operator")

    async def answer(self, caller: Caller, request: Request) -> Message:
        """The membership's calls; raises UnknownCallError for every other."""
        match request:
            case mb.InviteBucket():
                return await self._invite(request)
            case mb.ListMembers(after):
                now = self._now()
                return await self._transact(lambda tables: page(tables, after, now))
            case mb.ApproveBucket(bucket):
                await self._change(lambda tables: core.approve(tables, bucket, self._now()))
            case mb.RevokeBucket(bucket):
                await self._change(lambda tables: core.revoke(tables, bucket, self._now()))
            case mb.WithdrawInvite(invite_id):
                await self._transact(partial(core.withdraw, invite_id=invite_id))
            case mb.Join():
                return await self._join(caller.proven, request)
            case mb.GetRoster():
                return await self._roster(caller, request)
            case mb.ChangeBucketKey():
                return await self._change_key(caller, request)
            case _:
                raise UnknownCallError("this is an index: it has no such call")
        return m.Ok()

    async def _invite(self, request: mb.InviteBucket) -> mb.Invitation:
        now = self._now()
        secret = self._rng.token(mb.JOIN_SECRET_BYTES)
        invite = Invite(
            invite_id=self._rng.token(mb.INVITE_ID_BYTES),
            secret_hash=core.secret_hash(secret),
            expires_at=now + request.ttl_s,
            auto_approve=request.auto_approve,
            label=request.label,
        )
        await self._transact(lambda tables: core.invite(tables, invite, now))
        return mb.Invitation(
            invite_id=invite.invite_id,
            secret=secret,
            index=self._key.principal,
            peer=self._options.peer,
            expires_at=invite.expires_at,
        )

    async def _join(self, caller: Principal, request: mb.Join) -> mb.Standing:
        change = await self._change(lambda tables: core.join(tables, caller, request, self._now()))
        if change.member is None:
            raise NotAuthorizedError("this bucket is no longer a member")
        return mb.Standing(change.member.state)

    async def _change_key(self, caller: Caller, request: mb.ChangeBucketKey) -> mb.KeyChanged:
        asked = open_key_change(request.by_old, request.by_new, cluster=self._options.cluster_id)
        if not {asked.old, asked.new} & self._by_key.keys():
            # Anybody may ask, and keys are free: that costs the database nothing.
            raise NotAuthorizedError("neither is the key of a bucket of this cluster")
        change = await self._change(
            lambda tables: core.change_key(tables, caller.proven, asked, self._now())
        )
        return mb.KeyChanged(change.member.old_until if change.member else 0)

    async def _roster(self, caller: Caller, request: mb.GetRoster) -> mb.SignedRoster:
        deadline = trio.current_time() + request.wait_ms / 1000
        while True:
            news = self._news
            late = trio.current_time() >= deadline
            # Each time: while it waits the caller's key may come to its end.
            bucket = self.bucket_of(caller)
            epoch, signed = await self._signed_for(bucket)
            if caller.roster_epoch > epoch and Kind.BUCKET in caller.kinds:
                await self._hear(bucket, caller.roster_epoch)
            if epoch != request.epoch or late:
                return mb.SignedRoster(signed)
            with trio.move_on_at(deadline):
                await news.wait()

    async def _hear(self, bucket: Principal, epoch: int) -> None:
        now = self._now()
        if await self._transact(partial(core.note_heard, epoch=epoch, now=now)):
            _log.warning(
                "newer_roster_seen",
                bucket=bucket.text(PrincipalKind.BUCKET),
                epoch=epoch,
                own=self.epoch,
            )

    async def _signed_for(self, bucket: Principal) -> tuple[int, bytes]:
        """The roster and its number; made once for all who are approved."""
        known = self.epoch, self._signed
        cluster_id, index = self._options.cluster_id, self._key.principal

        def look(tables: Tables) -> tuple[Hearing, Roster | None]:
            hearing = hearing_of(tables, bucket)
            if not hearing.whole:
                return hearing, roster(tables, cluster_id, index, bucket)
            told = known[1] and known[0] == hearing.epoch
            return hearing, None if told else roster(tables, cluster_id, index)

        hearing, made = await self._transact(look)
        if made is None:
            return known
        signed = sign_roster(self._key, made)
        if hearing.whole and hearing.epoch >= self.epoch:  # answers may overtake each other
            self.epoch, self._signed = hearing.epoch, signed
        return hearing.epoch, signed

    async def _change(self, decide: Callable[[Tables], core.Change | OstError]) -> core.Change:
        change = await self._transact(decide, then=self._note)
        if isinstance(change, OstError):
            raise change
        return change

    def _note(self, change: core.Change | OstError) -> None:
        """Called in the order of the commits, whether or not the asker still waits."""
        if isinstance(change, OstError):
            return
        before = self._members.pop(change.principal, None)
        if change.member is not None:
            self._members[change.principal] = change.member
        if change.member == before:
            return
        self._by_key = {
            key: principal
            for key, principal in self._by_key.items()
            if principal != change.principal
        }
        if change.member is not None:
            self._note_keys(change.member)
        state = change.member.state if change.member else "forgotten"
        _log.info(
            "membership_changed", bucket=change.principal.text(PrincipalKind.BUCKET), state=state
        )
        self._tell()
        self._on_change()

    def _tell(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    def _note_keys(self, member: Member) -> None:
        self._by_key[member.key] = member.principal
        if member.old_key:
            self._by_key[Principal(member.old_key)] = member.principal

    def _member(self, key: Principal) -> Member | None:
        member = self._members.get(self._by_key.get(key, key))
        if member is None or not core.signs_for(member, key, self._clock.now()):
            return None
        return member

    def _now(self) -> int:
        return int(self._clock.now())
