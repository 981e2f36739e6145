"""What a bucket does without being asked: sweeping, expiring, and talking with its index."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final, Protocol, TypeVar

import structlog
import trio

from ostnode.env import Clock
from ostnode.errors import BusyError, InternalError, InvalidArgumentError, ShuttingDownError
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.draft import Draft
from ostnode.roles.bucket.core.sweeps import expire_upload, sweep_slice
from ostnode.roles.bucket.core.sync import acknowledge, apply_feed, feed_level, raise_floor
from ostnode.roles.bucket.desk import Desk
from ostnode.roles.bucket.options import BucketOptions
from ostnode.roles.bucket.records import FeedCursor
from ostnode.store.store import Store
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.calls import Reply
from ostnode.wire.eventcodec import decode_event, fitting
from ostnode.wire.fields import BATCH_ITEMS_MAX, Message, Request

FEED_WAIT_MS: Final = 30_000
"""How long the index may hold a poll back while it has no news."""
_EXPIRY_INTERVAL_S: Final = 60.0
_UPLOADS_PER_SLICE: Final = 100
R = TypeVar("R", bound=Message)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class IndexPort(Protocol):
    """A link to the index, or the index itself."""

    @property
    def features(self) -> frozenset[str]:
        """What both ends understand beyond the version."""
        ...

    async def call(self, request: Request) -> Reply:
        """Make one call; raises the OstError it was refused with, or that the link is over."""
        ...


class Sweeper:
    """Draws consequences slice by slice, each decided and synced like any request."""

    def __init__(
        self, desk: Desk, options: BucketOptions, last_progress: dict[int, float], clock: Clock
    ) -> None:
        self._desk, self._options, self._clock = desk, options, clock
        self._last_progress = last_progress

    async def run(self) -> None:
        """Sweep when there is cause, and now and then, until the store fails."""
        # Why it failed is the writer's to raise; beside that this would be a second reason.
        with suppress(ShuttingDownError):
            await self._sweep_on()

    async def _sweep_on(self) -> None:
        expire_at = trio.current_time()
        while True:
            with suppress(BusyError):  # the disk is full: the next round goes on
                while await self.sweep_once():
                    pass
                if trio.current_time() >= expire_at:
                    await self.expire_uploads()
                    expire_at = trio.current_time() + _EXPIRY_INTERVAL_S
            await self._desk.sweep_news.wait(at_most_s=self._options.sweep_interval_s)

    async def sweep_once(self) -> bool:
        """One slice; whether there may be more."""
        return await self._desk.decide(lambda draft: sweep_slice(draft, self._clock.now()))

    async def expire_uploads(self) -> None:
        """Close uploads whose grant is over, or that made no progress for too long.

        A restart counts as progress: only this process knows when the last chunk came.
        """
        after, open_now = 0, set()
        while uploads := self._desk.state.uploads(after, _UPLOADS_PER_SLICE):
            numbers = [number for number, _ in uploads]
            await self._desk.decide(partial(self._expire, numbers=numbers))
            open_now.update(numbers)
            after = numbers[-1]
        for number in self._last_progress.keys() - open_now:
            del self._last_progress[number]

    def _expire(self, draft: Draft, numbers: list[int]) -> None:
        now = trio.current_time()
        for number in numbers:
            idle_s = now - self._last_progress.setdefault(number, now)
            expire_upload(draft, number, stalled=idle_s >= self._options.upload_ttl_s)


class IndexSync:
    """Keeps index and bucket agreeing: the outbox goes up, the feed comes down.

    Both are ordered and at least once. The index drops what it has had, the bucket what changes
    nothing; each moves its cursor only with the effects.
    """

    def __init__(self, desk: Desk, store: Store, options: BucketOptions, incarnation: int) -> None:
        self._desk, self._store, self._options = desk, store, options
        self._incarnation = incarnation
        self._unanswered: m.SyncBucket | None = None
        self._floor_due = 0.0

    async def run(self, port: IndexPort, http: str) -> None:
        """Talk over one link until it fails; whatever ends it is raised.

        `http` is the base URL at which clients reach the bucket.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_outbox, port, http)
            nursery.start_soon(self._poll_feed, port)

    async def _send_outbox(self, port: IndexPort, http: str) -> None:
        """An empty batch goes first, and whenever nothing else went: it tells of the space."""
        while True:
            more = await self.send_batch(port, http)
            if not more:
                await self._desk.outbox_news.wait(at_most_s=self._options.space_interval_s)

    async def send_batch(self, port: IndexPort, http: str) -> bool:
        """Send the next events and drop them once acknowledged; whether there are more.

        A batch that was never answered goes again, the same bytes.
        """
        request = self._unanswered or await self._next_batch(http)
        self._unanswered = request
        result = await _ask(port, request, m.SyncResult)
        self._unanswered = None
        for rejected in result.rejected:
            log.warning("event rejected by the index", seq=rejected.seq, reason=rejected.reason)
        through = request.first_seq + len(request.events) - 1
        if result.acked_seq < through:
            raise InvalidArgumentError("the index did not acknowledge what it was sent")
        if request.events:
            await self._desk.decide(lambda draft: acknowledge(draft, through, result))
        return bool(self._desk.state.outbox(1))

    async def _next_batch(self, http: str) -> m.SyncBucket:
        await self._desk.synced()
        view = self._desk.durable
        events = fitting(event for _, event in view.outbox(BATCH_ITEMS_MAX))
        space = self._store.space()
        return m.SyncBucket(
            incarnation=self._incarnation,
            first_seq=view.number(t.OUTBOX_ACKED) + 1,
            events=events,
            space=m.Space(space.total, space.free, space.stored),
            http=http,
        )

    async def _poll_feed(self, port: IndexPort) -> None:
        while True:
            await self.poll_feed(port, FEED_WAIT_MS)

    async def poll_feed(self, port: IndexPort, wait_ms: int) -> None:
        """Ask for what is behind the cursor and apply it."""
        view, level = self._desk.durable, feed_level(port.features)
        incarnation, seq = view.feed_cursor()
        if level > view.feed_level():
            seq = 0
        batch = await _ask(port, m.Feed(incarnation, seq, wait_ms), m.FeedBatch)
        if incarnation not in {0, batch.incarnation}:
            raise InvalidArgumentError("the index is of another incarnation than its feed was")
        events = [event for data in batch.events if (event := _feed_event(data)) is not None]
        cursor = FeedCursor(batch.incarnation, max(seq, batch.next_seq), level or None)
        await self._desk.decide(lambda draft: apply_feed(draft, events, cursor))
        if trio.current_time() >= self._floor_due:
            await self._desk.decide(lambda draft: raise_floor(draft, batch.index_time))
            self._floor_due = trio.current_time() + self._options.floor_interval_s


async def _ask(port: IndexPort, request: Request, expected: type[R]) -> R:
    """Call and check the answer's type."""
    reply = await port.call(request)
    if not isinstance(reply.message, expected):
        raise InternalError(f"the index answered {type(reply.message).__name__}")
    return reply.message


def _feed_event(data: bytes) -> e.FeedEvent | None:
    """A well-formed event. One that is not is reported and set aside: the feed moves on."""
    try:
        event = decode_event(data, e.FeedEvent)
    except InvalidArgumentError as error:
        log.warning("malformed feed event", reason=error.message, data=data.hex())
        return None
    assert isinstance(event, e.FeedEvent)
    return event
