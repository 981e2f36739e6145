"""The offline check: what it calls damage, what it leaves to the next start and never touches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ostnode.store.disk import RealDisk
from ostnode.store.format import (
    FLAG_END,
    FLAG_FIRST,
    RecordHeader,
    SegmentHeader,
    payload_digest,
    record_bytes,
)
from ostnode.store.frozen import FrozenDisk
from ostnode.store.layout import read_layout
from ostnode.store.logcheck import LogCheck, Order
from ostnode.store.record import ZERO_32, Extent
from ostnode.store.schema import Worth
from ostnode.store.segment import SegmentWriter, segment_name
from ostnode.store.simdisk import SimDisk
from ostnode.store.verification import Verified, Verifier
from tests.support import compactkit as kit
from tests.support.storekit import CHUNK, OWNER, SMALL, KitSchema, chunk, extents, opened, set_

PAYLOAD = b"p" * 100


class Choosy(KitSchema):
    """Chunks without a row are dead."""

    def worth(self, record, rows):
        numbers = record.number.to_bytes(8, "big") + record.chunk_index.to_bytes(4, "big")
        if record.kind != CHUNK or rows.get(b"C" + record.blob + numbers) is not None:
            return Worth.LIVE
        return Worth.DEAD


async def filled(path: Path, chunks: int = 30) -> list[Extent]:
    async with opened(RealDisk(path), SMALL) as store:
        for number in range(chunks):
            await store.commit([chunk(bytes([number]) * 6000, number), set_(f"k{number}")])
        return extents(store.durable)


def verified(path: Path, *, replace: bool = False) -> Verified:
    names = lambda blob, rows: [f"{blob[:1].hex()} in {sum(1 for _ in rows.scan(b'C'))}"]  # noqa: E731
    return Verifier(path, Choosy(), names, lambda _done, _total: None).run(replace=replace)


def damage(path: Path, place: Extent, by: int) -> None:
    name = path / "segments" / segment_name(place.segment)
    data = bytearray(name.read_bytes())
    data[place.offset + by] ^= 4
    name.write_bytes(data)


async def test_a_clean_log(tmp_path: Path) -> None:
    await filled(tmp_path)
    found = verified(tmp_path)
    assert (found.findings, found.notes, found.index) == ([], [], "equal")
    assert found.rows == 60


async def test_dead_records_are_not_verified(tmp_path: Path) -> None:
    places = await filled(tmp_path)
    damage(tmp_path, places[4], 500)
    assert verified(tmp_path).finding_count == 1
    async with opened(RealDisk(tmp_path), SMALL) as store:
        await store.commit([chunk(b"anew", 4)])  # the row now points elsewhere
    found = verified(tmp_path)
    assert [finding.problem.number for finding in found.findings] == [4]


async def test_findings_say_who_refers_to_the_blob(tmp_path: Path) -> None:
    places = await filled(tmp_path)
    damage(tmp_path, places[4], 500)
    (finding,) = verified(tmp_path).findings
    assert finding.referrers == ["62 in 30"]


async def test_progress_comes_to_an_end(tmp_path: Path) -> None:
    await filled(tmp_path)
    seen: list[tuple[int, int]] = []
    Verifier(tmp_path, Choosy(), lambda *_: (), lambda *step: seen.append(step)).run()
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in _segments(tmp_path))


def _segments(path: Path) -> list[Path]:
    return sorted((path / "segments").iterdir())


async def test_a_log_that_was_cut_off_in_the_middle_of_work(tmp_path: Path) -> None:
    """As after a kill: an open segment, a prepared one, a key index that is in use."""
    stopped = tmp_path / "stopped"
    async with opened(RealDisk(tmp_path / "live"), SMALL) as store:
        for number in range(3):
            await store.commit([chunk(bytes([number]) * 6000, number), set_(f"k{number}")])
        _copy(tmp_path / "live", stopped)
    found = verified(stopped)
    assert found.findings == []
    assert found.rows == 6
    (stopped / "segments/00000077.seg").write_bytes(bytes(8192))
    assert "segment 77 will be removed: prepared, never written to" in verified(stopped).notes
    damage(stopped, Extent(1, 4096, 6000), 500)
    assert [finding.problem.number for finding in verified(stopped).findings] == [0]


def _copy(live: Path, to: Path) -> None:
    for path in sorted(live.rglob("*")):
        target = to / path.relative_to(live)
        if path.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


async def test_what_an_earlier_check_left_behind_goes(tmp_path: Path) -> None:
    await filled(tmp_path, 3)
    (tmp_path / "verify/old").mkdir(parents=True)
    assert verified(tmp_path).findings == []
    assert not (tmp_path / "verify").exists()


async def test_a_missing_index_is_made_only_when_asked(tmp_path: Path) -> None:
    await filled(tmp_path)
    for path in (tmp_path / "keyindex").iterdir():
        path.unlink()
    assert not verified(tmp_path).is_replaced
    assert not (tmp_path / "keyindex/data.mdb").exists()
    assert verified(tmp_path, replace=True).is_replaced
    async with opened(RealDisk(tmp_path), SMALL) as store:
        assert len(extents(store.durable)) == 30
        assert not store.problems


def headers(*changes: dict[str, int]) -> list[str]:
    """What `Order` says to records that count on, with these changes."""
    order = Order(SegmentHeader(1, b"u" * 16, OWNER, 0, 11, 5))
    told = []
    for number, change in enumerate(changes):
        flags = FLAG_END if number % 2 else FLAG_FIRST
        plain = RecordHeader(CHUNK, flags, 0, 0, 11 + number, 5 + number // 2, 0, ZERO_32, b"")
        told.append(order.check(plain._replace(**change)))
    return told


def test_order_accepts_what_the_log_writes() -> None:
    assert headers({}, {}, {}, {}, {"flags": FLAG_FIRST | FLAG_END}) == [""] * 5


@pytest.mark.parametrize(
    ("at", "change"),
    [
        (0, {"seq": 12}),
        (0, {"batch": 6}),
        (0, {"flags": 0}),
        (1, {"seq": 11}),
        (1, {"seq": 13}),
        (1, {"batch": 4}),
        (1, {"batch": 6}),
        (1, {"flags": FLAG_FIRST | FLAG_END}),
        (2, {"batch": 5}),
        (2, {"batch": 7}),
        (2, {"flags": FLAG_END}),
    ],
)
def test_order_refuses_any_other_place(at: int, change: dict[str, int]) -> None:
    told = headers(*[{}] * at, change)
    assert told[:-1] == [""] * at
    assert told[-1]


def test_order_of_an_output_has_holes_and_never_goes_back() -> None:
    order = Order(SegmentHeader(1, b"u" * 16, OWNER, 0, 11, 5, generation=1))
    head = RecordHeader(CHUNK, 0, 0, 0, 14, 7, 0, ZERO_32, b"")
    assert not order.check(head)
    assert not order.check(head._replace(seq=19, batch=7))
    assert order.check(head._replace(seq=19, batch=8))
    assert order.check(head._replace(seq=30, batch=6))


def test_records_out_of_order_are_found_in_a_log() -> None:
    disk = SimDisk()
    header = SegmentHeader(1, b"u" * 16, OWNER, 0, 1, 1)
    writer = SegmentWriter.begin(disk.open(segment_name(1), create=True), header, 1 << 16)
    at = 4096
    for seq in (1, 3):
        head = RecordHeader(CHUNK, 3, 100, 0, seq, seq, 0, ZERO_32, payload_digest(PAYLOAD))
        writer.append(at, [head], [PAYLOAD])
        at += record_bytes(100)
    writer.seal(at, 4, 4)
    (segment,) = read_layout(disk).log
    steps = LogCheck(disk).segment(segment, is_last=True)
    (flaw,) = [flaw for step in steps for flaw in step.flaws]
    assert flaw.detail == "sequence 3 follows 1"
    assert flaw.suspect.problem.seq == 3


def test_a_frozen_disk_changes_nothing(tmp_path: Path) -> None:
    disk = SimDisk()
    real = disk.open("00000001.seg", create=True)
    real.write(0, [b"abcdefgh"])
    frozen = FrozenDisk(disk)
    file = frozen.open("00000001.seg", write=True)
    file.write(6, [b"xy", b"z"])
    file.truncate(12)
    file.truncate(7)
    file.truncate(10)
    file.write(9, [b"!"])
    again = frozen.open("00000001.seg")
    view = memoryview(bytearray(20))
    assert again.read_into(0, view) == again.size() == 10
    assert bytes(view[:10]) == b"abcdefx\0\0!"
    assert again.read_into(5, view) == 5
    assert bytes(view[:5]) == b"fx\0\0!"
    assert again.read_into(11, view) == 0
    frozen.remove("00000001.seg")
    assert frozen.names() == []
    with pytest.raises(FileNotFoundError):
        frozen.open("00000001.seg")
    with pytest.raises(PermissionError):
        frozen.open("00000002.seg", create=True)
    assert bytes(disk.files["00000001.seg"].seen) == b"abcdefgh"
    assert disk.names() == ["00000001.seg"]


async def test_a_log_that_was_compacted_and_punched_is_whole(tmp_path: Path) -> None:
    options = replace(
        SMALL, segment_bytes=1 << 20, batch_bytes_max=1 << 18, queue_bytes_max=1 << 20
    )
    async with kit.opened(RealDisk(tmp_path), options) as store:
        for number in range(30):
            await store.commit([kit.add(number, bytes([number]) * 150_000)])
            await store.commit([kit.set_(f"k{number % 7}", str(number)), kit.touch(number)])
        for number in range(30):
            if number % 3 or number < 9:
                await store.commit([kit.remove(number)])
        punched = [
            await store.punch(judgement, kit.FREE)
            for judgement in await kit.judge_all(store, store.compaction_pass())
        ]
        await kit.compact_all(store, live_share_max=0.3, segment_bytes=1 << 20)
        problems, after = [], 0
        while not (step := await store.scrub(after, kit.FREE)).done:
            problems += step.problems
            after = step.after_seq
        assert (problems, step.problems) == ([], ())
    generations = [file.header.generation for file in read_layout(RealDisk(tmp_path)).log]
    assert 0 in generations[:-1]
    assert max(generations) > 0
    assert sum(punched) > 100_000
    found = Verifier(tmp_path, kit.KeepSchema(), lambda *_: (), lambda *_: None).run()
    assert (found.findings, found.notes, found.index) == ([], [], "equal")
    # Without rows to judge by, everything is damaged that was punched.
    blind = Verifier(tmp_path, AllLive(), lambda *_: (), lambda *_: None).run()
    assert blind.finding_count > 0


class AllLive(kit.KeepSchema):
    def worth(self, record: object, rows: object) -> Worth:
        return Worth.LIVE
