"""What a cluster under chaos must hold: a model of references, fed with acknowledgements alone.

An operation without an answer leaves its references open: they may or may not have come to be.
The model never guesses; at the end the buckets are asked, and must answer within what is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from blake3 import blake3

from ostnode.identity.keys import KeyPair
from ostnode.ids import NULL_ACCESSOR, BlobId, Principal, Uid
from ostnode.wire import messages as m


class State(Enum):
    """What is known of a reference."""

    THERE = "there"
    GONE = "gone"
    OPEN = "open"


@dataclass(frozen=True)
class Content:
    """Bytes to upload."""

    data: bytes
    blob_id: BlobId

    @classmethod
    def of(cls, data: bytes) -> Content:
        return cls(data, BlobId(blake3(data).digest()))

    @property
    def size(self) -> int:
        return len(self.data)


@dataclass(eq=False)
class Account:
    """A principal's registrations, one after the other. `uid` is None while that is open."""

    name: str
    key: KeyPair
    byte_limit: int
    uid: Uid | None = None
    lives: int = 0

    @property
    def principal(self) -> Principal:
        return self.key.principal


@dataclass(eq=False)
class Ref:
    """One reference. `owner` is known once its making is acknowledged. Of an operation that ended
    without an acknowledgement, `life` says how many registrations had begun to end by then.
    """

    account: Account
    accessor: Principal
    content: Content
    ref_id: bytes
    state: State = State.OPEN
    owner: Uid | None = None
    bucket: m.BucketAddress | None = None
    life: int | None = None

    def __str__(self) -> str:
        accessor = "null" if self.accessor == NULL_ACCESSOR else self.accessor.hex()[:6]
        blob = f"{self.content.blob_id}"[:8]
        return f"{self.account.name}/{accessor}/{blob}({self.content.size})/{self.ref_id.hex()}"


@dataclass
class Model:
    """References, and what overrules them: deleted chats and registrations."""

    refs: list[Ref] = field(default_factory=list)
    burning: set[Principal] = field(default_factory=set)
    burned: set[Principal] = field(default_factory=set)
    dying: set[Uid] = field(default_factory=set)
    dead: set[Uid] = field(default_factory=set)

    def begin(
        self, account: Account, accessors: Iterable[Principal], content: Content, ref_id: bytes
    ) -> list[Ref]:
        """References that are about to be made."""
        names = tuple(accessors) or (NULL_ACCESSOR,)
        made = [Ref(account, name, content, ref_id) for name in names]
        self.refs += made
        return made

    def made(self, refs: list[Ref], reference: m.BlobReference, bucket: m.BucketAddress) -> None:
        """The making is acknowledged for the accessors that the answer names."""
        for ref in refs:
            ref.owner, ref.bucket = reference.owner, bucket
            ref.state = State.THERE if ref.accessor in reference.accessors else State.GONE

    def left_open(self, refs: Iterable[Ref]) -> None:
        """No answer, or one that says nothing of an earlier attempt."""
        for ref in refs:
            ref.state, ref.life = State.OPEN, ref.account.lives

    def state(self, ref: Ref) -> State:
        """All things considered."""
        if ref.state is State.GONE or ref.accessor in self.burned or ref.owner in self.dead:
            return State.GONE
        if ref.owner is None and ref.life is not None and ref.life < ref.account.lives:
            # Its operation had ended before the registration began to.
            return State.OPEN if ref.account.uid is None else State.GONE
        if ref.accessor in self.burning or ref.owner in self.dying:
            return State.OPEN
        return ref.state

    def all_deleted(self, accessor: Principal, blob_id: BlobId) -> bool:
        """Whether each reference was removed by itself, which shows at once."""
        return all(ref.state is State.GONE for ref in self.about(accessor, blob_id))

    def readable(self, accessor: Principal, blob_id: BlobId) -> State:
        """Whether a member of the chat can read the blob."""
        states = {self.state(ref) for ref in self.about(accessor, blob_id)}
        return next((one for one in (State.THERE, State.OPEN) if one in states), State.GONE)

    def about(self, accessor: Principal, blob_id: BlobId) -> Iterator[Ref]:
        """Every reference that was ever meant for the blob in the chat."""
        wanted = (accessor, blob_id)
        return (ref for ref in self.refs if (ref.accessor, ref.content.blob_id) == wanted)

    def standing(self) -> Iterator[Ref]:
        """References that are certainly there."""
        return (ref for ref in self.refs if self.state(ref) is State.THERE)

    def held(self, account: Account, blob_id: BlobId) -> tuple[int, int]:
        """The least and the most references that the account can have to a blob."""
        states = [
            self.state(ref)
            for ref in self.refs
            if ref.account is account and ref.content.blob_id == blob_id
        ]
        there = states.count(State.THERE)
        return there, there + states.count(State.OPEN)
