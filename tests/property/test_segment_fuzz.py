"""Any bytes in a segment give records or a typed error: no crash, nothing that was not written."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ostnode.codec import decode, encode
from ostnode.errors import InvalidArgumentError
from ostnode.roles.bucket.payloads import KINDS, decode_payload, encode_payload
from ostnode.roles.bucket.records import Kind
from ostnode.store.checking import SegmentCheck
from ostnode.store.format import (
    FLAG_END,
    FLAG_FIRST,
    FOOTER_ENTRY_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    TRAILER_BYTES,
    FooterEntry,
    RecordHeader,
    SegmentHeader,
    Trailer,
    payload_digest,
    record_bytes,
    segment_key,
)
from ostnode.store.record import ROLE_KIND_MAX, ZERO_32
from ostnode.store.scan import Bad, Found, judge, scan
from ostnode.store.segment import parse_footer, read_footer, read_header, read_trailer, write_seal
from ostnode.store.simdisk import SimDisk, SimFile
from ostnode.store.siminode import Inode

UUID = b"segment uuid 16."
KEY = segment_key(UUID)
HEADER = SegmentHeader(3, UUID, b"o" * 32, 1_700_000_000_000_000, 41, 9)
PAYLOADS = [bytes([65 + n]) * length for n, length in enumerate((0, 1, 7, 8, 300, 5000, 40, 9, 64))]
U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
BYTE, B16, B32 = (
    st.integers(0, 255),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
)
HEADERS = st.builds(RecordHeader, BYTE, BYTE, U32, U32, U64, U64, U64, B32, B16)


def file_of(data: bytes) -> SimFile:
    disk = SimDisk()
    disk.files["00000003.seg"] = Inode(seen=bytearray(data))
    return disk.open("00000003.seg", write=True)


def segment(*, sealed: bool) -> bytes:
    """Three batches of three records, sealed or with zeros behind them."""
    out = bytearray(HEADER.pack())
    entries = bytearray()
    for number, payload in enumerate(PAYLOADS):
        flags = {0: FLAG_FIRST, 2: FLAG_END}.get(number % 3, 0)
        place = (len(payload), number, 41 + number, 9 + number // 3, 7)
        head = RecordHeader(
            number + 1, flags, *place, bytes([number]) * 32, payload_digest(payload)
        )
        entries += FooterEntry(head, len(out)).pack()
        out += head.pack(KEY, len(out)) + payload + bytes(-len(payload) % 8)
    file = file_of(bytes(out + bytes(4096)))
    if sealed:
        write_seal(file, KEY, len(out), entries, (50, 12))
    return bytes(file._inode.seen)


SEALED, OPEN = segment(sealed=True), segment(sealed=False)
WRITTEN = {item.offset: item for item in scan(file_of(SEALED), KEY)}
assert len(WRITTEN) == len(PAYLOADS) + 1


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A real segment with pieces flipped, overwritten, moved, cut off or put in."""
    data = bytearray(draw(st.sampled_from([SEALED, OPEN])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["flip", "write", "cut", "insert", "drop", "copy"]))
        piece = draw(st.binary(max_size=16) | st.just(bytes(200)) | st.just(b"OsR1" * 8))
        if how == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "write":
            data[at : at + len(piece)] = piece
        elif how == "insert":
            data[at:at] = piece
        elif how == "drop":
            del data[at : at + len(piece)]
        elif how == "copy":
            start = draw(st.integers(0, len(data)))
            data[at : at + 500] = data[start : start + 500]
        else:
            del data[max(at, 1) :]
    return bytes(data)


def records_of(data: bytes) -> list[Found | Bad]:
    """What a scan finds, in order and without overlaps, none of it made up."""
    items = list(scan(file_of(data), KEY))
    at = SEGMENT_HEADER_BYTES
    for item in items:
        assert item.offset == at
        at = item.end
        if isinstance(item, Found):
            assert item.header == WRITTEN[item.offset].header
            start = item.offset + RECORD_HEADER_BYTES
            payload = data[start : start + item.header.length]
            assert item.whole == (payload_digest(payload) == item.header.digest)
    return items


@given(mutations())
def test_a_scan_finds_only_what_was_written(data: bytes) -> None:
    items = records_of(data)
    judged = judge(items, HEADER.first_batch)
    assert SEGMENT_HEADER_BYTES <= judged.last <= judged.end
    assert judged.items == items[: len(judged.items)]
    for item in items:
        intact = data[item.offset : item.end] == SEALED[item.offset : item.end]
        assert not intact or isinstance(item, Bad) or item.whole


@given(mutations())
def test_a_check_of_any_segment_ends_with_a_verdict(data: bytes) -> None:
    check = SegmentCheck(file_of(data), 3)
    if check.header is None:
        assert check.whole_file()
        return
    assert check.header == HEADER
    suspects, at = check.whole_file(), SEGMENT_HEADER_BYTES
    while at is not None:
        done = check.step(at, 1000)
        suspects += done.suspects
        assert done.next_offset is None or done.next_offset > at
        at = done.next_offset
    if data[SEGMENT_HEADER_BYTES:] != SEALED[SEGMENT_HEADER_BYTES:] and check.sealed:
        padding = any(data[at] for item in WRITTEN.values() for at in _padding(item))
        assert suspects or padding
    for after in (0, 44, 60):
        start = check.offset_of(after)
        assert SEGMENT_HEADER_BYTES <= start <= len(SEALED)
        assert check.step(start, 1 << 20).next_offset is None


def _padding(item: Found) -> range:
    end = item.offset + RECORD_HEADER_BYTES + item.header.length
    return range(end, item.offset + record_bytes(item.header.length))


@given(st.binary(max_size=9000), st.binary(max_size=300))
def test_any_bytes_are_no_segment(data: bytes, tail: bytes) -> None:
    for content in (data, HEADER.pack() + data, HEADER.pack() + tail + b"OsR1" + data):
        file = file_of(content)
        assert read_header(file) in {None, HEADER}
        assert read_trailer(file, KEY) is None
        assert not list(scan(file, KEY))


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=40)), max_size=6))
def test_valid_headers_may_say_anything(records: list[tuple[RecordHeader, bytes]]) -> None:
    """Lengths behind the end of the file, kinds and flags that nobody writes."""
    out = bytearray(HEADER.pack())
    for head, payload in records:
        out += head.pack(KEY, len(out)) + payload + bytes(-len(payload) % 8)
    items = list(scan(file_of(bytes(out)), KEY))
    assert not records or items
    for item in items:
        if isinstance(item, Found):
            assert item.offset < len(out)
            assert item.end <= len(out) or not item.whole
            assert FooterEntry.parse(item.entry().pack()).header.seq == item.header.seq
    judge(items, HEADER.first_batch)


@given(HEADERS, st.integers(0, 1 << 40))
def test_headers_and_entries_say_again_what_they_were_told(head: RecordHeader, at: int) -> None:
    assert RecordHeader.parse(head.pack(KEY, at), KEY, at) == head
    assert RecordHeader.parse(head.pack(KEY, at), KEY, at + 8) is None
    assert FooterEntry.parse(FooterEntry(head, at).pack()) == FooterEntry(head, at)


@given(st.lists(st.binary(min_size=96, max_size=96), max_size=8), U64)
def test_any_rows_are_a_footer_or_none(rows: list[bytes], seen: int) -> None:
    entries = parse_footer(b"".join(rows), seen)
    assert [entry.offset for entry in entries] == sorted(entry.offset for entry in entries)
    assert len(b"".join(rows)) // FOOTER_ENTRY_BYTES >= len(entries)


@given(U64, U32, U64, U64, B16)
def test_a_trailer_may_point_anywhere(seal: int, count: int, seq: int, batch: int, digest) -> None:
    seal, count = seal % (1 << 62), count % 70_000
    at = len(OPEN)
    trailer = Trailer(seal, count, seq, batch, digest)
    file = file_of(OPEN + trailer.pack(KEY, at))
    assert read_trailer(file, KEY) == trailer
    assert read_footer(file, trailer) is None
    check = SegmentCheck(file, 3)
    assert check.whole_file()
    assert check.step(SEGMENT_HEADER_BYTES, 1 << 20).next_offset is None


@given(st.binary(max_size=9000))
def test_any_bytes_are_a_header_or_none(data: bytes) -> None:
    assert SegmentHeader.parse(data) is None
    assert RecordHeader.parse(data[:96], KEY, 0) is None
    assert Trailer.parse(data[:TRAILER_BYTES], KEY, 0) is None


METADATA = sorted(set(KINDS.values()))
FIELDS = sorted({name for cls in KINDS for name in cls.__dataclass_fields__})
SCALARS = st.none() | st.booleans() | st.integers(-5, 1 << 63) | st.text(max_size=9)
ALMOST = st.recursive(
    SCALARS | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=9)
    ),
    max_leaves=12,
)


@given(st.sampled_from(METADATA), st.binary(max_size=120) | ALMOST.map(encode))
def test_any_payload_is_a_message_or_refused(kind: Kind, data: bytes) -> None:
    try:
        payload = decode_payload(kind, data)
    except InvalidArgumentError:
        return
    # All that it says is kept; a field that was left out may come with its default.
    again = decode(encode_payload(payload))
    assert isinstance(again, dict)
    assert encode({**again, **decode(data)}) == encode(again)
    assert KINDS[type(payload)] == kind


def test_a_payload_may_leave_out_what_has_a_default() -> None:
    payload = decode_payload(Kind.HEALED, encode({}))
    assert decode(encode_payload(payload)) == {"finding": b""}


@given(st.randoms(use_true_random=False), BYTE)
def test_no_foreign_record_gets_in(rng: Random, kind: int) -> None:
    """A payload that holds records of another segment, or of this one at another place."""
    inner = RecordHeader(kind, 3, 0, 0, 99, 99, 0, ZERO_32, payload_digest(b""))
    key, at = rng.choice([(segment_key(b"another segment."), 0), (KEY, 8)])
    start = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES
    payload = inner.pack(key, start + at) + bytes(8)
    head = RecordHeader(1, 3, len(payload), 0, 41, 9, 0, ZERO_32, payload_digest(payload))
    out = HEADER.pack() + head.pack(KEY, SEGMENT_HEADER_BYTES) + payload
    broken = bytearray(out)
    broken[SEGMENT_HEADER_BYTES + 20] ^= 1
    assert [item.header for item in scan(file_of(out), KEY) if isinstance(item, Found)] == [head]
    assert not list(scan(file_of(bytes(broken)), KEY))


assert max(METADATA) <= ROLE_KIND_MAX
