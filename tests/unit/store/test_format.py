"""The bytes of a segment."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostnode.store.format import (
    FLAG_DAMAGED,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TRAILER_BYTES,
    FooterEntry,
    RecordHeader,
    SegmentHeader,
    Trailer,
    record_bytes,
    seal_bytes,
    segment_key,
)

KEY = segment_key(b"u" * 16)
HEADER = RecordHeader(7, 3, 11, 12, 13, 14, 15, b"b" * 32, b"d" * 16)
SEGMENT = SegmentHeader(3, b"u" * 16, b"o" * 32, 1_700_000_000_000_000, 41, 9)


def test_a_record_header_has_exactly_the_documented_bytes() -> None:
    packed = HEADER.pack(KEY, 4096)
    assert len(packed) == RECORD_HEADER_BYTES == 96
    assert packed[:88].hex() == (
        "4f735231" "07" "03" "0100" "0b000000" "0c000000"
        "0d00000000000000" "0e00000000000000" "0f00000000000000"
    ) + "62" * 32 + "64" * 16  # fmt: skip


def test_a_record_header_is_valid_only_where_it_was_written() -> None:
    packed = HEADER.pack(KEY, 4096)
    assert RecordHeader.parse(packed, KEY, 4096) == HEADER
    assert RecordHeader.parse(packed, KEY, 4104) is None
    assert RecordHeader.parse(packed, segment_key(b"v" * 16), 4096) is None
    assert RecordHeader.parse(packed[:-1], KEY, 4096) is None
    assert RecordHeader.parse(bytes(96), KEY, 4096) is None


@pytest.mark.parametrize("at", range(96))
def test_any_damaged_byte_of_a_record_header_is_seen(at: int) -> None:
    packed = bytearray(HEADER.pack(KEY, 4096))
    packed[at] ^= 0x10
    assert RecordHeader.parse(bytes(packed), KEY, 4096) is None


def test_a_segment_header_survives_one_bad_copy() -> None:
    packed = SEGMENT.pack()
    assert len(packed) == SEGMENT_HEADER_BYTES
    assert SegmentHeader.parse(packed) == SEGMENT
    assert SegmentHeader.parse(bytes(512) + packed[512:]) == SEGMENT
    assert SegmentHeader.parse(packed[:2048]) == SEGMENT
    assert SegmentHeader.parse(packed[:2048] + bytes(2048)) == SEGMENT
    assert SegmentHeader.parse(b"x" + packed[1:2050] + b"x" + packed[2051:]) is None
    assert SegmentHeader.parse(b"") is None


def test_a_segment_header_says_how_often_it_was_rewritten() -> None:
    packed = replace(SEGMENT, generation=3).pack()
    assert packed[8:16].hex() == "0100000003000000"
    parsed = SegmentHeader.parse(packed)
    assert parsed is not None
    assert parsed.generation == 3


def test_a_file_of_another_kind_is_no_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ostnode.store.format._SEGMENT_MAGIC", b"Another!")
    packed = SEGMENT.pack()
    assert SegmentHeader.parse(packed) == SEGMENT
    monkeypatch.undo()
    assert SegmentHeader.parse(packed) is None


def test_footer_entries_sort_by_blob_then_sequence() -> None:
    entries = [
        FooterEntry(HEADER._replace(blob=bytes([blob]) * 32, seq=seq), 4096)
        for blob in (0, 1, 255)
        for seq in (1, 255, 256, 1 << 40)
    ]
    packed = [entry.pack() for entry in entries]
    assert sorted(packed, reverse=True) == packed[::-1]
    assert [FooterEntry.parse(data) for data in packed] == entries
    assert FLAG_DAMAGED & HEADER.flags == 0


def test_a_trailer_is_valid_only_where_it_was_written() -> None:
    trailer = Trailer(5000, 3, 77, 8, b"d" * 16)
    packed = trailer.pack(KEY, 6000)
    assert len(packed) == TRAILER_BYTES
    assert Trailer.parse(packed, KEY, 6000) == trailer
    assert Trailer.parse(packed, KEY, 6008) is None
    assert Trailer.parse(packed[1:], KEY, 6000) is None
    assert Trailer.parse(b"x" + packed[1:], KEY, 6000) is None


def test_sizes_are_padded_to_eight_bytes() -> None:
    assert [record_bytes(n) for n in (0, 1, 8, 9)] == [96, 104, 104, 112]
    assert seal_bytes(2) == 96 + 2 * 96 + 64
