"""The golden files of the on-disk format: how they are made, and how they are read."""

from __future__ import annotations

import types
from collections.abc import Iterator
from itertools import count
from typing import Annotated, Union, get_args, get_origin, get_type_hints

from ostnode.roles.bucket.payloads import KINDS, decode_payload, encode_payload
from ostnode.roles.bucket.records import Kind
from ostnode.store.format import (
    FLAG_END,
    FLAG_FIRST,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
    payload_digest,
    record_bytes,
    segment_key,
)
from ostnode.store.record import KIND_MARKER, ZERO_32
from ostnode.store.scan import Found, scan
from ostnode.store.segment import (
    SegmentWriter,
    parse_footer,
    read_footer,
    read_header,
    read_trailer,
    write_seal,
)
from ostnode.store.simdisk import SimDisk, SimFile
from ostnode.wire import events
from ostnode.wire.eventcodec import encode_event
from ostnode.wire.fields import Bounds, Message

OWNER = bytes(range(100, 132))
CREATED = 1_700_000_000_123_456
BLOB = bytes(range(32))
UPLOAD = 7


def sample(hint: object, numbers: Iterator[int], *, bare: bool) -> object:
    """A value of a message's field; a `bare` one is as short as it may be."""
    if get_origin(hint) in {Union, types.UnionType}:
        (inner,) = [part for part in get_args(hint) if part is not types.NoneType]
        return None if bare else sample(inner, numbers, bare=bare)
    if get_origin(hint) is Annotated:
        inner, bounds = get_args(hint)
        return _bounded(inner, bounds, numbers, bare=bare)
    if get_origin(hint) is tuple:
        return _many(hint, 2, numbers, bare=bare)
    if hint is bool:
        return not bare
    if issubclass(hint, Message):
        return message(hint, numbers, bare=bare)
    assert issubclass(hint, bytes)
    return hint(bytes([next(numbers) % 256]) * hint.length)


def _bounded(hint: object, bounds: Bounds, numbers: Iterator[int], *, bare: bool) -> object:
    if get_origin(hint) is tuple:
        return _many(hint, max(bounds.low, 0 if bare else 2), numbers, bare=bare)
    size = bounds.low if bare else min(bounds.high, 20)
    if hint is int:
        return bounds.low if bare else min(bounds.high, 1000 + next(numbers))
    if hint is str:
        return "näme/ø"[:size].ljust(size, "-")
    return bytes([next(numbers) % 256]) * size


def _many(hint: object, length: int, numbers: Iterator[int], *, bare: bool) -> tuple[object, ...]:
    element, _ = get_args(hint)
    return tuple(sample(element, numbers, bare=bare) for _ in range(length))


def message(cls: type[Message], numbers: Iterator[int], *, bare: bool) -> Message:
    """A message with something in every field."""
    hints = get_type_hints(cls, include_extras=True)
    names = cls.__dataclass_fields__
    return cls(**{name: sample(hints[name], numbers, bare=bare) for name in names})


def shown(value: object) -> object:
    """A payload as JSON shows it."""
    if isinstance(value, Message):
        return {name: shown(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple):
        return [shown(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def payload_row(kind: Kind, payload: bytes) -> dict[str, object]:
    """A line of payloads.json."""
    fields = shown(decode_payload(kind, payload))
    return {"kind": int(kind), "name": kind.name, "payload": payload.hex(), "fields": fields}


def new_payloads() -> list[dict[str, object]]:
    """Two of every kind, as it is now: with every field filled, and with as little as may be."""
    return [
        payload_row(kind, encode_payload(message(cls, count(1), bare=bare)))
        for cls, kind in KINDS.items()
        for bare in (False, True)
    ]


def build(payloads: list[dict[str, object]]) -> dict[str, bytes]:
    """A log of three segments: sealed, a compaction's output, and one with a torn tail.

    The output has holes in its sequence, and a number that says nothing about its place.
    """
    records = [(row["kind"], bytes.fromhex(row["payload"])) for row in payloads[: 2 * 21]]
    records.insert(5, (int(Kind.CHUNK), bytes(range(256)) * 5))
    records.insert(6, (int(Kind.CHUNK), b"x"))
    records.insert(9, (int(Kind.OUTBOX), encode_event(events.FloorRaised(1_700_000_000))))
    first, second, third = records[:20], records[20:36], records[36:]
    disk = SimDisk()
    seqs = _sealed(disk, 1, first, (1, 1))
    middle = [item for place, item in enumerate(second) if place % 3]
    ends = (seqs[0] + len(second) + 1, seqs[1] + 9)
    _output(disk, 9, middle, seqs, ends)
    _torn(disk, 2, third, (ends[0] + 1, ends[1] + 1))
    return {name: bytes(inode.seen) for name, inode in disk.files.items()}


def _header(number: int, place: tuple[int, int], generation: int = 0) -> SegmentHeader:
    uuid = bytes([number]) * 16
    return SegmentHeader(number, uuid, OWNER, CREATED + number, *place, generation=generation)


def _writer(disk: SimDisk, header: SegmentHeader) -> tuple[SimFile, SegmentWriter]:
    file = disk.open(f"{header.number:08d}.seg", create=True)
    file.truncate(16 << 10)
    return file, SegmentWriter.begin(file, header, 16 << 10)


def _head(record: tuple[int, bytes], flags: int, seq: int, batch: int) -> RecordHeader:
    kind, payload = record
    index = seq if kind == Kind.CHUNK else 0
    blob = ZERO_32 if kind in {Kind.INIT, KIND_MARKER} else BLOB
    return RecordHeader(
        kind, flags, len(payload), index, seq, batch, UPLOAD, blob, payload_digest(payload)
    )


def _append(
    writer: SegmentWriter, records: list[tuple[int, bytes]], place: tuple[int, int]
) -> tuple[int, int, int]:
    """Batches of one to four records and a marker; the next offset, sequence and batch."""
    at, (seq, batch) = SEGMENT_HEADER_BYTES, place
    pieces = [*_groups(records), [(KIND_MARKER, b"")]]
    for piece in pieces:
        last = len(piece) - 1
        flags = [FLAG_FIRST * (i == 0) | FLAG_END * (i == last) for i in range(len(piece))]
        heads = [
            _head(record, flag, seq + i, batch)
            for i, (record, flag) in enumerate(zip(piece, flags, strict=True))
        ]
        writer.append(at, heads, [payload for _, payload in piece])
        at += sum(record_bytes(len(payload)) for _, payload in piece)
        seq, batch = seq + len(piece), batch + 1
    return at, seq, batch


def _groups(records: list[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    at = 0
    for number in count():
        if at >= len(records):
            return
        yield records[at : at + 1 + number % 4]
        at += 1 + number % 4


def _sealed(
    disk: SimDisk, number: int, records: list[tuple[int, bytes]], place: tuple[int, int]
) -> tuple[int, int]:
    file, writer = _writer(disk, _header(number, place))
    at, seq, batch = _append(writer, records, place)
    writer.seal(at, seq, batch)
    file.close()
    return seq + 1, batch + 1


def _output(
    disk: SimDisk,
    number: int,
    records: list[tuple[int, bytes]],
    place: tuple[int, int],
    ends: tuple[int, int],
) -> None:
    """What a compaction makes: records keep their numbers and flags, others are gone."""
    header = _header(number, place, generation=2)
    file, writer = _writer(disk, header)
    at, entries = SEGMENT_HEADER_BYTES, bytearray()
    for position, record in enumerate(records):
        seq, batch = place[0] + position * 3 // 2, place[1] + position // 2
        head = _head(record, FLAG_FIRST if position % 2 == 0 else FLAG_END, seq, batch)
        writer.append(at, [head], [record[1]])
        at += record_bytes(len(record[1]))
    entries = writer._entries
    write_seal(file, segment_key(header.uuid), at, entries, ends, number=ends[1] + 2)
    file.close()


def _torn(
    disk: SimDisk, number: int, records: list[tuple[int, bytes]], place: tuple[int, int]
) -> None:
    """An unsealed segment whose last batch misses its end."""
    file, writer = _writer(disk, _header(number, place))
    at, seq, batch = _append(writer, records, place)
    chunk = (int(Kind.CHUNK), b"torn" * 200)
    head = _head(chunk, FLAG_FIRST, seq, batch)
    writer.append(at, [head], [chunk[1]])
    file.write(at + RECORD_HEADER_BYTES + 512, [bytes(512)])
    file.close()


def parse(name: str, data: bytes) -> dict[str, object]:
    """Everything that a segment file says."""
    disk = SimDisk()
    with_file = disk.open(name, create=True)
    with_file.write(0, [data])
    header = read_header(with_file)
    key = segment_key(header.uuid)
    trailer = read_trailer(with_file, key)
    footer = read_footer(with_file, trailer) if trailer else None
    rows = None if footer is None else [_entry(entry) for entry in parse_footer(footer)]
    return {
        "file": name,
        "bytes": len(data),
        "header": _named(header, SegmentHeader.__dataclass_fields__),
        "records": [_record(item, data) for item in scan(with_file, key)],
        "trailer": _named(trailer, trailer.__dataclass_fields__) if trailer else None,
        "footer": rows,
    }


def _named(value: object, names: object) -> dict[str, object]:
    return {name: shown(getattr(value, name)) for name in names}


def _record(item: object, data: bytes) -> dict[str, object]:
    assert isinstance(item, Found)
    start = item.offset + RECORD_HEADER_BYTES
    payload = data[start : start + item.header.length]
    head = _named(item.header, RecordHeader._fields)
    return {"offset": item.offset, "whole": item.whole, **head, "payload": payload.hex()}


def _entry(entry: object) -> dict[str, object]:
    return {"offset": entry.offset, **_named(entry.header, RecordHeader._fields)}
