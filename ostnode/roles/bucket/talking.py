"""Talking with the index: the outbox goes up, the feed comes down, and both are compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import structlog
import trio

from ostnode.env import Clock
from ostnode.errors import InvalidArgumentError
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.asking import IndexPort, ask
from ostnode.roles.bucket.comparing import Comparer, Page, begin
from ostnode.roles.bucket.core.sync import acknowledge, apply_feed, feed_level, raise_floor
from ostnode.roles.bucket.desk import Desk
from ostnode.roles.bucket.incarnation import SetBack, begin_anew
from ostnode.roles.bucket.options import BucketOptions
from ostnode.roles.bucket.records import FeedCursor
from ostnode.roles.bucket.views import View
from ostnode.store.store import Store
from ostnode.wire import checking as c
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.eventcodec import decode_event, fitting
from ostnode.wire.fields import BATCH_ITEMS_MAX
from ostnode.wire.session import LEDGER

FEED_WAIT_MS: Final = 30_000
"""How long the index may hold a poll back while it has no news."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class IndexSync:
    """Keeps index and bucket agreeing: the outbox goes up, the feed comes down.

    Both are ordered and at least once. The index drops what it has had, the bucket what changes
    nothing; each moves its cursor only with the effects. When the index says that one side was set
    back, the bucket begins anew and goes on.
    """

    def __init__(self, desk: Desk, store: Store, options: BucketOptions, clock: Clock) -> None:
        self._desk, self._store, self._options = desk, store, options
        self._clock = clock
        self._turn = trio.Lock()
        """Of whatever sends events: one batch is in flight."""
        self._begun = 0
        self._unanswered: m.SyncBucket | None = None
        self._floor_due = 0.0

    async def run(self, port: IndexPort, http: str) -> None:
        """Talk over one link until it fails; whatever ends it is raised.

        `http` is the base URL at which clients reach the bucket.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_outbox, port, http)
            nursery.start_soon(self._poll_feed, port)
            if LEDGER in port.features:
                nursery.start_soon(self.comparer(http).run, port)

    def comparer(self, http: str) -> Comparer:
        """Compares with the index, each page in the outbox's turn."""

        async def send(port: IndexPort, page: Page) -> c.Compared:
            async with self._turn:
                await self._desk.synced()
                view = self._desk.durable
                position = view.number(t.OUTBOX_NEXT) - 1
                request = page(view, position)
                while self._desk.durable.number(t.OUTBOX_ACKED) < position:
                    await self._send(port, http, position)
                return await ask(port, request, c.Compared)

        return Comparer(self._desk, send)

    async def _send_outbox(self, port: IndexPort, http: str) -> None:
        """An empty batch goes first, and whenever nothing else went: it tells of the space."""
        while True:
            more = False
            begun = self._begun
            try:
                more = await self.send_batch(port, http)
            except InvalidArgumentError as error:
                await self._begin_anew(port, error, begun)
                continue
            if not more:
                await self._desk.outbox_news.wait(at_most_s=self._options.space_interval_s)

    async def send_batch(self, port: IndexPort, http: str) -> bool:
        """Send the next events and drop them once acknowledged; whether there are more.

        A batch that was never answered goes again, the same bytes.
        """
        async with self._turn:
            return await self._send(port, http)

    async def _send(self, port: IndexPort, http: str, through: int | None = None) -> bool:
        """The same for events up to `through`."""
        request = self._unanswered or await self._next_batch(http, through)
        self._unanswered = request
        result = await ask(port, self._told_to(port, request), m.SyncResult)
        self._unanswered = None
        last = request.first_seq + len(request.events) - 1
        if result.acked_seq < last:
            raise InvalidArgumentError("the index did not acknowledge what it was sent")
        if request.events:
            await self._desk.decide(lambda draft: acknowledge(draft, last, result))
        # Once that is durable: what a full disk refuses is sent again, and answered alike.
        for rejected in result.rejected:
            log.warning("event rejected by the index", seq=rejected.seq, reason=rejected.reason)
        return bool(self._desk.state.outbox(1))

    def _told_to(self, port: IndexPort, request: m.SyncBucket) -> m.SyncBucket:
        """With what newer links alone take: where the bucket stands, and its share."""
        if LEDGER not in port.features:
            return request
        return replace(request, zone=self._options.zone, weight=self._options.weight)

    async def _begin_anew(self, port: IndexPort, error: InvalidArgumentError, begun: int) -> None:
        """Start a full resync, if that is what the index says; else raise what it said.

        Outbox and feed may both hear it: `begun` says what had begun when the call was made.
        """
        told = SetBack.told_by(error)
        if told is None or LEDGER not in port.features:
            raise error
        async with self._turn:
            if self._begun != begun:
                return
            log.warning("full resync", reason=error.message)
            self._unanswered = None
            await begin_anew(self._desk, self._clock, told)
            await self._desk.synced()
            await ask(port, begin(self._desk.durable), c.Compared)
            self._begun += 1

    async def _next_batch(self, http: str, through: int | None) -> m.SyncBucket:
        await self._desk.synced()
        view = self._desk.durable
        waiting = view.outbox(BATCH_ITEMS_MAX)
        events = fitting(event for seq, event in waiting if through is None or seq <= through)
        return m.SyncBucket(
            incarnation=view.number(t.INCARNATION),
            first_seq=view.number(t.OUTBOX_ACKED) + 1,
            events=events,
            space=self._space(view),
            http=http,
        )

    def _space(self, view: View) -> m.Space:
        """The disk; free is what uploads may still be promised, as they will be refused by it."""
        space = self._store.space()
        kept = view.number(t.PROMISED) + self._options.rules.free_bytes_min
        return m.Space(space.total, max(0, space.free - kept), space.stored)

    async def _poll_feed(self, port: IndexPort) -> None:
        while True:
            begun = self._begun
            try:
                await self.poll_feed(port, FEED_WAIT_MS)
            except InvalidArgumentError as error:
                await self._begin_anew(port, error, begun)

    async def poll_feed(self, port: IndexPort, wait_ms: int) -> None:
        """Ask for what is behind the cursor and apply it."""
        view, level = self._desk.durable, feed_level(port.features)
        known = incarnation, seq = view.feed_cursor()
        if level > view.feed_level():
            seq = 0
        batch = await ask(port, m.Feed(incarnation, seq, wait_ms), m.FeedBatch)
        if incarnation not in {0, batch.incarnation}:
            raise InvalidArgumentError("the index is of another incarnation than its feed was")
        events, malformed = _feed_events(batch.events)
        cursor = FeedCursor(batch.incarnation, max(seq, batch.next_seq), level or None)
        # Meanwhile the index or the bucket may have begun anew: then this is of the life before.
        await self._desk.decide(
            lambda draft: (
                apply_feed(draft, events, cursor) if draft.feed_cursor() == known else None
            )
        )
        for data, error in malformed:
            log.warning("malformed feed event", reason=error.message, data=data.hex())
        if trio.current_time() >= self._floor_due:
            await self._desk.decide(lambda draft: raise_floor(draft, batch.index_time))
            self._floor_due = trio.current_time() + self._options.floor_interval_s


def _feed_events(
    batch: Iterable[bytes],
) -> tuple[list[e.FeedEvent], list[tuple[bytes, InvalidArgumentError]]]:
    """The well-formed events. Those that are not are reported and set aside: the feed moves on."""
    events: list[e.FeedEvent] = []
    malformed: list[tuple[bytes, InvalidArgumentError]] = []
    for data in batch:
        try:
            event = decode_event(data, e.FeedEvent)
        except InvalidArgumentError as error:
            malformed.append((data, error))
        else:
            assert isinstance(event, e.FeedEvent)
            events.append(event)
    return events, malformed
