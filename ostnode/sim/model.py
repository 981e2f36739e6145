"""What a cluster has promised: a model of accounts, chats and references, fed by answers alone.

Whatever ends without an answer is left open: it may have happened, happen later, or never. The
model does not guess; what is open may be either way when the cluster is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ostnode.identity.keys import KeyPair
from ostnode.ids import NULL_ACCESSOR, BlobId, GrantId, Principal, Uid
from ostnode.roles.bucket.tables import ReferenceId

SWEPT_S: Final = 10.0
"""An expired reference is gone from the disk this much later."""


class State(Enum):
    """What is known of a reference."""

    THERE = "there"
    GONE = "gone"
    OPEN = "open"


@dataclass(eq=False, slots=True)
class Ref:
    """One reference: what the last answers said, and how many operations have no answer yet.

    `making` and `removing` count those that may still take effect; `blurred` says that they have
    overlapped in a way that answers cannot tell apart. What was made once and removed is `over`,
    whoever hears of its making afterwards.
    """

    name: ReferenceId
    size: int
    expires_at: int = 0
    bucket: Principal | None = None
    there: bool = False
    made: int = 0
    making: int = 0
    removing: int = 0
    blurred: bool = False
    over: bool = False

    @property
    def state(self) -> State:
        """By the answers about this reference alone."""
        if self.blurred or (self.removing if self.there else self.making):
            return State.OPEN
        return State.THERE if self.there else State.GONE

    def begin_making(self) -> None:
        """Somebody asks for it."""
        self.blurred = self.blurred or self.removing > 0 or (self.made > 0 and self.making > 0)
        self.making += 1
        self.made += 1
        self.over = False

    def end_making(self, *, there: bool) -> None:
        """It was made, or refused by an answer that is certain."""
        if not self.over:
            self.making -= 1
            self.there = self.there or there

    @property
    def marks(self) -> tuple[object, ...]:
        """All that answers have said of it: unchanged when nothing has been heard or asked."""
        return self.bucket, self.there, self.made, self.making, self.removing, self.over

    def lose(self) -> None:
        """Its bucket is gone for ever; whoever is still making it may make it elsewhere."""
        if self.making:
            self.blurred, self.bucket = True, None
        else:
            self.there, self.blurred = False, self.blurred and self.removing > 0

    def begin_removing(self) -> None:
        """Somebody asks for its end."""
        self.blurred = self.blurred or (self.made > 1 and self.making > 0)
        self.removing += 1

    def end_removing(self, *, gone: bool) -> None:
        """It was removed, or it was not there: an answer that is certain either way."""
        self.removing -= 1
        if gone:
            self.there = False
            if self.made == 1:
                self.over, self.making = True, 0


@dataclass(eq=False, slots=True)
class Account:
    """A principal's registrations, one after the other.

    `uid` is None while nobody is registered, or while that is not certain; `blocked` likewise.
    `limits` are all that may be in force; `moving` says that it is about to change its principal.
    """

    number: int
    key: KeyPair
    byte_limit: int
    uid: Uid | None = None
    blocked: bool | None = False
    limits: set[int] = field(default_factory=set)
    old_keys: list[KeyPair] = field(default_factory=list)
    moving: bool = False

    @property
    def principal(self) -> Principal:
        """Under which it is registered now."""
        return self.key.principal


@dataclass(slots=True)
class Model:
    """Everything that was promised.

    `burning` and `dying` are chats and registrations whose end was asked for, `burned` and `dead`
    those whose end was answered. `dead_grants` are refused for ever; `chunks` were acknowledged
    for a grant.
    """

    accounts: list[Account] = field(default_factory=list)
    refs: dict[ReferenceId, Ref] = field(default_factory=dict)
    burning: set[Principal] = field(default_factory=set)
    burned: set[Principal] = field(default_factory=set)
    dying: set[Uid] = field(default_factory=set)
    dead: set[Uid] = field(default_factory=set)
    chunks: dict[GrantId, set[int]] = field(default_factory=dict)

    def begin(self, names: Iterable[ReferenceId], size: int, expires_at: int = 0) -> list[Ref]:
        """References that are about to be asked for."""
        refs = [self.refs.setdefault(name, Ref(name, size, expires_at)) for name in names]
        for ref in refs:
            ref.begin_making()
        return refs

    def marks(self) -> dict[ReferenceId, tuple[object, ...]]:
        """What is known of each reference, to be compared later."""
        return {name: ref.marks for name, ref in self.refs.items()}

    def set_back(self, bucket: Principal, before: Mapping[ReferenceId, object]) -> None:
        """The bucket is as it was then: whatever it has done to references since is in doubt."""
        for name, ref in self.refs.items():
            if ref.bucket in {bucket, None} and before.get(name) != ref.marks:
                ref.blurred = True

    def lose(self, bucket: Principal) -> None:
        """The bucket is gone for ever, with every reference in it."""
        for ref in self.refs.values():
            if ref.bucket == bucket:
                ref.lose()

    def state(self, ref: Ref, now: float, skew_s: float) -> State:
        """All things considered, while the bucket's clock is within `skew_s` of `now`."""
        if ref.state is State.GONE:
            return State.GONE
        if ref.name.accessor in self.burning or ref.name.uid in self.dying:
            return State.OPEN
        if 0 < ref.expires_at <= now + skew_s:
            return State.OPEN
        return ref.state

    def state_at_rest(self, ref: Ref, now: float, skew_s: float = 0.0) -> State:
        """The same once every deletion has arrived and every sweep is done."""
        ended = ref.name.accessor in self.burned or ref.name.uid in self.dead
        if ended or 0 < ref.expires_at <= now - SWEPT_S:
            return State.GONE
        ending = ref.name.accessor in self.burning or ref.name.uid in self.dying
        if ending or 0 < ref.expires_at <= now + skew_s:
            return State.OPEN if ref.state is State.THERE else ref.state
        return ref.state

    def through(self, accessor: Principal, blob_id: BlobId) -> Iterator[Ref]:
        """Every reference that was ever asked for, of the blob in the chat."""
        for name, ref in self.refs.items():
            if name.accessor == accessor and name.blob_id == blob_id:
                yield ref

    def owned(self, uid: Uid, blob_id: BlobId) -> Iterator[Ref]:
        """Every reference that was ever asked for, of the blob for the uid."""
        for name, ref in self.refs.items():
            if name.uid == uid and name.blob_id == blob_id:
                yield ref

    def readable(self, refs: Iterable[Ref], now: float, skew_s: float) -> State:
        """Whether any of the references lets a blob be read."""
        states = {self.state(ref, now, skew_s) for ref in refs}
        return next((one for one in (State.THERE, State.OPEN) if one in states), State.GONE)

    def account_of(self, uid: Uid) -> Account | None:
        """The account whose registration this is now."""
        return next((account for account in self.accounts if account.uid == uid), None)

    def unkept(
        self, held: Mapping[Principal, Mapping[ReferenceId, object]], now: float, skew_s: float
    ) -> Iterator[str]:
        """Acknowledged references that are not among what their buckets durably hold."""
        for ref in self.refs.values():
            names = None if ref.bucket is None else held.get(ref.bucket)
            promised = self.state(ref, now, skew_s) is State.THERE
            if promised and names is not None and ref.name not in names:
                yield f"{told(ref.name)} was acknowledged and is not there"

    def unkept_at_rest(
        self,
        held: Mapping[Principal, Mapping[ReferenceId, object]],
        now: float,
        skew_s: float = 0.0,
    ) -> Iterator[str]:
        """Every difference between what was promised and what is there, once nothing moves."""
        present = {name for names in held.values() for name in names}
        for ref in self.refs.values():
            state = self.state_at_rest(ref, now, skew_s)
            if state is State.THERE and ref.name not in present:
                yield f"{told(ref.name)} was acknowledged and is not there"
            if state is State.GONE and ref.name in present:
                yield f"{told(ref.name)} has ended and is still there"
        for name in present - self.refs.keys():
            yield f"{told(name)} is there, and nobody has asked for it"


def told(name: ReferenceId) -> str:
    """A reference in a few words."""
    chat = "null" if name.accessor == NULL_ACCESSOR else name.accessor.hex()[:8]
    return f"{name.uid.hex()[:8]}/{chat}/{name.blob_id.hex()[:8]}/{name.ref_id.hex()}"
