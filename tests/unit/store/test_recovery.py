"""Opening a log that was damaged, torn, or belongs to another index."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress

import pytest
import trio
import trio.testing
from typing_extensions import override

from ostnode.errors import DataCorruptError
from ostnode.store.errors import StoreFailedError, StoreOwnerError
from ostnode.store.format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    record_bytes,
)
from ostnode.store.keyspace import Covered
from ostnode.store.memoryindex import MemoryIndex
from ostnode.store.record import Damage
from ostnode.store.segment import segment_name, segment_number
from ostnode.store.simdisk import SimDisk, SimFile, SimIndex
from ostnode.store.store import StoreOptions
from tests.support.storekit import (
    BLOB,
    CHUNK,
    SMALL,
    chunk,
    count,
    dump,
    extents,
    names,
    opened,
    set_,
    unset,
)

FIRST = segment_name(1)
BIG = StoreOptions(segment_bytes=16 << 20)


async def crashed(*groups: list, marker: bool = True, big: bool = False) -> SimDisk:
    """A disk as a kill leaves it after each group was acknowledged in a batch of its own."""
    disk = SimDisk()
    async with opened(disk, BIG if big else SMALL) as store:
        for group in groups:
            await store.commit(group)
        if marker:
            await trio.sleep(1)
        return disk.killed(0)


def offset_of(disk: SimDisk, needle: bytes) -> int:
    # Behind the segment header, whose time and digests may hold any two bytes.
    at = disk.files[FIRST].seen.find(needle, SEGMENT_HEADER_BYTES)
    assert at > 0
    return at


@pytest.mark.parametrize("batches", [1, 100])
async def test_b57_one_flipped_bit_costs_one_record(
    autojump_clock: trio.testing.MockClock, batches: int
) -> None:
    """100 acknowledged records that no key index holds; the third is damaged."""
    records = [chunk(b"payload %03d" % i, i) for i in range(100)]
    size = 100 // batches
    disk = await crashed(*(records[i : i + size] for i in range(0, 100, size)))
    disk.flip(FIRST, offset_of(disk, b"payload 002"))
    async with opened(disk, index=MemoryIndex()) as store:
        (problem,) = store.problems
        assert (problem.what, problem.kind, problem.blob) == (Damage.PAYLOAD, CHUNK, BLOB)
        assert (problem.number, problem.seq, problem.segment) == (2, 3, 1)
        readable = []
        for i, extent in enumerate(extents(store.state)):
            with suppress(DataCorruptError):
                assert bytes(await store.read(extent)) == b"payload %03d" % i
                readable.append(i)
    assert readable == [i for i in range(100) if i != 2]


@pytest.mark.parametrize("batches", [1, 100])
async def test_b57_damaged_metadata_is_reported_and_the_rest_served(
    autojump_clock: trio.testing.MockClock, batches: int
) -> None:
    records = [set_(f"k{i:03d}") for i in range(100)]
    size = 100 // batches
    disk = await crashed(*(records[i : i + size] for i in range(0, 100, size)))
    disk.flip(FIRST, offset_of(disk, b"k002"))
    for _ in range(2):  # the second start reads the footer that the first one wrote
        async with opened(disk, index=MemoryIndex()) as store:
            assert [p.what for p in store.problems] == [Damage.PAYLOAD]
            assert names(store.state) == [f"k{i:03d}" for i in range(100) if i != 2]


async def test_b41_a_damaged_header_in_the_middle_is_a_damaged_range(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await crashed([set_("a"), set_("b"), set_("c")], [set_("d")])
    at = offset_of(disk, b"b=") - RECORD_HEADER_BYTES
    disk.flip(FIRST, at)
    for _ in range(2):
        async with opened(disk, index=MemoryIndex()) as store:
            (problem,) = store.problems
            assert (problem.what, problem.offset) == (Damage.RANGE, at)
            assert problem.length == record_bytes(len(b"b="))
            assert names(store.state) == ["a", "c", "d"]


async def test_b41_a_payload_that_imitates_records_is_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Valid headers copied from elsewhere, and magics at any offset, inside a lost record."""
    disk = await crashed([set_("x")])
    real = bytes(disk.files[FIRST].seen[4096:5000])
    decoy = b"OsR1" * 30 + real + b".OsR1.." * 50
    disk = await crashed([chunk(decoy, 1)], [chunk(b"big" * 2_000_000, 2)], [set_("y")], big=True)
    disk.flip(FIRST, 4096)
    async with opened(disk, BIG, index=MemoryIndex()) as store:
        assert [(p.what, p.length) for p in store.problems] == [
            (Damage.RANGE, record_bytes(len(decoy)))
        ]
        assert names(store.state) == ["y"]
        (extent,) = extents(store.state)
        assert bytes(await store.read(extent)) == b"big" * 2_000_000


async def test_b41_damaged_metadata_falls_back_to_the_key_index(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await crashed([set_("a"), set_("b")], [set_("c")])
    disk.flip(FIRST, offset_of(disk, b"b="))
    async with opened(disk) as store:
        assert names(store.state) == ["a", "b", "c"]
        assert [p.what for p in store.problems] == [Damage.PAYLOAD]


@pytest.mark.parametrize("target", [b"OsR1", b"a=", b"b="])
async def test_b41_a_torn_tail_is_cut_off_without_a_report(
    autojump_clock: trio.testing.MockClock, target: bytes
) -> None:
    disk = await crashed([set_("x")], [set_("a"), set_("b"), set_("c")], marker=False)
    at = disk.files[FIRST].seen.rfind(target)
    disk.flip(FIRST, at)
    for _ in range(2):
        async with opened(disk, index=MemoryIndex()) as store:
            assert names(store.state) == ["x"]
            assert store.problems == ()
            assert store.next_seq > 1


async def test_b41_only_the_start_of_the_last_batch_is_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await crashed([set_("x")], [set_("a"), set_("b")], marker=False)
    disk.flip(FIRST, offset_of(disk, b"a=") - RECORD_HEADER_BYTES)
    async with opened(disk, index=MemoryIndex()) as store:
        assert names(store.state) == ["x"]
        assert store.problems == ()


async def test_b41_a_first_batch_that_is_torn_leaves_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await crashed([set_("a"), set_("b")], marker=False)
    disk.flip(FIRST, offset_of(disk, b"a=") - RECORD_HEADER_BYTES)
    async with opened(disk, index=MemoryIndex()) as store:
        assert names(store.state) == []
        assert store.problems == ()
    assert disk.files == {}


async def test_b41_a_lost_batch_before_a_torn_one_is_reported(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The last batch proves the one before it, even when only a piece of it is left."""
    disk = await crashed([set_("x")], [set_("y")], [set_("a"), set_("b")], marker=False)
    for needle in (b"y=", b"a="):
        disk.flip(FIRST, offset_of(disk, needle) - RECORD_HEADER_BYTES)
    async with opened(disk, index=MemoryIndex()) as store:
        assert names(store.state) == ["x"]
        assert [p.what for p in store.problems] == [Damage.RANGE]


async def test_b41_a_lost_end_before_a_torn_batch_is_reported(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await crashed([set_("x"), set_("y")], [set_("a"), set_("b")], marker=False)
    for needle in (b"y=", b"a="):
        disk.flip(FIRST, offset_of(disk, needle) - RECORD_HEADER_BYTES)
    async with opened(disk, index=MemoryIndex()) as store:
        assert names(store.state) == ["x"]
        assert [p.what for p in store.problems] == [Damage.RANGE]


@pytest.mark.parametrize("torn_at", [b"a=", b"b="])
async def test_b41_a_lost_first_batch_is_reported(
    autojump_clock: trio.testing.MockClock, torn_at: bytes
) -> None:
    disk = await crashed([set_("x")], [set_("a"), set_("b")], marker=False)
    for needle in (b"x=", torn_at):
        disk.flip(FIRST, offset_of(disk, needle) - RECORD_HEADER_BYTES)
    async with opened(disk, index=MemoryIndex()) as store:
        assert names(store.state) == []
        assert [p.what for p in store.problems] == [Damage.RANGE]


async def sealed(groups: int = 30) -> SimDisk:
    """A cleanly closed log of several segments."""
    disk = SimDisk()
    async with opened(disk) as store:
        for i in range(groups):
            await store.commit([set_(f"k{i:02d}"), chunk(bytes([i]) * 5000, i)])
    assert len(disk.files) >= 3
    return disk


async def test_b45_an_index_that_is_gone_is_rebuilt_identical(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await sealed()
    async with opened(disk) as store:
        await store.commit([unset("k0"), set_("k00", "again")])
        before = dump(store.durable)
    async with opened(disk, index=MemoryIndex()) as store:
        assert dump(store.durable) == before
        assert store.problems == ()


async def test_b45_an_index_that_is_behind_is_brought_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await sealed()
    behind = MemoryIndex()
    async with opened(disk, index=behind) as store:
        before = dump(store.durable)
    async with opened(disk) as store:
        await store.commit([set_("z"), unset("k1")])
        after = dump(store.durable)
    assert dump_index(behind) == before
    async with opened(disk, index=behind) as store:
        assert dump(store.durable) == after


async def test_b45_no_record_is_applied_twice(autojump_clock: trio.testing.MockClock) -> None:
    disk = await crashed(*([count("a"), chunk(b"x", i)] for i in range(5)))
    for _ in range(3):
        async with opened(disk) as store:
            before = int(store.state.get(b"Na") or b"0")
            await store.commit([count("a")])
            assert store.state.get(b"Na") == b"%d" % (before + 1)
    assert before == 7


async def test_b45_no_damaged_record_is_applied_twice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Chunks that were superseded: applying the damaged one again would bring it back."""
    disk = await crashed([chunk(b"old", 1)], [chunk(b"new", 1)])
    disk.flip(FIRST, offset_of(disk, b"old"))
    for _ in range(2):
        async with opened(disk) as store:
            assert [p.what for p in store.problems] == [Damage.PAYLOAD]
            (extent,) = extents(store.state)
            assert bytes(await store.read(extent)) == b"new"


async def test_b45_an_index_of_another_log_is_rebuilt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    foreign = MemoryIndex()
    async with opened(SimDisk(), index=foreign, seed=9) as store:
        await store.commit([set_("foreign")])
    disk = await sealed()
    async with opened(disk, index=foreign) as store:
        assert "foreign" not in names(store.state)
        assert len(names(store.state)) == 30


@pytest.mark.parametrize("ahead", ["batch", "segment"])
async def test_b45_an_index_ahead_of_the_log_is_rebuilt(
    autojump_clock: trio.testing.MockClock, ahead: str
) -> None:
    disk = await sealed()
    covered = disk.index.open()
    assert covered is not None
    lost = (
        Covered(covered.segment, covered.uuid, covered.batch + 50)
        if ahead == "batch"
        else Covered(covered.segment + 1, bytes(16), covered.batch + 1)
    )
    disk.index.commit({b"Mlost": b""}, lost)
    async with opened(disk) as store:
        assert "lost" not in names(store.state)
        assert len(names(store.state)) == 30


@pytest.mark.parametrize("how", ["removed", "emptied", "cut", "flipped"])
async def test_b41_an_end_of_the_log_that_is_gone_is_reported(
    autojump_clock: trio.testing.MockClock, how: str
) -> None:
    """Only the key index can tell: it followed what was synced."""
    disk = SimDisk()
    with trio.CancelScope() as scope:
        async with opened(disk, marker_delay_s=3600.0) as store:
            for number in range(2):
                await store.commit([chunk(bytes(40_000), number)])
            await store.commit([set_("last")])
            next_seq = store.next_seq
            left = disk.killed(0)
            scope.cancel()
    name = max(name for name in left.names() if any(left.files[name].seen[:4096]))
    at = bytes(left.files[name].seen).index(b"last=")
    if how == "removed":
        left.remove(name)
    elif how == "flipped":
        left.flip(name, at)
    else:
        file = left.open(name, write=True)
        file.truncate(0 if how == "emptied" else at)
        file.close()
    async with opened(left, seed=1) as store:
        (problem,) = store.problems
        assert problem.what is Damage.GAP
        assert problem.seq <= next_seq < store.next_seq
        assert "last" not in names(store.state)
        await store.commit([set_("after")])
    async with opened(left, seed=2, index=MemoryIndex()) as store:
        assert [found.seq for found in store.problems] == [problem.seq]
        assert names(store.state) == ["after"]


def dump_index(index: MemoryIndex) -> dict[bytes, bytes]:
    return dict(index.page(b"", None, 1 << 30))


@pytest.mark.parametrize("where", [-1, -64, -100])
@pytest.mark.parametrize("number", [1, 2])
async def test_b41_a_damaged_footer_is_read_around(
    autojump_clock: trio.testing.MockClock, number: int, where: int
) -> None:
    disk = await sealed()
    async with opened(disk, index=MemoryIndex()) as store:
        before = dump(store.durable)
    name = segment_name(number)
    disk.flip(name, len(disk.files[name].seen) + where)
    async with opened(disk, index=MemoryIndex()) as store:
        assert dump(store.durable) == before
        assert [(p.what, p.segment) for p in store.problems] == [(Damage.FOOTER, number)]


@pytest.mark.parametrize("where", [-1, -64, -100, -160])
async def test_b41_a_damaged_footer_of_the_last_segment_is_written_again(
    autojump_clock: trio.testing.MockClock, where: int
) -> None:
    disk = await sealed()
    last = max(disk.files)
    before = bytes(disk.files[last].seen)
    disk.flip(last, len(before) + where)
    async with opened(disk) as store:
        assert len(names(store.state)) == 30
        assert store.problems == ()
    assert bytes(disk.files[last].seen) == before


async def test_b41_a_segment_without_header_is_reported_and_its_numbers_are_not_used_again() -> (
    None
):
    disk = await sealed()
    async with opened(disk) as store:
        used = store.next_seq
    last = max(disk.files)
    for at in (5, 2048 + 5):
        disk.flip(last, at)
    async with opened(disk, index=MemoryIndex()) as store:
        assert [p.what for p in store.problems] == [Damage.SEGMENT]
        assert store.next_seq >= used
        assert 0 < len(names(store.state)) < 30
    assert last in disk.files


async def test_b41_a_missing_segment_is_reported(autojump_clock: trio.testing.MockClock) -> None:
    disk = await sealed()
    del disk.files[segment_name(2)]
    async with opened(disk) as store:
        (problem,) = store.problems
        assert (problem.what, problem.segment) == (Damage.GAP, 3)
        assert problem.seq > 1
        assert problem.length > 10
        assert len(names(store.state)) == 30
    async with opened(disk, index=MemoryIndex()) as store:
        assert 0 < len(names(store.state)) < 30


async def test_b41_a_missing_first_segment_is_reported(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await sealed()
    del disk.files[segment_name(1)]
    async with opened(disk, index=MemoryIndex()) as store:
        assert [(p.what, p.segment, p.seq) for p in store.problems] == [(Damage.GAP, 2, 1)]


async def test_a_half_made_segment_is_removed(autojump_clock: trio.testing.MockClock) -> None:
    disk = await sealed()
    count = len(disk.files)
    for number, content in ((count + 1, b""), (count + 2, bytes(9000))):
        file = disk.open(segment_name(number), create=True)
        file.write(0, [content])
        file.close()
    async with opened(disk) as store:
        assert len(names(store.state)) == 30
        assert store.problems == ()
    assert len(disk.files) == count


async def test_files_that_are_not_segments_are_left_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await sealed()
    for name in ("notes.txt", "0.seg", "1.seg", "00000000.seg"):
        disk.open(name, create=True).close()
    async with opened(disk) as store:
        assert store.problems == ()
    assert "notes.txt" in disk.files
    assert segment_number("00000012.seg") == 12
    assert segment_number("123456789.seg") == 123456789


async def test_a_segment_of_a_newer_format_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = SimDisk()
    newer = SegmentHeader(1, bytes(16), bytes(range(32)), 0, 1, 1, version=2)
    file = disk.open(FIRST, create=True)
    file.write(0, [newer.pack()])
    with pytest.raises(StoreOwnerError, match="too new"):
        async with opened(disk):
            raise AssertionError


async def test_unreadable_pages_are_damage(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk answers EIO for one page in the middle of the unsealed segment."""
    disk = await crashed([chunk(b"x" * 3000, 1)], [chunk(b"y" * 9000, 2)], [chunk(b"z" * 3000, 3)])
    page = range(8192, 12288)
    read_into = SimFile.read_into

    def failing(self: SimFile, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        if offset < page.stop and offset + len(buffer) > page.start:
            raise OSError(errno.EIO, "unreadable")
        return read_into(self, offset, buffer, wait=wait)

    monkeypatch.setattr(SimFile, "read_into", failing)
    async with opened(disk, index=MemoryIndex()) as store:
        assert [(p.what, p.number) for p in store.problems] == [(Damage.PAYLOAD, 2)]
        assert len(extents(store.state)) == 3


async def test_an_unreadable_header_or_footer_is_damage(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = await sealed()
    read_into = SimFile.read_into
    bad: set[int] = set()

    def failing(self: SimFile, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        hit = any(offset <= at < offset + len(buffer) for at in bad)
        if hit and self._inode is disk.files[FIRST]:
            raise OSError(errno.EIO, "unreadable")
        return read_into(self, offset, buffer, wait=wait)

    size = len(disk.files[FIRST].seen)
    monkeypatch.setattr(SimFile, "read_into", failing)
    segment = [Damage.SEGMENT, Damage.GAP]
    for at, what in ((0, segment), (size - 1, [Damage.FOOTER]), (size - 70, [Damage.FOOTER])):
        bad = {at}
        async with opened(disk, index=MemoryIndex()) as store:
            assert [p.what for p in store.problems] == what


async def test_replay_of_many_changes_commits_in_between(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = await sealed()
    monkeypatch.setattr("ostnode.store.recovery._COMMIT_CHANGES", 3)
    index = MemoryIndex()
    async with opened(disk, index=index) as store:
        assert dump(store.state) == dump(store.durable)
        assert len(names(store.state)) == 30


async def test_sequence_and_batch_numbers_go_on_after_a_crash(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = await crashed([set_("a")], [set_("b")], marker=False)
    disk.flip(FIRST, offset_of(disk, b"b="))
    async with opened(disk, index=MemoryIndex()) as store:
        staged = await store.commit([set_("c")])
        assert staged.seqs.start > 2
    async with opened(disk, index=MemoryIndex()) as store:
        assert names(store.state) == ["a", "c"]
    assert SEGMENT_HEADER_BYTES == 4096


class WatchedIndex(SimIndex):
    """Keeps what each commit brought a counter to."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[int, bytes | None] = {}

    @override
    def commit(self, changes: Mapping[bytes, bytes | None], covered: Covered) -> None:
        super().commit(changes, covered)
        self.counts[covered.batch] = self.get(b"Nall")


async def test_b45_every_commit_of_a_replay_stands_where_it_says(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the middle of a rebuild goes on from there."""
    disk, written, rebuilt = SimDisk(), WatchedIndex(), WatchedIndex()
    async with opened(disk, index=written) as store:
        for number in range(60):
            await store.commit([count("all"), set_(f"k{number}"), chunk(bytes(3000), number)])
    monkeypatch.setattr("ostnode.store.recovery._COMMIT_CHANGES", 12)
    async with opened(disk, index=rebuilt) as store:
        assert store.durable.get(b"Nall") == b"60"
    seen = rebuilt.counts.keys() & written.counts.keys()
    assert len(seen) > 8
    assert {batch: rebuilt.counts[batch] for batch in seen} == {
        batch: written.counts[batch] for batch in seen
    }


async def test_b44_a_seal_whose_sync_failed_is_written_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Reads show it to the next process, and no sync of that process would make it durable."""
    for seed in range(12):
        disk = SimDisk(seed)
        with pytest.RaisesGroup(StoreFailedError, flatten_subgroups=True):
            async with opened(disk) as store:
                await store.commit([set_("a")])
                disk.faults.sync_errors = frozenset(range(disk.operations, disk.operations + 50))
        disk = disk.killed(1)
        async with opened(disk):
            pass
        async with opened(disk.power_lost(seed)) as store:
            assert store.problems == ()
            assert names(store.state) == ["a"]
