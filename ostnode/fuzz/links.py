"""One hostile connection: sends what its case says, hears what comes, and keeps the judge told."""

from __future__ import annotations

import time
from typing import Final

import trio

from ostnode.codec import encode
from ostnode.fuzz import spec
from ostnode.fuzz.cases import NO_BINDING, Greet, Prove, Send
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.judge import Judge
from ostnode.wire import session as s
from ostnode.wire.frames import PREFIX
from ostnode.wire.schema import to_map
from ostnode.wire.session import FrameKind

RECEIVE_BYTES: Final = 65_536
GREETED_WITHIN_S: Final = 1.0
"""A node that is there says its HELLO, and welcomes, in milliseconds."""
SEND_WITHIN_S: Final = 2.0
"""A node may stop reading; what does not go out in this time is left."""
WINDOW_REQUESTS: Final = 32
NONCE: Final = bytes(range(32))
BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class FuzzLink:
    """A dialled connection. `read` runs as a task beside the steps."""

    def __init__(
        self, stream: trio.abc.Stream, judge: Judge, cast: Cast, *, gap_s_max: float
    ) -> None:
        self.judge = judge
        self._gap_s_max = gap_s_max
        self._stream = stream
        self._cast = cast
        self.greeting = b""
        self._hearing = trio.Event()
        self._hearing.set()
        self._deaf_since = 0.0
        self.changed = trio.Event()
        self.judging_s = 0.0
        """Processor time that the judge took: not the node's."""

    async def read(self) -> None:
        """Hear until the node ends its side."""
        broken = False
        try:
            while True:
                await self._hearing.wait()
                data = await self._stream.receive_some(RECEIVE_BYTES)
                if not data:
                    break
                started = time.process_time()
                self.judge.heard(bytes(data), trio.current_time())
                self.judging_s += time.process_time() - started
                self._tell()
        except BROKEN:
            broken = True
        self.judge.ended(trio.current_time(), broken=broken)
        self._tell()

    async def greet(self, step: Greet) -> None:
        """Send a HELLO."""
        hello = s.Hello(
            protocol_min=s.PROTOCOL_MIN,
            protocol_max=s.PROTOCOL_MAX,
            principal=self._cast.principal(step.who),
            nonce=NONCE,
            window_requests=WINDOW_REQUESTS,
            window_bytes=1 << 23,
            features=s.FEATURES,
        )
        self.greeting = encode({
            "t": FrameKind.HELLO.value,
            **to_map(hello),
            **step.changes,
        })
        await self._send(frame(self.greeting))

    async def prove(self, step: Prove, over: FuzzLink | None) -> None:
        """Send AUTH once the node's HELLO is there, or not at all."""
        heard = self if over is None else over
        with trio.move_on_after(GREETED_WITHIN_S):
            while not heard.judge.their_hello and heard.judge.ended_at < 0:
                await heard.changed.wait()
        binding = self.judge.channel.binding
        if step.binding:
            binding = b"" if step.binding == NO_BINDING else bytes.fromhex(step.binding)
        statement = spec.statement(step.side, heard.greeting, heard.judge.their_hello, binding)
        signature = self._cast.key(step.who).sign(statement)
        await self._send(frame(encode({"t": FrameKind.AUTH.value, "signature": signature})))
        if over is None:
            await self._welcomed()

    async def _welcomed(self) -> None:
        """Wait until the proof is answered: what follows is then judged as on an open link."""
        with trio.move_on_after(GREETED_WITHIN_S):
            while self.judge.is_waiting:
                await self.changed.wait()

    async def send(self, step: Send) -> None:
        """Send bytes, in the pieces that the step says."""
        payload = memoryview(step.payload)
        start = 0
        for cut in (*(cut for cut in step.cuts if cut < len(payload)), len(payload)):
            await self._send(payload[start:cut])
            start = cut
            if step.gap:
                await trio.sleep(min(step.gap, self._gap_s_max))

    async def _send(self, data: bytes | memoryview) -> None:
        if not data or self.judge.channel.is_reset or self.judge.channel.finished_at >= 0:
            return
        # Told first: an answer may come before the send returns.
        started = time.process_time()
        self.judge.sent(data, trio.current_time())
        self.judging_s += time.process_time() - started
        with trio.move_on_after(SEND_WITHIN_S) as scope:
            try:
                await self._stream.send_all(data)
            except BROKEN:
                return
        if scope.cancelled_caught:
            # An unknown part went out, and the stream is of no more use.
            await self.reset()

    def go_deaf(self) -> None:
        """Read nothing from here on."""
        if not self.judge.channel.deaf:
            self._hearing = trio.Event()
            self._deaf_since = trio.current_time()
            self.judge.channel.deaf = True

    def listen(self) -> None:
        """Read again."""
        channel = self.judge.channel
        if channel.deaf:
            channel.deaf = False
            channel.listened_at = trio.current_time()
            channel.deaf_s += max(channel.listened_at - self._deaf_since, 0.001)
            self._hearing.set()

    async def finish(self) -> None:
        """End our side; where that cannot be done by halves, all of it."""
        channel = self.judge.channel
        if channel.is_reset or channel.finished_at >= 0:
            return
        channel.finished_at = trio.current_time()
        try:
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                with trio.move_on_after(SEND_WITHIN_S):
                    await self._stream.send_eof()
        except BROKEN:
            channel.is_reset = True

    async def reset(self) -> None:
        """Cut the connection."""
        self.judge.channel.is_reset = True
        await trio.aclose_forcefully(self._stream)
        self._hearing.set()

    async def close(self) -> None:
        """Let go of the stream; the case is over."""
        await trio.aclose_forcefully(self._stream)

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


def frame(header: bytes, body: bytes = b"") -> bytes:
    """A frame with true lengths."""
    return PREFIX.pack(len(header), len(body)) + header + body
