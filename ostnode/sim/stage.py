"""What everybody in a simulated cluster has in common: who there is, and what was promised."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import trio
from blake3 import blake3

from ostnode.identity.grants import Grant, open_grant
from ostnode.identity.keys import KeyPair
from ostnode.identity.statements import CTI_BYTES
from ostnode.identity.tokens import AccessToken, Scope, mint_access
from ostnode.ids import NULL_ACCESSOR, BlobId, Principal, Uid
from ostnode.roles.bucket.tables import ReferenceId
from ostnode.roles.bucket.views import View
from ostnode.sim.calling import Lines, ViolationError
from ostnode.sim.model import Account, Model, Ref, State
from ostnode.sim.workload import ACCOUNTS, CHATS, Content, first_limit, make_contents
from ostnode.sim.world import World
from ostnode.wire import messages as m

TOKEN_S: Final = {Scope.READ: 3600, Scope.REF_DEL: 60, Scope.ACC_DEL: 60}
"""As long as tokens may live."""
_DEAD_KEPT: Final = 24
_ANY_SKEW_S: Final = 1 << 40
SKEW_S: Final = 25.0
"""No node's clock is further from the others'."""
TRUSTED_SKEW_S: Final = 50.0
"""Nodes whose clocks are this near take the tokens that are signed here."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that was left in the middle: its content, and all that its chunks must repeat."""

    content: Content
    accessors: tuple[Principal, ...]
    ref_id: bytes
    expires_at: int
    refs: tuple[Ref, ...]


@dataclass(frozen=True, slots=True)
class DeadGrant:
    """Closed, by a bucket's word: it is refused for ever. `data` is what its user shows."""

    account: Account
    data: bytes
    grant: Grant
    content: Content


@dataclass(slots=True)
class Stage:
    """Everybody, everything that was promised, and the cluster it was promised by."""

    world: World
    lines: Lines
    seed: int
    model: Model = field(default_factory=Model)
    contents: list[Content] = field(default_factory=list)
    chats: dict[Principal, KeyPair] = field(default_factory=dict)
    live: list[KeyPair] = field(default_factory=list)
    """Chats that nobody has asked to delete yet."""
    begun: dict[int, list[Begun]] = field(default_factory=dict)
    dead_grants: list[DeadGrant] = field(default_factory=list)
    burned_at: dict[str, frozenset[Principal]] = field(default_factory=dict)
    """By node: what was durably burned there when last looked."""
    evicting: dict[Uid, set[BlobId]] = field(default_factory=dict)
    """What buckets have been told to take from whom: it may go at any moment."""
    blocked_blobs: dict[BlobId, bool] = field(default_factory=dict)
    """Blobs that operators have blocked; False once they are on the way out of it."""
    counts: dict[str, int] = field(default_factory=dict)
    healed_at: float | None = None
    """When the faults were over, by the clock that is right."""
    resting: dict[Principal, set[BlobId]] = field(default_factory=dict)
    """Buckets that an operator has taken out of use, with what was placed there before."""
    lost: set[Principal] = field(default_factory=set)
    """Buckets that have lost everything once."""
    old_buckets: set[Principal] = field(default_factory=set)
    """Buckets that were put back once."""
    restored: bool = False
    """A node was put back: until it is repaired it may charge what has gone meanwhile."""
    on_set_back: list[Callable[[], None]] = field(default_factory=list)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = self.world.rng("people")
        self.contents = make_contents(self.seed)
        self.live = [self.new_chat() for _ in range(CHATS)]
        for number in range(ACCOUNTS):
            limit = first_limit(number)
            account = Account(number, self.new_key(f"account {number}"), limit, limits={limit})
            self.model.accounts.append(account)
            self.begun[number] = []

    def new_key(self, name: str) -> KeyPair:
        """The key of this name: the same in every run of the seed."""
        return KeyPair.from_seed(blake3(f"{self.seed} {name}".encode()).digest())

    def new_chat(self) -> KeyPair:
        """A chat that nobody has used."""
        chat = self.new_key(f"chat {len(self.chats)}")
        self.chats[chat.principal] = chat
        return chat

    def note(self, what: str) -> None:
        """Count something, and write it into the history."""
        self.counts[what] = self.counts.get(what, 0) + 1
        self.world.trace(what)

    def violated(self, what: str) -> ViolationError:
        """The exception to raise: the cluster has broken its word."""
        self.world.trace(f"VIOLATION {what}")
        return ViolationError(what)

    @property
    def now(self) -> float:
        """Seconds since 1970, by the clock that is right."""
        return self.world.clock.now()

    def trusts_clock(self, node: str) -> bool:
        """Whether the node's clock lets it take tokens that are signed now."""
        return abs(self.world.clock_of(node).now() - self.now) < TRUSTED_SKEW_S

    @property
    def skew_s(self) -> float:
        """How far before ours the clock of a bucket may have been up to now.

        What it has found expired is gone, though its clock is right again.
        """
        if self.healed_at is None:
            return SKEW_S
        return max(0.0, self.healed_at + SKEW_S - self.now)

    def state(self, ref: Ref) -> State:
        """What is known of a reference now."""
        return self.model.state(ref, self.now, self.skew_s)

    def readable(self, reader: Account, accessor: Principal, content: Content) -> State:
        """Whether the reader can read through the chat, or its own with its own principal."""
        refs = list(self._ways(reader, accessor, content))
        state = self.model.readable(refs, self.now, self.skew_s)
        doubtful = reader.blocked is not False or content.blob_id in self.blocked_blobs
        return State.OPEN if doubtful and state is State.THERE else state

    def _ways(self, reader: Account, accessor: Principal, content: Content) -> list[Ref]:
        if accessor != reader.principal:
            return list(self.model.through(accessor, content.blob_id))
        refs = [ref for ref in self.model.refs.values() if ref.name.blob_id == content.blob_id]
        return [ref for ref in refs if reader.uid in {None, ref.name.uid}]

    def content_of(self, ref: Ref) -> Content:
        """The bytes that a reference is to."""
        wanted = ref.name.blob_id
        return next(content for content in self.contents if content.blob_id == wanted)

    def token(
        self, accessor: Principal, caller: Principal, scope: Scope = Scope.READ, **named: bytes
    ) -> bytes:
        """A chat's word about a caller."""
        now = int(self.now)
        token = AccessToken(
            accessor=accessor,
            cluster=self.world.cluster_id,
            caller=caller,
            scope=scope,
            issued_at=now,
            expires_at=now + TOKEN_S[scope],
            cti=self.rng.randbytes(CTI_BYTES),
            **named,  # type: ignore[arg-type]  # blob, owner and ref_id
        )
        return mint_access(self.chats[accessor], token)

    def way_to(self, ref: Ref, reader: Account) -> tuple[Principal, bytes]:
        """The accessor to read through, and the token for it."""
        if ref.name.accessor == NULL_ACCESSOR:
            return reader.principal, b""
        return ref.name.accessor, self.token(ref.name.accessor, reader.principal)

    def open_grant(self, allocation: m.Allocation) -> Grant:
        """What the index has signed."""
        bucket = allocation.bucket.principal
        row = self.world.index_tables().buckets.get(bucket)
        return open_grant(
            allocation.grant,
            index=self.world.principal_of("index"),
            bucket=bucket,
            bucket_incarnation=0 if row is None else row.incarnation,
            now=self.now,
            skew=_ANY_SKEW_S,
        )

    def knows_owner(self, node: str, account: Account) -> bool:
        """Whether the bucket has heard that the registration is this principal's."""
        rows = self.world.bucket_rows(node)
        if rows is None or account.uid is None or account.moving:
            return False
        return View(rows).owns(account.principal, account.uid)

    def set_back(self) -> None:
        """The index is about to know less than it has said."""
        self.restored = True
        for told in self.on_set_back:
            told()

    def set_back_bucket(self, name: str, before: Mapping[ReferenceId, object]) -> None:
        """The bucket is about to know less than it has said, as of when `before` was noted."""
        self.old_buckets.add(self.world.principal_of(name))
        self.model.set_back(self.world.principal_of(name), before)
        self._anew(name)
        self.set_back()

    def lose_bucket(self, name: str) -> None:
        """All that the bucket had is gone for ever."""
        self.lost.add(self.world.principal_of(name))
        self.model.lose(self.world.principal_of(name))
        self._anew(name)
        for told in self.on_set_back:
            told()

    def _anew(self, name: str) -> None:
        """What the bucket has said of uploads and deleted chats, it may say no more."""
        bucket = self.world.principal_of(name)
        mine = [dead for dead in self.dead_grants if dead.grant.bucket == bucket]
        self.dead_grants = [dead for dead in self.dead_grants if dead not in mine]
        self.model.chunks.clear()
        self.burned_at.pop(name, None)

    def note_evictions(self, uid: Uid, blobs: set[BlobId]) -> None:
        """What is being evicted now: whatever the uid has of it, nobody knows any more."""
        known = self.evicting.get(uid, set())
        if blobs != known:
            self.evicting[uid] = blobs
            for ref in self.model.refs.values():
                if ref.name.uid == uid and ref.name.blob_id in blobs:
                    ref.blurred = True

    def note_dead(self, dead: DeadGrant) -> None:
        """Remember a grant whose end was acknowledged; the oldest give way."""
        self.dead_grants.append(dead)
        del self.dead_grants[:-_DEAD_KEPT]

    def begin_deletion(self, chat: KeyPair) -> None:
        """A chat is about to be deleted; another one takes its place."""
        if chat in self.live:
            self.live[self.live.index(chat)] = self.new_chat()
        self.model.burning.add(chat.principal)

    async def settle_doubts(self) -> None:
        """Wait until nothing that was asked before can still take effect."""
        await trio.sleep(ZOMBIE_S)


ZOMBIE_S: Final = 30.0
"""A request takes effect within its deadline, and everything on its way arrives before this."""
