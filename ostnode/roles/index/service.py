"""The index's calls: each checks what needs no database, decides in one transaction, answers."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio
from typing_extensions import override

from ostnode.env import Clock, Rng
from ostnode.errors import (
    BusyError,
    InvalidArgumentError,
    NotAuthorizedError,
    NotFoundError,
    TokenExpiredError,
    TokenInvalidError,
)
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import Grant, mint_grant, open_access
from ostnode.ids import NULL_ACCESSOR, GrantId, Principal, Uid
from ostnode.roles.index.comparing import ANSWERED, Comparing
from ostnode.roles.index.core import accessors, allocation, denylist, users
from ostnode.roles.index.core.allocation import Unready
from ostnode.roles.index.core.buckets import Chooser
from ostnode.roles.index.core.feed import read_feed
from ostnode.roles.index.core.membership import require_approved
from ostnode.roles.index.core.outbox import sync_bucket
from ostnode.roles.index.core.resync import IndexBehindError, check_cursor
from ostnode.roles.index.core.rows import Blocked
from ostnode.roles.index.core.status import cluster_info
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.repository import Repository
from ostnode.roles.index.heartbeat import Heartbeat
from ostnode.roles.index.insight import Insight
from ostnode.roles.index.membership import Membership
from ostnode.roles.index.options import IndexOptions
from ostnode.wire import accounts as ac
from ostnode.wire import fleet as f
from ostnode.wire import messages as m
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import Caller, Kind, Reply, Service
from ostnode.wire.fields import Message, Request
from ostnode.wire.session import LEDGER
from ostnode.wire.status import ClusterStatus

_RANDOM_BYTES: Final = 8
_ADMINS: Final = frozenset({Kind.APP, Kind.OPERATOR})


class IndexService(Service):
    """The index's half of the call registry. See `ostnode.wire.messages` for every call."""

    def __init__(
        self,
        options: IndexOptions,
        key: KeyPair,
        blocked: set[Principal],
        repository: Repository,
        heartbeat: Heartbeat,
        membership: Membership,
        comparing: Comparing,
        insight: Insight,
        *,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._options = options
        self._rules = options.rules
        self._key = key
        self._transact = repository.transact
        self._heartbeat = heartbeat
        self.membership = membership
        self._comparing = comparing
        self.insight = insight
        self._clock = clock
        self._rng = rng
        self._blocked = blocked
        self._chooser = Chooser()
        self._polls: dict[Principal, trio.CancelScope] = {}

    def is_blocked(self, principal: Principal) -> bool:
        """Whether the principal may get no session; asked for every request, so from memory."""
        return principal in self._blocked

    def _note_blocked(self, row: Blocked) -> None:
        """Called in the order of the commits, whether or not the asker still waits."""
        if row.blocked:
            self._blocked.add(row.principal)
        else:
            self._blocked.discard(row.principal)

    @override
    async def handle(self, caller: Caller, request: Request, body: Buffer = b"") -> Reply:
        return Reply(await self._answer(caller, request))

    async def _answer(self, caller: Caller, request: Request) -> Message:
        match request:
            case m.Allocate():
                return await self._allocate(caller.proven, request)
            case m.SyncBucket():
                bucket = self.membership.bucket_of(caller)
                result = await self._transact(
                    lambda tables: sync_bucket(tables, self._rules, bucket, request, self._now())
                )
                self.membership.note_address(bucket, request.http)
                return result
            case m.Feed():
                return await self._feed(caller, request)
            case m.ReleaseGrant():
                await self._transact(
                    lambda tables: allocation.release(tables, caller.proven, request.grant_id)
                )
                return m.Ok()
            case m.CanForward():
                return await self._transact(
                    lambda tables: allocation.can_forward(
                        tables, self._rules, caller.proven, request.blob_id, request.size
                    )
                )
            case m.Locate():
                return await self._locate(caller.proven, request)
            case m.DeleteAccessor():
                await self._delete_accessor(caller, request)
                return m.Ok()
            case _:
                return await self._administer(caller, request)

    def _refuse_blocked(self, caller: Caller) -> None:
        """Where no decision asks; on a peer link there is no session that a block could end."""
        if caller.principal in self._blocked:
            raise NotAuthorizedError("this principal is blocked")

    async def _administer(self, caller: Caller, request: Request) -> Message:
        self._refuse_blocked(caller)
        match request:
            case m.ChangeUsers():
                return await self._transact(
                    lambda tables: users.change_users(tables, request.changes, self._new_uid)
                )
            case m.GetUser():
                return await self._user(caller, request)
            case m.ChangePrincipal():
                await self._transact(
                    lambda tables: users.change_principal(tables, request.old, request.new)
                )
            case m.BlockPrincipal():
                self.membership.check_blockable(caller, request)
                await self._block(request)
            case ac.BlockBlob(blob_id, blocked):
                await self._transact(
                    partial(denylist.set_blocked, blob_id=blob_id, blocked=blocked)
                )
            case ac.ListBlocked(after):
                return await self._transact(partial(denylist.page, after=after))
            case ClusterStatus():
                acked = dict(self.insight.fleet.feed_acked)
                return await self._transact(
                    partial(cluster_info, feed_acked=acked, recent=self.insight.figures.recent())
                )
            case f.SetBucketState() | f.FleetStatus():
                return await self.insight.fleet.answer(request)
            case _ if isinstance(request, ANSWERED):
                return await self._comparing.answer(
                    partial(self.membership.bucket_of, caller), request
                )
            case _:
                return await self.membership.answer(caller, request)
        return m.Ok()

    async def _block(self, request: m.BlockPrincipal) -> None:
        await self._transact(
            lambda tables: users.set_blocked(tables, request.principal, blocked=request.blocked),
            then=self._note_blocked,
        )

    async def _user(self, caller: Caller, request: m.GetUser) -> m.UserInfo:
        principal = request.principal or caller.proven
        if principal != caller.principal and not caller.kinds & _ADMINS:
            raise NotAuthorizedError("users see their own account only")
        return await self._transact(partial(users.user_info, principal=principal))

    async def _allocate(self, caller: Principal, request: m.Allocate) -> m.Allocation:
        await self._comparing.require_whole()
        life = self._comparing.incarnation.to_bytes(8, "big")
        new_id = life + self._rng.token(_RANDOM_BYTES)
        ask = allocation.Ask(caller, request.blob_id, request.size, GrantId(new_id), self._now())
        granted: allocation.Granted | Unready = Unready.EVICTING
        while granted is Unready.EVICTING:  # ends: each time the oldest blobs have gone
            granted = await self._transact(
                lambda tables: allocation.allocate(tables, self._chooser, self._rules, ask)
            )
        if isinstance(granted, Unready):
            raise BusyError(granted.value)
        return self._signed(granted, ask.now)

    def _signed(self, granted: allocation.Granted, now: int) -> m.Allocation:
        user, grant, bucket = granted.user, granted.grant, granted.bucket
        token = mint_grant(
            self._key,
            Grant(
                grant_id=grant.grant_id,
                index=self._key.principal,
                bucket=grant.bucket,
                bucket_incarnation=bucket.incarnation,
                user=user.principal,
                uid=grant.uid,
                blob_id=grant.blob_id,
                size=grant.size,
                chunk_bytes=grant.chunk_bytes,
                reserved=grant.reserved,
                issued_at=now,
                expires_at=grant.latest_end,
            ),
        )
        return m.Allocation(
            grant=token,
            grant_id=grant.grant_id,
            expires_at=grant.latest_end,
            bucket=m.BucketAddress(bucket.principal, bucket.http),
            chunk_bytes=grant.chunk_bytes,
            already_yours=granted.already_yours,
            allowance=m.Allowance(user.byte_limit, user.used, user.reserved),
        )

    async def _locate(self, caller: Principal, request: m.Locate) -> m.BucketAddress:
        if request.accessor == caller and not request.token:
            return await self._transact(
                lambda tables: accessors.locate_own(tables, self._chooser, caller, request.blob_id)
            )
        try:
            token = open_access(
                request.token,
                accessor=request.accessor,
                cluster=self._options.cluster_id,
                now=self._clock.now(),
                limits=self._options.tokens,
            )
            token.require_read(request.blob_id, caller)
        except (TokenInvalidError, TokenExpiredError):
            # As on a read: absent and denied are one answer.
            raise NotFoundError from None
        return await self._transact(
            lambda tables: accessors.locate(
                tables, self._chooser, caller, request.accessor, request.blob_id
            )
        )

    async def _delete_accessor(self, caller: Caller, request: m.DeleteAccessor) -> None:
        self._refuse_blocked(caller)
        if request.accessor == NULL_ACCESSOR:
            raise InvalidArgumentError("the null accessor cannot be deleted")
        now = self._now()
        if Kind.APP in caller.kinds:
            await self._transact(
                lambda tables: accessors.burn_accessor(tables, request.accessor, now)
            )
            return
        token = open_access(
            request.token,
            accessor=request.accessor,
            cluster=self._options.cluster_id,
            now=self._clock.now(),
            limits=self._options.tokens,
        )
        token.require_accessor_deletion(caller.proven)
        await self._transact(
            lambda tables: accessors.burn_accessor_by_user(
                tables, self._rules, caller.proven, request.accessor, now
            )
        )

    async def _feed(self, caller: Caller, request: m.Feed) -> m.FeedBatch:
        """One batch is on its way to a bucket: a later poll ends one of a link that is over."""
        bucket = self.membership.bucket_of(caller)
        with trio.CancelScope() as turn:
            before, self._polls[bucket] = self._polls.get(bucket), turn
            if before is not None:
                before.cancel()
            return await self._polled(caller, request)
        raise BusyError("a later poll of this bucket took the place of this one")

    async def _polled(self, caller: Caller, request: m.Feed) -> m.FeedBatch:
        deadline = trio.current_time() + request.wait_ms / 1000
        while True:
            # Each time: while it waits the caller's key may come to its end.
            bucket = self.membership.bucket_of(caller)
            news = self._heartbeat.news
            late = trio.current_time() >= deadline
            try:
                batch = await self._transact(
                    partial(
                        self._read_feed, bucket=bucket, request=request, features=caller.features
                    )
                )
            except IndexBehindError as error:
                await self._comparing.begin_anew(error.above)
                continue
            self.insight.fleet.feed_acked[bucket] = request.seq
            if batch.events or late:
                return batch
            with trio.move_on_at(deadline):
                await news.wait()

    def _read_feed(
        self, tables: Tables, bucket: Principal, request: m.Feed, features: frozenset[str]
    ) -> m.FeedBatch:
        require_approved(tables, bucket)
        if LEDGER in features:
            check_cursor(tables, bucket, request)
        return read_feed(tables, bucket, request, self._now(), features)

    def _now(self) -> int:
        return int(self._clock.now())

    def _new_uid(self) -> Uid:
        return Uid(self._rng.token(_RANDOM_BYTES))
