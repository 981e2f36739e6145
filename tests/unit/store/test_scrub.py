"""A pass over everything that is stored: what it finds, what it leaves alone, where it goes on."""

from __future__ import annotations

import errno
import os
import struct
from collections import Counter
from dataclasses import replace

import pytest
import trio
import trio.testing

from ostnode.env import InlineWorker
from ostnode.store.auditing import Auditor
from ostnode.store.catalog import Catalog
from ostnode.store.format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    segment_key,
)
from ostnode.store.keyspace import DurableReader
from ostnode.store.layout import read_layout
from ostnode.store.pace import Pace
from ostnode.store.pins import Pins
from ostnode.store.record import Damage, Extent, Problem, Record
from ostnode.store.schema import Worth
from ostnode.store.scrub import Scrubber, ScrubSlice
from ostnode.store.segment import segment_name, write_seal
from ostnode.store.simdisk import SimDisk, SimFile
from tests.support.storekit import CHUNK, OWNER, KitSchema, chunk, extents, opened, set_


class Choosy(KitSchema):
    """Chunks without a row are dead."""

    def worth(self, record, rows):
        if record.kind != CHUNK or rows.get(b"C" + record.blob + _place(record)) is not None:
            return Worth.LIVE
        return Worth.DEAD


def _place(record: Record) -> bytes:
    return record.number.to_bytes(8, "big") + record.chunk_index.to_bytes(4, "big")


async def filled(disk: SimDisk, chunks: int = 30) -> list[Extent]:
    """Several sealed segments of chunks of 6,000 bytes."""
    async with opened(disk) as store:
        for number in range(chunks):
            await store.commit([chunk(bytes([number]) * 6000, number), set_(f"k{number}")])
        return extents(store.durable)


def scrubber(disk: SimDisk, pins: Pins | None = None) -> Scrubber:
    """One that knows the segments that are there now; the last may be open."""
    rows = DurableReader(disk.index)
    log = read_layout(disk).log
    catalog = Catalog(
        [segment for segment in log if segment.trailer or segment is not log[-1]], rows
    )
    auditor = Auditor(disk.index, InlineWorker(), pytest.fail)
    return Scrubber(disk, InlineWorker(), pins or Pins(), Choosy(), rows, catalog, auditor)


async def whole_pass(scrub: Scrubber, after: int = 0, limit: int = 16 << 10) -> list[ScrubSlice]:
    slices = []
    while not slices or not slices[-1].done:
        slices.append(await scrub.step(after, Pace(0), limit))
        after = slices[-1].after_seq
        assert len(slices) < 1000
    return slices


def problems(slices: list[ScrubSlice]) -> list[Problem]:
    return [problem for item in slices for problem in item.problems]


async def found(disk: SimDisk) -> list[Problem]:
    return problems(await whole_pass(scrubber(disk)))


async def test_a_clean_log_is_read_whole_and_in_slices() -> None:
    disk = SimDisk()
    await filled(disk)
    assert len(disk.files) == 4
    slices = await whole_pass(scrubber(disk))
    assert not problems(slices)
    read = sum(item.nbytes for item in slices)
    headers = SEGMENT_HEADER_BYTES * len(disk.files)
    assert read == sum(len(inode.seen) for inode in disk.files.values()) - headers
    assert max(item.nbytes for item in slices) < (16 << 10) + 8000
    assert disk.open_files == 0


async def test_b41_a_flipped_bit_names_the_record() -> None:
    disk = SimDisk()
    place = (await filled(disk))[17]
    disk.flip(segment_name(place.segment), place.offset + RECORD_HEADER_BYTES + 5)
    (problem,) = await found(disk)
    assert problem.what is Damage.PAYLOAD
    assert (problem.segment, problem.offset) == (place.segment, place.offset)
    assert (problem.kind, problem.number, problem.length) == (CHUNK, 17, 6000)


async def test_b41_a_damaged_record_header_is_named_by_the_footer() -> None:
    disk = SimDisk()
    place = (await filled(disk))[17]
    disk.flip(segment_name(place.segment), place.offset + 20)
    (problem,) = await found(disk)
    assert (problem.what, problem.offset, problem.number) == (Damage.PAYLOAD, place.offset, 17)


async def test_the_last_record_of_a_segment_is_no_exception() -> None:
    disk = SimDisk()
    places = await filled(disk)
    last = max(place for place in places if place.segment == 1)
    for at in (20, 96 + 6000 + 20):  # the chunk and the small record behind it
        disk.flip(segment_name(1), last.offset + at)
    assert len(await found(disk)) == 2


async def test_a_damaged_dead_record_is_no_finding() -> None:
    disk = SimDisk()
    places = await filled(disk)
    for place, at in ((places[3], 500), (places[4], 20)):
        disk.flip(segment_name(place.segment), place.offset + at)
    assert len(await found(disk)) == 2
    for key, _ in list(DurableReader(disk.index).scan(b"C")):
        del disk.index._rows[key]
    assert not await found(disk)


async def test_a_damaged_footer_is_found() -> None:
    disk = SimDisk()
    await filled(disk)
    name = segment_name(2)
    size = len(disk.files[name].seen)
    for at in (size - 200, size - 30):
        disk.flip(name, at)
        (problem,) = await found(disk)
        assert (problem.what, problem.segment) == (Damage.FOOTER, 2)
        disk.flip(name, at)
    assert not await found(disk)


async def test_a_damaged_seal_is_found() -> None:
    disk = SimDisk()
    await filled(disk)
    name = segment_name(2)
    seal = disk.files[name].seen.rfind(b"OsR1")
    disk.flip(name, seal + 12)
    (problem,) = await found(disk)
    assert (problem.what, problem.segment, problem.offset) == (Damage.FOOTER, 2, seal)


async def test_records_before_a_damaged_seal_are_no_exception() -> None:
    disk = SimDisk()
    places = await filled(disk)
    name = segment_name(2)
    seal = disk.files[name].seen.rfind(b"OsR1")
    last = max(place for place in places if place.segment == 2)
    for at in (seal + 12, last.offset + 12, last.offset + 96 + 6000 + 12):
        disk.flip(name, at)
    chunk_, setting, footer = await found(disk)
    assert (chunk_.what, chunk_.offset) == (Damage.PAYLOAD, last.offset)
    assert (setting.what, setting.offset) == (Damage.PAYLOAD, last.offset + 96 + 6000)
    assert footer.what is Damage.FOOTER


async def test_a_footer_that_lies_is_found() -> None:
    disk = SimDisk()
    await filled(disk)
    name = segment_name(2)
    file = disk.open(name, write=True)
    data = bytes(disk.files[name].seen)
    seal = data.rfind(b"OsR1")
    header = SegmentHeader.parse(data[:4096])
    entries = bytearray(data[seal + 96 : -64])
    entries[95] ^= 1
    write_seal(file, segment_key(header.uuid), seal, entries, ends(data))
    file.close()
    (problem,) = await found(disk)
    assert (problem.what, problem.segment) == (Damage.FOOTER, 2)
    assert SEGMENT_HEADER_BYTES <= problem.offset < seal


async def test_a_lost_segment_is_found() -> None:
    disk = SimDisk()
    await filled(disk)
    del disk.files[segment_name(2)]
    (problem,) = await found(disk)
    assert (problem.what, problem.segment) == (Damage.GAP, 3)


async def test_a_lost_header_is_found() -> None:
    disk = SimDisk()
    await filled(disk)
    for at in (10, 2058):
        disk.flip(segment_name(2), at)
    lost, gap = await found(disk)
    assert (lost.what, lost.segment) == (Damage.SEGMENT, 2)
    assert gap.what is Damage.GAP


async def test_unreadable_pages_are_findings(monkeypatch) -> None:
    disk = SimDisk()
    places = await filled(disk)
    hit = [number for number, place in enumerate(places) if place.segment == 2][:-2]
    bad = {places[number].offset // 4096 + 1 for number in hit}
    inode = disk.files[segment_name(2)]
    plain = SimFile.read_into

    def read_into(self, offset, buffer, *, wait=True):
        pages = range(offset // 4096, (offset + len(buffer) - 1) // 4096 + 1)
        if self._inode is inode and bad & set(pages):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(self, offset, buffer, wait=wait)

    monkeypatch.setattr(SimFile, "read_into", read_into)
    named = {problem.number for problem in await found(disk) if problem.kind == CHUNK}
    assert named >= set(hit)
    assert len(named) <= len(hit) + 1


async def test_every_read_asks_for_the_disks_own_bytes(monkeypatch) -> None:
    disk = SimDisk()
    places = await filled(disk)
    dropped: set[tuple[int, int]] = set()

    def drop_cache(self, offset, length):
        dropped.add((id(self._inode), offset, length))

    monkeypatch.setattr(SimFile, "drop_cache", drop_cache)
    await found(disk)
    for place in places:
        inode = id(disk.files[segment_name(place.segment)])
        end = place.offset + 96 + place.length
        assert any(
            file == inode and at <= place.offset and end <= at + length
            for file, at, length in dropped
        )


async def test_a_pass_goes_on_where_another_process_left_it() -> None:
    disk = SimDisk()
    places = await filled(disk)
    disk.flip(segment_name(places[1].segment), places[1].offset + 500)
    disk.flip(segment_name(places[20].segment), places[20].offset + 500)
    after, halves, seen = 0, [], []
    for _ in range(200):
        result = await scrubber(disk).step(after, Pace(0), 10_000)
        seen += result.problems
        halves.append(result.nbytes)
        after = result.after_seq
        if result.done:
            break
    assert result.done
    assert [problem.number for problem in seen] == [1, 20]
    assert max(halves) < 20_000


async def test_what_is_being_written_is_left_for_the_next_pass() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        await store.commit([chunk(b"x" * 6000)])
        (place,) = extents(store.durable)
        disk.flip(segment_name(1), place.offset + 500)
        (result,) = await whole_pass(scrubber(disk))
        assert result == ScrubSlice(0, done=True)
    assert len(await found(disk)) == 1


async def test_a_file_that_was_only_prepared_is_no_finding() -> None:
    disk = SimDisk()
    await filled(disk)
    disk.open(segment_name(99), create=True).close()
    assert not await found(disk)


async def test_a_segment_that_compaction_takes_is_left_without_noise() -> None:
    disk = SimDisk()
    await filled(disk)
    scrub = scrubber(disk)
    first = await scrub.step(0, Pace(0), 1)
    (taken,) = scrub._catalog.run([1])
    worker = scrub._worker.run

    async def run(act, *arguments):
        merge(disk, [1], 50)
        scrub._catalog.replaced([taken], replace(taken, number=50, generation=1))
        del disk.files[segment_name(1)]
        scrub._worker.run = worker
        return await worker(act, *arguments)

    scrub._worker.run = run
    gone = await scrub.step(first.after_seq, Pace(0), 1)
    assert gone == ScrubSlice(first.after_seq)
    assert not problems(await whole_pass(scrub, gone.after_seq))


async def test_b41_a_file_that_is_removed_under_the_store_is_found_and_passed_over() -> None:
    disk = SimDisk()
    places = await filled(disk)
    disk.flip(segment_name(4), places[-1].offset + 500)
    scrub = scrubber(disk)
    sizes = {info.number: info.nbytes for info in scrub._catalog.sealed}
    for number in (2, 3):
        del disk.files[segment_name(number)]
    second, third, payload, gap = problems(await whole_pass(scrub))
    assert second == Problem(Damage.SEGMENT, 2, 0, sizes[2])
    assert third == Problem(Damage.SEGMENT, 3, 0, sizes[3])
    assert (payload.what, payload.number) == (Damage.PAYLOAD, 29)
    assert (gap.what, gap.segment) == (Damage.GAP, 4)


async def test_b41_the_last_segment_is_missed_as_well() -> None:
    disk = SimDisk()
    await filled(disk)
    scrub = scrubber(disk)
    del disk.files[segment_name(4)]
    (lost,) = problems(await whole_pass(scrub))
    assert (lost.what, lost.segment) == (Damage.SEGMENT, 4)


async def test_a_pass_opens_a_segment_only_to_read_it(monkeypatch) -> None:
    """And at the end, when it is looked for what is missing, twice."""
    disk = SimDisk()
    await filled(disk, 200)
    scrub, opened_files, plain = scrubber(disk), Counter[str](), disk.open

    def open_(name, **options):
        opened_files[name] += 1
        return plain(name, **options)

    monkeypatch.setattr(disk, "open", open_)
    assert not problems(await whole_pass(scrub, limit=1 << 20))
    assert len(opened_files) > 20
    assert set(opened_files.values()) == {3}


async def test_a_compaction_that_ends_under_the_last_look_makes_no_gap(monkeypatch) -> None:
    disk = SimDisk()
    await filled(disk)
    names = disk.names()
    merge(disk, [1, 2], 50)
    for number in (1, 2):
        del disk.files[segment_name(number)]
    scrub = scrubber(disk)
    last = (await whole_pass(scrub))[-1].after_seq
    listings = [names, disk.names()]
    monkeypatch.setattr(disk, "names", lambda: listings.pop(0))
    assert await scrub.step(last, Pace(0)) == ScrubSlice(last, done=True)
    assert not listings


async def test_the_output_of_a_compaction_is_read_in_place_of_its_inputs() -> None:
    disk = SimDisk()
    places = await filled(disk)
    merge(disk, [1, 2], 50)
    place = next(place for place in places if place.segment == 2)
    disk.flip(segment_name(2), place.offset + 500)  # an input that is not removed yet
    assert not await found(disk)
    for number in (1, 2):
        del disk.files[segment_name(number)]
    assert not await found(disk)
    merge(disk, [3], 51, sealed=False)
    assert not await found(disk)


def merge(disk: SimDisk, numbers: list[int], to: int, *, sealed: bool = True) -> None:
    """An output that stands for these segments, and holds one record of them."""
    parsed = [SegmentHeader.parse(bytes(disk.files[segment_name(n)].seen[:4096])) for n in numbers]
    first = parsed[0]
    place = (first.created, first.first_seq, first.first_batch)
    made = SegmentHeader(to, b"m" * 16, OWNER, *place, generation=1)
    seqs = ends(bytes(disk.files[segment_name(numbers[-1])].seen))
    file = disk.open(segment_name(to), create=True)
    file.write(0, [made.pack()])
    if sealed:
        write_seal(file, segment_key(made.uuid), SEGMENT_HEADER_BYTES, b"", seqs, number=99)
    file.close()


def ends(data: bytes) -> tuple[int, int]:
    """The last sequence and batch numbers in a trailer."""
    seq, batch = struct.unpack("<QQ", data[-40:-24])
    return seq, batch


async def test_b65_a_reader_may_rely_on_the_pin() -> None:
    disk = SimDisk()
    await filled(disk)
    pins = Pins()
    taken = []
    take = pins.take
    pins.take = lambda number: taken.append(number) or take(number)  # type: ignore[method-assign]
    await whole_pass(scrubber(disk, pins))
    assert set(taken) == {1, 2, 3, 4}
    assert not pins._pins


async def test_the_pace_is_kept(autojump_clock: trio.testing.MockClock) -> None:
    disk = SimDisk()
    await filled(disk)
    scrub, pace, after, read = scrubber(disk), Pace(10_000), 0, 0
    start = trio.current_time()
    while not (result := await scrub.step(after, pace, 16 << 10)).done:
        after, read = result.after_seq, read + result.nbytes
    assert abs(trio.current_time() - start - read / 10_000) < 0.01


async def test_a_store_scrubs_itself() -> None:
    disk = SimDisk()
    place = (await filled(disk))[0]
    disk.flip(segment_name(place.segment), place.offset + 500)
    async with opened(disk) as store:
        result = await store.scrub(0, Pace(0))
        assert [problem.number for problem in result.problems] == [0]
        assert result.problems[0].what is Damage.PAYLOAD
