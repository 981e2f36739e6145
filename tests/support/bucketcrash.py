"""A bucket that stops anywhere while several users work, and what must be true afterwards.

Every user keeps to references of its own, so that it knows of each whether it was told that it is
there, told that it is gone, or was never told. The blobs are shared. The index outlives the
crashes, and must find the bucket true to everything it was ever told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import trio
import trio.testing

from ostnode.errors import OstError, ShuttingDownError
from ostnode.identity.keys import KeyPair
from ostnode.ids import BlobId
from ostnode.roles.bucket import tables as t
from ostnode.store.errors import StoreFailedError
from ostnode.store.simdisk import Faults, SimCrash, SimDisk
from ostnode.wire import events as e
from tests.support.bucketkit import HTTP, Kit, blob_of, key, pieces, uid_of
from tests.support.storecrash import BrokenPromiseError

DATA = [b"", b"one chunk", bytes(range(40)), bytes(range(100, 170))]
READER = key("reader")


@dataclass
class User:
    """`there` maps a reference (chat, data) to what its user knows: None is nothing."""

    key: KeyPair
    chats: list[KeyPair]
    there: dict[tuple[int, bytes], bool | None] = field(default_factory=dict)
    spent: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    """Grants that were answered with a completion, and what they were used for."""
    burned: set[int] = field(default_factory=set)


@dataclass
class Life:
    """One bucket through all its lives."""

    rng: Random
    kit: Kit
    users: list[User]

    async def work(self, user: User, steps: int) -> None:
        for _ in range(steps):
            await trio.sleep(self.rng.choice((0, 0, 0.01, 0.2)))
            doing = self.rng.choice((self.upload, self.upload, self.upload, self.remove, self.burn))
            await doing(user)
            if self.rng.random() < 0.2:
                await self.kit.bucket.sync.poll_feed(self.kit.index, 0)

    async def report(self) -> None:
        while True:
            await trio.sleep(0.05)
            await self.kit.bucket.sync.send_batch(self.kit.index, HTTP)

    async def upload(self, user: User) -> None:
        chat, data = self.rng.randrange(len(user.chats)), self.rng.choice(DATA)
        if chat in user.burned:
            return
        before = user.there.get((chat, data), False)
        user.there[chat, data] = before or None
        grant = self.kit.grant(user.key, data)
        chunks = list(enumerate(pieces(data)))
        self.rng.shuffle(chunks)
        if self.rng.random() < 0.2:
            chunks.pop()
        accessors = (user.chats[chat].principal,)
        answer = None
        for index, body in chunks:
            answer = await self.push(user, grant, index, body, accessors)
        if answer is not None and answer.missing == 0:
            user.there[chat, data] = True
            user.spent.append((grant, chat, data))
        elif before is False:
            user.there[chat, data] = False

    async def push(self, user: User, grant: bytes, index: int, body: bytes, accessors):
        """The answer; None for a grant that leans on a charge which has gone meanwhile."""
        try:
            return await self.kit.push(user.key, grant, index, body, accessors=accessors)
        except OstError as error:
            if error.code == "grant_closed":
                return None
            raise

    async def remove(self, user: User) -> None:
        if not user.there:
            return
        chat, data = self.rng.choice(sorted(user.there))
        before = user.there[chat, data]
        user.there[chat, data] = None if before is not False else False
        name = self.kit.key_of(data, user.key, user.chats[chat])
        (code,) = await self.kit.remove(user.key, name)
        if chat not in user.burned and before is not None and (code == "") is not before:
            raise BrokenPromiseError(f"{before} before, {code!r} when removed")
        user.there[chat, data] = False

    async def burn(self, user: User) -> None:
        """Rarely; the index has answered, so it is true from now on as soon as it is heard."""
        chat = self.rng.randrange(len(user.chats))
        if self.rng.random() < 0.1 and chat not in user.burned:
            user.burned.add(chat)
            self.kit.index.tell(e.AccessorDeleted(user.chats[chat].principal))

    async def check(self) -> None:
        """After a start, and what it takes up by itself: what was told is so."""
        await trio.testing.wait_all_tasks_blocked()
        state = self.kit.bucket.desk.state
        if self.kit.index.acked >= state.number(t.OUTBOX_NEXT):
            raise BrokenPromiseError("the index has heard an event that the log does not hold")
        for user in self.users:
            for (chat, data), there in user.there.items():
                if there is not None and chat not in user.burned:
                    readable = await self.kit.readable(READER, user.chats[chat], data)
                    if readable is not there:
                        raise BrokenPromiseError(f"told {there}, found {readable}")
                    continue
                # From here on the user knows again.
                readable = await self.kit.readable(READER, user.chats[chat], data)
                user.there[chat, data] = readable
            await self.check_spent(user)

    async def check_spent(self, user: User) -> None:
        for grant, chat, data in user.spent:
            before = user.there[chat, data]
            accessors = (user.chats[chat].principal,)
            answer = await self.push(user, grant, 0, pieces(data)[0], accessors)
            if answer is not None and not before:
                raise BrokenPromiseError("a grant was used twice")
            if chat not in user.burned:
                readable = await self.kit.readable(READER, user.chats[chat], data)
                if readable is not before:
                    raise BrokenPromiseError("a spent grant changed something")

    async def settle(self) -> None:
        """In the end, with every grant over: both sides agree, and nothing is left behind."""
        self.kit.clock.time += 4000
        await self.kit.talk()
        await self.kit.bucket.sweeper.expire_uploads()
        await self.kit.talk()
        rows = self.kit.bucket.store.durable
        names = [t.ReferenceId.unpack(row)[0] for _, row in rows.scan(t.REFERENCES)]
        held = {(name.uid, name.blob_id) for name in names}
        known = {
            (uid_of(user.key), blob_of(data))
            for user in self.users
            for (chat, data), there in user.there.items()
            if there and chat not in user.burned
        }
        if not held == known == set(self.kit.index.charges):
            raise BrokenPromiseError("the accounts differ")
        reserved = [self.kit.index.reserved(user.key) for user in self.users]
        if any(reserved) or list(rows.scan(t.UPLOADS)) or list(rows.scan(t.PINS)):
            raise BrokenPromiseError("something is still reserved")
        blobs = {BlobId(k[1:]) for k, _ in rows.scan(t.BLOBS)}
        chunks = sum(len(pieces(data)) for data in DATA if blob_of(data) in blobs)
        if len(list(rows.scan(t.CHUNKS))) != chunks or blobs != {blob for _, blob in known}:
            raise BrokenPromiseError("garbage, or a blob too few")


def crash_run(seed: int, *, lazy_sync: bool = False) -> int:
    """One bucket through several crashes; returns how many there were."""
    rng = Random(seed)
    kit = Kit(disk=SimDisk(rng.getrandbits(32)))
    users = [User(key(f"user {n}"), [key(f"chat {n} {c}") for c in range(3)]) for n in range(3)]
    life = Life(rng, kit, users)
    crashes = 0
    for _ in range(rng.randint(1, 3)):
        crash_at = kit.disk.operations + rng.randint(3, 120)
        kit.disk.faults = Faults(crash_at=crash_at, lazy_sync=lazy_sync)
        crashes += _live(life, steps=rng.randint(2, 8))
        after = rng.getrandbits(32)
        kit.disk = kit.disk.power_lost(after) if rng.random() < 0.7 else kit.disk.killed(after)
    kit.disk.faults = Faults()
    _live(life, steps=0)
    return crashes


def _live(life: Life, steps: int) -> bool:
    """Open, check, work until the crash, or settle; True after a crash."""

    async def live() -> None:
        async with life.kit.running():
            await life.check()
            if not steps:
                await life.settle()
                return
            async with trio.open_nursery() as background:
                background.start_soon(life.report)
                async with trio.open_nursery() as nursery:
                    for user in life.users:
                        nursery.start_soon(life.work, user, steps)
                background.cancel_scope.cancel()

    try:
        trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))
    except SimCrash:
        return True
    except BaseExceptionGroup as errors:
        broken = errors.subgroup(BrokenPromiseError)
        if broken is not None:
            raise BrokenPromiseError(repr(broken.exceptions)) from errors
        crash, rest = errors.split(SimCrash)
        expected = (StoreFailedError, ShuttingDownError)
        if crash is None or (rest is not None and rest.split(expected)[1] is not None):
            raise
        return True
    return False
