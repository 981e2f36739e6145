"""A request's body, read in either way from whatever the socket gives."""

from __future__ import annotations

import h11
import pytest
import trio

from ostnode.config import HttpLimits
from ostnode.web.bodies import RequestBody

LIMITS = HttpLimits(body_grace=10, body_rate_min=100)


class Pieces:
    """Gives its pieces one by one, each after a pause; then the end."""

    def __init__(self, *pieces: bytes, pause: float = 0) -> None:
        self.pieces = list(pieces)
        self.pause = pause
        self.sizes: list[int] = []

    async def receive(self, size: int, deadline: float) -> bytes | None:
        self.sizes.append(size)
        with trio.move_on_at(deadline):
            await trio.sleep(self.pause)
            if not self.pieces:
                return b""
            piece = self.pieces.pop(0)
            if piece[size:]:
                self.pieces.insert(0, piece[size:])
            return piece[:size]
        return None

    async def receive_into(self, buffer: memoryview, deadline: float) -> int | None:
        data = await self.receive(len(buffer), deadline)
        if data is None:
            return None
        buffer[: len(data)] = data
        return len(data)


def sized(length: int, source: Pieces, buffered: bytes = b"") -> tuple[RequestBody, bytearray]:
    buffer = bytearray(buffered)
    return RequestBody(source, LIMITS, h11.Connection(h11.SERVER), length, buffer), buffer


def chunked(source: Pieces, buffered: bytes = b"") -> tuple[RequestBody, bytearray]:
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    parser.next_event()
    buffer = bytearray(buffered)
    return RequestBody(source, LIMITS, parser, None, buffer), buffer


async def collect(body: RequestBody) -> bytes:
    data = b""
    while piece := await body.read():
        data += piece
    return data


async def test_a_body_is_what_was_buffered_and_what_follows_and_no_more() -> None:
    source = Pieces(b"defXYZ")
    body, buffer = sized(6, source, b"abc")
    assert await collect(body) == b"abcdef"
    assert body.whole
    assert source.sizes == [3]
    body, buffer = sized(2, Pieces(), b"abNEXT")
    assert await collect(body) == b"ab"
    assert buffer == b"NEXT"


@pytest.mark.parametrize("step", [1, 4, 100])
async def test_a_body_read_into_a_buffer_is_the_same(step: int) -> None:
    body, buffer = sized(9, Pieces(b"de", b"fghiXY"), b"abc")
    data = b""
    target = bytearray(step)
    while received := await body.read_into(memoryview(target)):
        data += target[:received]
    assert data == b"abcdefghi"
    assert body.whole
    assert not body.failure
    assert await body.read_into(memoryview(target)) == 0
    assert buffer == b""


async def test_a_chunked_body_leaves_what_is_behind_it() -> None:
    body, buffer = chunked(Pieces(b"b\r\n3;x\r\ncde\r\n0\r\n", b"\r\nGET"), b"2\r\na")
    assert not body.fits(1 << 40)
    assert await collect(body) == b"abcde"
    assert body.whole
    assert buffer == b"GET"


@pytest.mark.parametrize("bad", [b"zz\r\n", b"2\r\nabXX", b"2\r\nab"])
async def test_a_malformed_or_cut_chunked_body_has_failed(bad: bytes) -> None:
    body, _ = chunked(Pieces(bad))
    await collect(body)
    assert body.failure == 400
    assert not body.whole


async def test_a_cut_body_has_failed_and_stays_so() -> None:
    for read in ("read", "read_into"):
        body, _ = sized(10, Pieces(b"abc"))
        ask = body.read if read == "read" else lambda b=body: b.read_into(memoryview(bytearray(9)))
        assert await ask()
        assert not await ask()
        assert body.failure == 400
        assert not await ask()


async def test_a_trickle_runs_out_of_patience_and_a_steady_stream_does_not(autojump_clock) -> None:
    body, _ = sized(10_000, Pieces(*[b"a"] * 10_000, pause=1))
    await collect(body)
    assert body.failure == 408
    assert trio.current_time() == pytest.approx(10.1, abs=0.2)
    body, _ = sized(10_000, Pieces(*[b"a" * 100] * 100, pause=0.9))
    assert len(await collect(body)) == 10_000
    assert not body.failure


async def test_only_waiting_for_the_client_uses_its_patience(autojump_clock) -> None:
    body, _ = sized(30, Pieces(*[b"a"] * 30, pause=0.001))
    for _ in range(30):
        assert await body.read()
        await trio.sleep(60)  # we are slow, not the client
    assert body.whole


async def test_draining_is_bounded() -> None:
    source = Pieces(*[b"a" * 10] * 10)
    body, _ = sized(100, source)
    await body.drain(35)
    assert len(source.pieces) == 6
    assert not body.whole
    await body.drain(1000)
    assert body.whole
