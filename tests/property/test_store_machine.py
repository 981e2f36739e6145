"""A bucket on a disk against a set of references, through crashes, damage and lost key indexes.

One rule is one life of the bucket: it opens, shows what it holds, works for two users at once,
and is closed, killed or loses its power. The model knows of each reference whether its user was
told that it is there, told that it is gone, or was never told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ostnode.errors import DataCorruptError, NotFoundError, ShuttingDownError
from ostnode.roles.bucket import tables as t
from ostnode.store.errors import StoreFailedError
from ostnode.store.format import RECORD_HEADER_BYTES
from ostnode.store.segment import segment_name
from ostnode.store.simdisk import Faults, SimDisk, SimIndex
from tests.support.bucketcrash import DATA, READER, Life, User
from tests.support.bucketkit import OPTIONS, Kit, blob_of, key, pieces
from tests.support.compactkit import compact_all
from tests.support.crashstates import scheduled
from tests.support.storecrash import BrokenPromiseError, run_until_crash

SEGMENT_BYTES = 16 << 10
SMALL = replace(OPTIONS, store=replace(OPTIONS.store, segment_bytes=SEGMENT_BYTES))
USERS, CHATS = 2, 2
EXAMPLES_PER_PROFILE = 6
"""An example is some ten lives: of the profile's examples every sixth is made."""


@dataclass(frozen=True)
class Step:
    """What one user does next."""

    what: str
    chat: int
    data: bytes
    order: int
    pause_s: float


DOING = ("upload", "upload", "upload", "part", "remove", "remove", "report", "compact")
STEPS = st.lists(
    st.builds(
        Step,
        what=st.sampled_from(DOING),
        chat=st.integers(0, CHATS - 1),
        data=st.sampled_from(DATA),
        order=st.integers(0, 5),
        pause_s=st.sampled_from([0, 0, 0, 0.01, 0.2]),
    ),
    max_size=6,
)


class Bucket(Life):
    """The model's side of a life; what is damaged is read right or refused."""

    def __init__(self, kit: Kit, users: list[User]) -> None:
        super().__init__(Random(0), kit, users)
        self.damaged: set[bytes] = set()
        self.compacting = trio.Lock()

    async def step(self, user: User, step: Step) -> None:
        await trio.sleep(step.pause_s)
        if step.what == "report":
            await self.kit.talk()
        elif step.what == "compact":
            async with self.compacting:
                await compact_all(self.kit.bucket.store, segment_bytes=SEGMENT_BYTES)
        elif step.what == "remove":
            await self.take_away(user, step)
        else:
            await self.put(user, step)

    async def put(self, user: User, step: Step) -> None:
        name = step.chat, step.data
        before = user.there.get(name, False)
        user.there[name] = before or None
        grant = self.kit.grant(user.key, step.data)
        chunks = list(enumerate(pieces(step.data)))
        Random(step.order).shuffle(chunks)
        if step.what == "part":
            chunks.pop()
        answer = None
        try:
            for index, body in chunks:
                accessors = (user.chats[step.chat].principal,)
                answer = await self.push(user, grant, index, body, accessors)
        except DataCorruptError:
            if step.data not in self.damaged:
                raise BrokenPromiseError("refused, and not damaged") from None
            return
        if answer is not None and answer.missing == 0:
            user.there[name] = True
        elif before is False:
            user.there[name] = False

    async def take_away(self, user: User, step: Step) -> None:
        name = step.chat, step.data
        before = user.there.get(name, False)
        user.there[name] = None if before is not False else False
        reference = self.kit.key_of(step.data, user.key, user.chats[step.chat])
        (code,) = await self.kit.remove(user.key, reference)
        if before is not None and (code == "") is not before:
            raise BrokenPromiseError(f"{before} before, {code!r} when removed")
        user.there[name] = False

    async def look(self) -> None:
        """Everything that was told is so."""
        for user in self.users:
            for (chat, data), there in user.there.items():
                readable = await self.readable(user.chats[chat], data)
                if there not in {None, readable}:
                    raise BrokenPromiseError(f"told {there}, found {readable}")
                user.there[chat, data] = readable

    async def readable(self, chat, data: bytes) -> bool:
        try:
            found = await self.kit.read(READER, chat, data)
        except NotFoundError:
            return False
        except DataCorruptError:
            if data not in self.damaged:
                raise BrokenPromiseError("refused, and not damaged") from None
            return True
        if found != data:
            raise BrokenPromiseError("other bytes")
        return True


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.kit = Kit(SMALL, SimDisk())
        names = [(n, [key(f"chat {n} {c}") for c in range(CHATS)]) for n in range(USERS)]
        users = [User(key(f"user {n}"), chats) for n, chats in names]
        self.bucket = Bucket(self.kit, users)

    def live(self, steps: list[list[Step]], *, settle: bool = False) -> bool:
        """One life; True when it was cut short."""

        async def life() -> None:
            self.bucket.compacting = trio.Lock()
            async with self.kit.running():
                await trio.testing.wait_all_tasks_blocked()
                await self.bucket.look()
                async with trio.open_nursery() as nursery:
                    for user, share in zip(self.bucket.users, steps, strict=False):
                        nursery.start_soon(self.work, user, share)
                await self.bucket.look()
                if settle:
                    await self.bucket.settle()

        with scheduled(len(self.kit.disk.log)):
            return run_until_crash(life, (StoreFailedError, ShuttingDownError))

    async def work(self, user: User, steps: list[Step]) -> None:
        for step in steps:
            await self.bucket.step(user, step)

    @rule(steps=st.tuples(STEPS, STEPS))
    def close(self, steps) -> None:
        assert not self.live(steps)

    @rule(
        steps=st.tuples(STEPS, STEPS),
        operations=st.integers(1, 80),
        power=st.booleans(),
        chance=st.integers(0, 9999),
    )
    def crash(self, steps, operations: int, power: bool, chance: int) -> None:
        """At any operation of the disk, or after the last."""
        disk = self.kit.disk
        disk.faults = Faults(crash_at=disk.operations + operations)
        self.live(steps)
        self.kit.disk = disk.power_lost(chance) if power else disk.killed(chance)

    @rule()
    def lose_the_key_index(self) -> None:
        self.kit.disk.index = SimIndex()
        self.kit.disk.index.disk = self.kit.disk

    @precondition(lambda self: not self.bucket.damaged)
    @rule(data=st.sampled_from(DATA[1:]), offset=st.integers(0, 15), bit=st.integers(0, 7))
    def damage(self, data: bytes, offset: int, bit: int) -> None:
        """A bit of the first chunk of a stored blob, between two lives."""
        assert not self.live([])
        rows = dict(self.kit.disk.index.page(b"", None, 1 << 20))
        commit = rows.get(t.BLOBS + blob_of(data))
        if commit is None:
            return
        number = t.BlobRow.unpack(commit).number
        extent = t.ChunkRow.unpack(rows[t.chunk_key(number, 0)]).extent
        name = segment_name(extent.segment)
        place = extent.offset + RECORD_HEADER_BYTES + offset % extent.length
        self.kit.disk.flip(name, place, 1 << bit)
        self.bucket.damaged.add(data)

    def teardown(self) -> None:
        if not self.bucket.damaged:
            assert not self.live([], settle=True)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=max(25, settings.default.max_examples // EXAMPLES_PER_PROFILE),
    stateful_step_count=12,
)
