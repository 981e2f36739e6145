"""What both ends of a link share: reading events, one writer, signs of life."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from ostnode.env import Rng
from ostnode.ids import Principal
from ostnode.net.outlet import Outlet, Unsent
from ostnode.net.transport import (
    LinkClosedError,
    end_sending,
    receive_into,
    send_now,
    send_pieces,
)
from ostnode.wire import session as s
from ostnode.wire.buffers import Buffer
from ostnode.wire.connection import Connection, Outgoing
from ostnode.wire.incoming import NEED_DATA, Event, PingReceived, PongReceived
from ostnode.wire.states import State

JOIN_BYTES_MAX: Final = 64 * 1024
"""Frames go out together until this many bytes; more would only wait in the socket's buffer."""
PIECES_MAX: Final = 256
"""Of one write; the system takes 1024 (IOV_MAX)."""
_DRAIN_BYTES: Final = 64 * 1024
_EVENTS_BETWEEN_CHECKPOINTS: Final = 16
"""Parsing one small frame takes some 20 µs; other tasks should not wait much over that much."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What one link may hold, and how long its peer may be silent.

    `window_requests` and `window_bytes` are what this side takes at once when it is called.
    Replies wait while more than `queue_bytes_max` are unsent. A handshake, one frame and one
    write must each end within their times; silence is probed after `ping_interval_s`. An older
    program speaks up to `protocol_max` and has fewer `features`.
    """

    window_requests: int = 32
    window_bytes: int = 8 << 20
    queue_bytes_max: int = 2 << 20
    handshake_s: float = 10
    ping_interval_s: float = 15
    stall_s: float = 30
    linger_s: float = 1
    features: tuple[str, ...] = s.FEATURES
    protocol_max: int = s.PROTOCOL_MAX

    def hello(self, principal: Principal, rng: Rng, roster_epoch: int = 0) -> s.Hello:
        """Our HELLO under these limits; `roster_epoch` is that of the newest roster we know."""
        return s.Hello(
            protocol_min=s.PROTOCOL_MIN,
            protocol_max=self.protocol_max,
            principal=principal,
            nonce=rng.token(s.NONCE_BYTES),
            window_requests=self.window_requests,
            window_bytes=self.window_bytes,
            features=self.features,
            roster_epoch=roster_epoch,
        )


class Session:
    """One connection on one stream.

    `write` and `watch` run as tasks beside whoever takes events; each raises LinkClosedError
    when the link is over. Frames are posted without waiting: whoever posts bodies on another's
    behalf waits for room in `unsent` first, everything else is bounded by the window. Links share
    an `outlet`.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        connection: Connection,
        limits: LinkLimits,
        outlet: Outlet | None = None,
    ) -> None:
        self.connection = connection
        self._stream = stream
        self._limits = limits
        self._queue: deque[Buffer] = deque()
        self.unsent = Unsent(outlet or Outlet(), limits.queue_bytes_max)
        self._pong: int | None = None
        self._to_write = trio.Event()
        self.received_at = trio.current_time()
        """When what `next_event` gives had come: that may have been long before it was taken."""
        self._heard_at = self.received_at
        self._frame_since: float | None = None
        self._write_since: float | None = None
        self._pinged_at: float | None = None
        self._pings = 0
        self._events = 0

    # --- reading --------------------------------------------------------------------------------

    async def next_event(self) -> Event:
        """The next event that is not a matter of the session itself.

        Raises RemoteProtocolError, and LinkClosedError if the stream broke.
        """
        while True:
            event = self.connection.next_event()
            if event is NEED_DATA:
                await self._receive()
                continue
            self._frame_since = None
            # What was received long ago and could not be taken up before is a sign of life, too.
            self._heard_at = trio.current_time()
            self._events += 1
            if self._events % _EVENTS_BETWEEN_CHECKPOINTS == 0:
                await trio.lowlevel.checkpoint()
            if isinstance(event, PingReceived):
                # One slot, not a queue: however many pings come, one pong is owed.
                self._pong = event.token
                self._to_write.set()
            elif not isinstance(event, PongReceived):
                return event

    async def _receive(self) -> None:
        if self._frame_since is None and self.connection.inside_frame:
            self._frame_since = trio.current_time()
        count = await receive_into(self._stream, self.connection.buffer())
        self.connection.received(count)
        self._heard_at = self.received_at = trio.current_time()

    # --- writing --------------------------------------------------------------------------------

    async def say(self, outgoing: Outgoing) -> None:
        """Write a frame at once: for the handshake, while no writer runs."""
        await send_pieces(self._stream, [outgoing[0]])

    def post(self, outgoing: Outgoing, *, alone: bool = False) -> None:
        """Queue a frame. Its body must not change until it is written.

        A large frame, or one that is `alone` because no other will follow soon, begins to be
        written right here if nothing is on its way: the writer would join it with nothing.
        """
        head, body = outgoing
        pieces: Sequence[Buffer] = (head, body) if len(body) else (head,)
        if (alone or len(body) >= JOIN_BYTES_MAX) and not self.unsent.queued:
            pieces = send_now(self._stream, pieces)
            if not pieces:
                return
        self._queue.extend(pieces)
        self.unsent.queue(sum(map(len, pieces)))
        self._to_write.set()

    async def write(self) -> None:
        """The writer task: it alone sends while anything is queued, and `post` while nothing is."""
        while True:
            if self._pong is not None and self.connection.state is State.OPEN:
                token, self._pong = self._pong, None
                self.post(self.connection.send_pong(token))
            if not self._queue:
                self._to_write = trio.Event()
                await self._to_write.wait()
                continue
            pieces, size = self._next_write()
            self._write_since = trio.current_time()
            await send_pieces(self._stream, pieces)
            del pieces  # an idle link keeps no body alive
            self._write_since = None
            self.unsent.written(size)

    def _next_write(self) -> tuple[list[Buffer], int]:
        """What to write in one system call: small frames together, or up to one large body."""
        pieces: list[Buffer] = []
        size = 0
        while self._queue and size < JOIN_BYTES_MAX and len(pieces) < PIECES_MAX:
            pieces.append(self._queue.popleft())
            size += len(pieces[-1])
        return pieces, size

    async def linger(self) -> None:
        """Let the last words be read: flush, end our side, drain the peer's for a moment.

        A socket closed over unread bytes is reset, and the reset overtakes what was written.
        Raises LinkClosedError if the stream broke.
        """
        with trio.move_on_after(self._limits.linger_s):
            await self.unsent.flushed()
            await end_sending(self._stream)
            scratch = memoryview(bytearray(_DRAIN_BYTES))
            while await receive_into(self._stream, scratch):
                pass

    # --- signs of life --------------------------------------------------------------------------

    async def watch(self) -> None:
        """The task that ends a link whose peer is silent, dribbles, or does not read."""
        while True:
            await trio.sleep(self._limits.ping_interval_s)
            now = trio.current_time()
            since = [at for at in (self._frame_since, self._write_since) if at is not None]
            if since and now - min(since) > self._limits.stall_s:
                raise LinkClosedError("the peer stalled in the middle of a frame")
            # While a write is under way the ping may be stuck behind it: stalling decides then.
            silent = self._pinged_at is not None and self._heard_at < self._pinged_at
            if silent and self._write_since is None:
                raise LinkClosedError("the peer is silent")
            quiet = now - self._heard_at >= self._limits.ping_interval_s
            if quiet:
                self.connection.trim()
            if quiet and not silent and self.connection.state is State.OPEN:
                self._pinged_at = now
                self._pings += 1
                self.post(self.connection.send_ping(self._pings))
