"""The order of the log from what lies in a directory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ostnode.store.disk import RealDisk, RealFile
from ostnode.store.format import (
    FLAG_END,
    FLAG_FIRST,
    FooterEntry,
    RecordHeader,
    SegmentHeader,
    segment_key,
)
from ostnode.store.layout import Layout, read_layout
from ostnode.store.record import Damage
from ostnode.store.segment import segment_name, write_seal
from ostnode.store.simdisk import SimDisk

OWNER = bytes(32)


def segment(
    disk: SimDisk, number: int, first: int, last: int, generation: int = 0, *, sealed: bool = True
) -> None:
    uuid = bytes([number]) * 16
    header = SegmentHeader(number, uuid, OWNER, 0, first, first, generation=generation)
    file = disk.open(segment_name(number), create=True)
    key = segment_key(header.uuid)
    record = RecordHeader(1, FLAG_FIRST | FLAG_END, 0, 0, first, first, 0, bytes(32), bytes(16))
    file.write(0, [header.pack(), record.pack(key, 4096)])
    if sealed:
        entries = FooterEntry(record, 4096).pack()
        write_seal(file, key, 4192, entries, (last, last), number=last if generation else 0)
    file.close()


def order(layout: Layout) -> list[int]:
    return [file.number for file in layout.log]


def test_b58_the_order_is_that_of_the_sequence_numbers() -> None:
    disk = SimDisk()
    segment(disk, 3, 1, 10)
    segment(disk, 1, 21, 30)
    segment(disk, 7, 11, 20, 2)
    layout = read_layout(disk)
    assert order(layout) == [3, 7, 1]
    assert layout.problems() == []
    assert layout.highest == 7


def test_b42_an_output_stands_for_older_segments_in_its_range() -> None:
    disk = SimDisk()
    for number, first in ((1, 1), (2, 11), (3, 21)):
        segment(disk, number, first, first + 9)
    segment(disk, 5, 1, 20, 1)
    segment(disk, 8, 1, 20, 2)
    layout = read_layout(disk)
    assert order(layout) == [8, 3]
    assert {file.number for file in layout.leftovers} == {1, 2, 5}
    assert layout.log[layout.standing_for(2)].number == 8
    assert layout.standing_for(3) == 1
    assert [file.number for file in layout.replaced_by(layout.log[0])] == [5, 1, 2]
    assert layout.find(5) is not None
    assert layout.find(4) is None


def test_b42_an_output_without_a_whole_seal_counts_for_nothing_while_its_inputs_are_there() -> None:
    for at in (None, -1, -70, -100, -200):
        disk = SimDisk()
        segment(disk, 1, 1, 10)
        segment(disk, 2, 1, 10, 1, sealed=at is not None)
        if at is not None:
            disk.flip(segment_name(2), len(disk.files[segment_name(2)].seen) + at)
        layout = read_layout(disk)
        assert (order(layout), layout.unfinished) == ([1], [2])
        del disk.files[segment_name(1)]
        assert (order(read_layout(disk)), read_layout(disk).unfinished) == ([2], [])


def test_b41_holes_and_lost_headers_are_found() -> None:
    disk = SimDisk()
    segment(disk, 1, 5, 10)
    segment(disk, 2, 11, 20)
    segment(disk, 3, 31, 40)
    segment(disk, 4, 41, 50)
    for at in (5, 2048 + 5):
        disk.flip(segment_name(4), at)
    layout = read_layout(disk)
    found = layout.problems()
    assert [(p.what, p.segment, p.seq, p.length) for p in found[1:]] == [
        (Damage.GAP, 1, 1, 4),
        (Damage.GAP, 3, 21, 10),
    ]
    assert (found[0].what, found[0].segment) == (Damage.SEGMENT, 4)
    assert layout.numbers_to_skip(gaps=2) == 0
    assert layout.numbers_to_skip(gaps=0) > 10


def test_files_that_were_never_written_to_are_blank() -> None:
    disk = SimDisk()
    for number, content in ((1, b""), (2, bytes(9000)), (3, b"x" * 100), (4, bytes(5000) + b"x")):
        file = disk.open(segment_name(number), create=True)
        file.write(0, [content])
        file.close()
    layout = read_layout(disk)
    assert layout.blank == [1, 2, 3]
    assert [number for number, _ in layout.lost] == [4]
    assert layout.highest == 4


class CountedFile(RealFile):
    """Counts the bytes that are read."""

    nbytes = 0

    def read_into(self, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        CountedFile.nbytes += len(buffer)
        return super().read_into(offset, buffer, wait=wait)


@pytest.mark.parametrize("zeros", ["allocated", "sparse"])
def test_a_prepared_file_is_known_to_be_blank_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zeros: str
) -> None:
    disk, size = RealDisk(tmp_path), 64 << 20
    disk.lock()
    file = disk.open(segment_name(1), create=True)
    file.allocate(size) if zeros == "allocated" else file.truncate(size)
    monkeypatch.setattr("ostnode.store.disk.RealFile", CountedFile)
    monkeypatch.setattr(CountedFile, "nbytes", 0)
    if file.next_data(0) != size:
        pytest.skip("this file system does not tell where data is")
    assert read_layout(disk).blank == [1]
    assert CountedFile.nbytes <= 64 << 10
    for at in (size - 1, 3 << 20, 4096):
        file.write(at, [bytes(1)])
        assert read_layout(disk).blank == [1]
        file.write(at, [b"x"])
        assert [number for number, _ in read_layout(disk).lost] == [1]
        file.write(at, [bytes(1)])
    file.close()
    disk.unlock()


def test_b41_where_the_file_system_cannot_tell_all_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk(tmp_path)
    disk.lock()
    monkeypatch.setattr("os.lseek", _refused)
    for number, content in ((1, bytes(3 << 20)), (2, bytes(3 << 20) + b"x")):
        file = disk.open(segment_name(number), create=True)
        file.write(0, [content])
        file.close()
    layout = read_layout(disk)
    assert (layout.blank, [number for number, _ in layout.lost]) == ([1], [2])
    disk.unlock()


def _refused(*_args: object) -> int:
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
