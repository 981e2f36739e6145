"""Frames: however the stream is cut, and never over the limits."""

from __future__ import annotations

import pytest

from ostnode.errors import FrameTooLargeError
from ostnode.wire.frames import (
    BODY_BYTES_MAX,
    GREETING_BYTES_MAX,
    HEADER_BYTES_MAX,
    SCRATCH_BYTES,
    SCRATCH_BYTES_IDLE,
    FrameReader,
    RemoteProtocolError,
    pack_frame,
)

SMALL = pack_frame(b"header", b"body") + b"body"


def opened() -> FrameReader:
    reader = FrameReader()
    reader.header_bytes_max, reader.body_bytes_max = HEADER_BYTES_MAX, BODY_BYTES_MAX
    return reader


def read(reader: FrameReader, data: bytes, step: int = 1 << 30) -> list[tuple[bytes, bytes]]:
    frames = []
    while data:
        buffer = reader.buffer()
        piece = data[: min(step, len(buffer))]
        buffer[: len(piece)] = piece
        reader.received(len(piece))
        data = data[len(piece) :]
        while (frame := reader.next_frame()) is not None:
            frames.append((frame.header, bytes(frame.body)))
    return frames


def test_the_layout_is_two_big_endian_lengths_then_header_then_body():
    assert bytes.fromhex("00000006 00000004") + b"headerbody" == SMALL


@pytest.mark.parametrize("step", [1, 3, 7, 1 << 20])
def test_b48_whole_glued_and_byte_by_byte_read_alike(step):
    big = bytes(range(256)) * 1024
    stream = SMALL + pack_frame(b"") + pack_frame(b"h" * HEADER_BYTES_MAX, big) + big + SMALL
    expected = [
        (b"header", b"body"),
        (b"", b""),
        (b"h" * HEADER_BYTES_MAX, big),
        (b"header", b"body"),
    ]
    if step < 7:
        stream = stream.replace(big, b"").replace(b"h" * HEADER_BYTES_MAX, b"")
        stream, expected = SMALL + pack_frame(b"") + SMALL, [expected[i] for i in (0, 1, 3)]
    assert read(opened(), stream, step) == expected


def test_b50_an_idle_reader_holds_little_and_grows_with_what_comes():
    reader = opened()
    large, small = pack_frame(bytes(HEADER_BYTES_MAX)), pack_frame(b"head")
    assert len(reader.buffer()) == SCRATCH_BYTES_IDLE
    assert [len(header) for header, _ in read(reader, large)] == [HEADER_BYTES_MAX]
    assert len(reader.buffer()) == SCRATCH_BYTES
    receiving = reader.buffer()
    reader.trim()
    receiving[: len(small)] = small
    reader.received(len(small))
    assert reader.next_frame() == (b"head", b"")
    assert len(reader.buffer()) == SCRATCH_BYTES_IDLE
    assert [header for header, _ in read(reader, small * 1000)] == [b"head"] * 1000
    assert len(reader.buffer()) == SCRATCH_BYTES


def test_a_body_is_received_into_its_own_buffer():
    reader = opened()
    body = bytes(100_000)
    read(reader, pack_frame(b"h", body) + body[:10])
    assert len(reader.buffer()) == len(body) - 10


def test_trailing_bytes_wait_for_their_frame():
    reader = opened()
    assert read(reader, SMALL + SMALL[:5]) == [(b"header", b"body")]
    assert reader.inside_frame
    assert read(reader, SMALL[5:]) == [(b"header", b"body")]
    assert not reader.inside_frame


def test_inside_a_body_is_inside_a_frame():
    reader = opened()
    read(reader, SMALL[:-1])
    assert reader.inside_frame


@pytest.mark.parametrize(
    ("header", "body"), [(HEADER_BYTES_MAX + 1, 0), (0, BODY_BYTES_MAX + 1), (2**32 - 1, 2**32 - 1)]
)
def test_b47_a_lying_length_is_refused_by_the_prefix_alone(header, body):
    prefix = header.to_bytes(4, "big") + body.to_bytes(4, "big")
    with pytest.raises(RemoteProtocolError) as caught:
        read(opened(), prefix)
    assert isinstance(caught.value.refusal, FrameTooLargeError)


@pytest.mark.parametrize(("header", "body"), [(GREETING_BYTES_MAX + 1, 0), (0, 1)])
def test_b47_a_stranger_gets_small_frames_without_bodies(header, body):
    with pytest.raises(RemoteProtocolError):
        read(FrameReader(), header.to_bytes(4, "big") + body.to_bytes(4, "big"))


def test_frames_over_the_limits_are_not_packed():
    with pytest.raises(FrameTooLargeError, match="header"):
        pack_frame(bytes(HEADER_BYTES_MAX + 1))
    with pytest.raises(FrameTooLargeError, match="body"):
        pack_frame(b"", bytes(BODY_BYTES_MAX + 1))
