"""Which segments a bucket compacts, when, and what it does when something is in the way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio

from ostnode.store.errors import StoreFullError
from ostnode.store.pace import Pace
from ostnode.store.record import SpaceInfo
from ostnode.store.segment import segment_name
from tests.support.bucketkit import Kit
from tests.support.upkeepkit import (
    SMALL,
    blobs,
    compaction_of,
    delete,
    readable,
    sealed_bytes,
    upload,
)


@pytest.fixture
async def kit(autojump_clock) -> AsyncIterator[Kit]:
    async with Kit(SMALL).running() as running:
        yield running


def names(kit: Kit) -> list[int]:
    return [info.number for info in kit.bucket.store.segments()]


async def test_b42_a_pass_on_demand_gives_back_what_is_dead(autojump_clock, kit: Kit) -> None:
    datas = blobs(60)
    await upload(kit, *datas)
    await delete(kit, *datas[::2])
    await kit.bucket.store.roll()
    compaction = compaction_of(kit)
    before = sealed_bytes(kit)
    await compaction.pass_on_demand()
    figures = compaction.figures
    assert figures.passes == 1
    assert figures.pass_freed == figures.freed == before - sealed_bytes(kit)
    live = sum(map(len, datas[1::2]))
    assert sealed_bytes(kit) < 1.15 * live
    assert await readable(kit, *datas[1::2])
    assert not await readable(kit, datas[0])
    await compaction.pass_on_demand()
    assert compaction.figures.pass_freed == 0


async def test_b42_the_segment_that_is_written_to_gives_back_what_is_dead(
    autojump_clock, kit: Kit
) -> None:
    datas = blobs(8)
    await upload(kit, *datas)
    compaction = compaction_of(kit)
    await compaction.pass_on_demand()
    assert not sealed_bytes(kit), "nothing is dead: nothing is sealed"
    await delete(kit, *datas[1:])
    await compaction.pass_on_demand()
    assert kit.bucket.store.space().stored < 3 * len(datas[0])
    assert await readable(kit, datas[0])
    assert not await readable(kit, datas[1])


async def test_b42_everything_is_there_after_a_restart_too(autojump_clock) -> None:
    kit, datas = Kit(SMALL), blobs(40)
    async with kit.running():
        await upload(kit, *datas)
        await delete(kit, *datas[:30])
        await compaction_of(kit).pass_on_demand()
    async with kit.running():
        assert await readable(kit, *datas[30:])
        assert not kit.bucket.store.problems


async def test_b42_a_dry_run_says_what_a_pass_does_and_changes_nothing(
    autojump_clock, kit: Kit
) -> None:
    datas = blobs(60)
    await upload(kit, *datas)
    await delete(kit, *datas[::2])
    compaction = compaction_of(kit)
    before, took = names(kit), sealed_bytes(kit)
    plan = await compaction.plan()
    assert (names(kit), sealed_bytes(kit)) == (before, took)
    assert plan.judged == plan.sealed == sum(i.sealed for i in kit.bucket.store.segments())
    assert plan.planned == len(plan.segments) > 0
    assert sum(one.allocated for one in plan.segments) == plan.keeps + plan.frees
    await compaction.pass_on_demand()
    assert compaction.figures.freed >= plan.frees


async def test_b42_by_itself_it_takes_what_is_mostly_dead(autojump_clock, kit: Kit) -> None:
    """By the estimate: what is less than half dead is not even judged."""
    datas = blobs(60)
    await upload(kit, *datas)
    compaction = compaction_of(kit)
    await compaction.round()
    assert compaction.figures.pass_total == 0
    await delete(kit, *datas[:20], *datas[22::5])
    before = sealed_bytes(kit)
    await compaction.round()
    assert compaction.figures.pass_total > 0
    assert before - sealed_bytes(kit) > 0.9 * sum(map(len, datas[:12]))
    assert compaction.figures.pass_total < len(names(kit)) + 1
    again = compaction.figures
    await compaction.round()
    assert compaction.figures == again  # nothing has died since


async def test_b43_a_full_disk_is_helped_by_what_needs_least_room(
    autojump_clock, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the floor only segments that are nearly dead are rewritten: their copies are small."""
    datas = blobs(48)
    await upload(kit, *datas)
    infos = [info for info in kit.bucket.store.segments() if info.sealed]
    assert len(infos) >= 3
    await delete(kit, *datas[:7], *datas[14:36])
    monkeypatch.setattr(kit.bucket.store, "space", lambda: SpaceInfo(1 << 30, 0, 1 << 20))
    compaction = compaction_of(kit)
    await compaction.round()
    assert compaction.figures.freed > 0
    assert compaction.figures.skipped > 0
    assert names(kit)[0] == infos[0].number  # half of it is needed: no room for that copy
    monkeypatch.undo()
    await compaction.round()
    assert names(kit)[0] != infos[0].number
    assert await readable(kit, *datas[36:])


async def test_b43_a_pass_that_finds_no_room_goes_on_with_the_next(
    autojump_clock, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    datas = blobs(60)
    await upload(kit, *datas)
    await delete(kit, *datas[::2])
    refused = []
    compactor = kit.bucket.store._parts.compactor
    compact = compactor.compact

    async def refuse_first(run, pace, until=0):
        if not refused:
            refused.append(run.segments)
            raise StoreFullError(1, 0)
        return await compact(run, pace, until)

    monkeypatch.setattr(compactor, "compact", refuse_first)
    compaction = compaction_of(kit)
    await compaction.pass_on_demand()
    assert compaction.figures.skipped == len(refused[0])
    assert compaction.figures.freed > 0
    assert await readable(kit, *datas[1::2])


async def test_b42_a_segment_that_cannot_be_read_is_not_tried_all_the_time(
    autojump_clock, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    datas = blobs(60)
    await upload(kit, *datas)
    await delete(kit, *datas[:14:2], *datas[1:14:4])
    tried = []

    async def failing(run, _pace, _until=0):
        await trio.lowlevel.checkpoint()
        tried.append(run.segments)
        raise OSError(5, "no")

    monkeypatch.setattr(kit.bucket.store._parts.compactor, "compact", failing)
    compaction = compaction_of(kit)
    for _ in range(3):
        await compaction.round()
    assert len(tried) == compaction.figures.skipped == 1


async def test_b42_a_damaged_segment_is_skipped_and_the_rest_done(autojump_clock, kit: Kit) -> None:
    datas = blobs(60)
    await upload(kit, *datas)
    await delete(kit, *datas[::2])
    first = next(info for info in kit.bucket.store.segments() if info.sealed)
    for copy in (0, 2048):
        kit.disk.flip(segment_name(first.number), copy + 20)
    compaction = compaction_of(kit)
    await compaction.pass_on_demand()
    assert compaction.figures.skipped > 0
    assert compaction.figures.freed > 0
    assert first.number in names(kit)


async def test_b42_paused_it_stays_where_it_is_and_goes_on_later(autojump_clock, kit: Kit) -> None:
    datas = blobs(60)
    await upload(kit, *datas)
    await delete(kit, *datas[::2])
    pace = Pace(1 << 20)
    compaction = compaction_of(kit, pace=pace)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compaction.pass_on_demand)
        await trio.sleep(0.3)
        pace.pause()
        await trio.sleep(5)
        here = compaction.figures
        assert here.doing
        await trio.sleep(3600)
        assert compaction.figures == here
        pace.resume()
    assert compaction.figures.passes == 1
    assert compaction.figures.freed > 0


async def test_b42_it_keeps_to_its_rate(autojump_clock, kit: Kit) -> None:
    datas = blobs(60)
    await upload(kit, *datas)
    await delete(kit, *datas[::2])
    rate = 100_000
    compaction = compaction_of(kit, pace=Pace(rate))
    start = trio.current_time()
    await compaction.pass_on_demand()
    assert trio.current_time() - start >= 0.8 * sum(map(len, datas[1:48:2])) / rate


async def test_b42_what_is_asked_for_twice_is_done_twice_never_at_once(
    autojump_clock, kit: Kit
) -> None:
    """A pass that runs may have gone past what was deleted since: another one follows."""
    datas = blobs(60)
    await upload(kit, *datas)
    await delete(kit, *datas[::2])
    compaction = compaction_of(kit, pace=Pace(1 << 20))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compaction.run)
        assert compaction.ask() == compaction.ask() == 1
        await trio.sleep(0.3)
        assert compaction.figures.doing
        assert compaction.ask() == 2
        await trio.sleep(600)
        assert compaction.figures.passes == compaction.asked == 2
        nursery.cancel_scope.cancel()


async def test_b42_small_segments_are_joined_once(autojump_clock) -> None:
    """Each start leaves a short segment behind."""
    kit, datas = Kit(SMALL), blobs(6, 5_000)
    for data in datas:
        async with kit.running():
            await upload(kit, data)
    async with kit.running():
        compaction = compaction_of(kit)
        before = len(names(kit))
        await compaction.round()
        assert len(names(kit)) <= before - 4
        here = compaction.figures
        await compaction.round()
        assert compaction.figures == here
        assert await readable(kit, *datas)


async def test_b65_large_dead_payloads_are_punched_out(autojump_clock) -> None:
    options = replace(SMALL, store=replace(SMALL.store, segment_bytes=1 << 20))
    kit = Kit(options)
    async with kit.running():
        large, small = blobs(3, 90_000), blobs(60, 20_000, seed=2)
        await upload(kit, *small[:25], *large, *small[25:])
        await delete(kit, *large)
        compaction = compaction_of(kit)
        before = sealed_bytes(kit)
        await compaction.round()
        assert compaction.figures.punched > 0
        assert sealed_bytes(kit) == before - compaction.figures.freed
        assert await readable(kit, *small)


async def test_b65_holes_that_cannot_be_made_are_left(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = Kit(replace(SMALL, store=replace(SMALL.store, segment_bytes=1 << 20)))
    async with kit.running():
        large, small = blobs(3, 90_000), blobs(60, 20_000, seed=2)
        await upload(kit, *small[:25], *large, *small[25:])
        await delete(kit, *large)

        async def failing(_judgement, _pace):
            await trio.lowlevel.checkpoint()
            raise OSError(5, "no")

        monkeypatch.setattr(kit.bucket.store, "punch", failing)
        compaction = compaction_of(kit)
        await compaction.round()
        assert (compaction.figures.skipped, compaction.figures.punched) == (1, 0)


async def test_b43_where_no_copy_finds_room_holes_are_made(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a bucket that is full while most of it is dead stays full."""
    kit = Kit(replace(SMALL, store=replace(SMALL.store, segment_bytes=1 << 20)))
    async with kit.running():
        datas = blobs(60, 90_000)
        await upload(kit, *datas)
        live = datas[3::5] + datas[4::5]
        await delete(kit, *datas[::5], *datas[1::5], *datas[2::5])
        before = sealed_bytes(kit)
        monkeypatch.setattr(kit.bucket.store, "space", lambda: SpaceInfo(1 << 30, 0, 1 << 20))
        compaction = compaction_of(kit)
        await compaction.round()
        assert compaction.figures.copied == 0
        assert compaction.figures.punched == before - sealed_bytes(kit) > before // 2
        assert await readable(kit, *live)


async def test_b43_a_bucket_at_its_floor_has_room_for_a_copy(
    autojump_clock, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no uploads there: nothing else would ever make it take them again."""
    datas = blobs(60)
    await upload(kit, *datas)
    await delete(kit, *datas[::5], *datas[1::5], *datas[2::5])
    before, floor = sealed_bytes(kit), kit.options.rules.free_bytes_min
    monkeypatch.setattr(kit.bucket.store, "space", lambda: SpaceInfo(1 << 30, floor, 1 << 20))
    compaction = compaction_of(kit)
    await compaction.round()
    assert compaction.figures.skipped == 0
    assert sealed_bytes(kit) < before // 2
    assert await readable(kit, *datas[3::5], *datas[4::5])


@pytest.mark.parametrize("after_s", [3600, 86_400])
async def test_b42_metadata_that_has_died_is_found_in_time(
    autojump_clock, kit: Kit, after_s: int
) -> None:
    """No estimate tells of it: of small blobs that come and go, it is nearly all."""
    compaction = compaction_of(kit)
    await compaction.round()
    if after_s > 3600:
        await trio.sleep(3601)
        await compaction.round()
    await churn(kit, 200)
    await compaction.round()
    assert compaction.figures.freed == 0
    before = sealed_bytes(kit)
    await trio.sleep(after_s)
    await compaction.round()
    assert compaction.figures.freed > before // 2
    again = compaction.figures
    await compaction.round()
    assert compaction.figures == again


async def test_b42_metadata_that_has_died_is_found_when_there_is_much_of_it(
    autojump_clock, kit: Kit
) -> None:
    compaction = compaction_of(kit)
    for _ in range(6):
        await compaction.round()
        await churn(kit, 120)
    await compaction.round()
    assert compaction.figures.freed > 3 * SMALL.store.segment_bytes


async def churn(kit: Kit, count: int) -> None:
    """Small blobs that come and go, heard of by the index."""
    for data in blobs(count, 110, seed=int(kit.clock.time)):
        await upload(kit, data)
        await delete(kit, data)
    await kit.talk()
    kit.clock.time += 7200
    await kit.raise_floor(int(kit.clock.time))
    await kit.talk()


@pytest.mark.parametrize("on_demand", [False, True])
async def test_b42_one_dead_record_does_not_keep_all_tombstones(
    autojump_clock, kit: Kit, *, on_demand: bool
) -> None:
    """What it lies in is not worth a copy by itself, and the tombstones behind it may not go."""
    datas = blobs(30)
    await upload(kit, *datas)
    await delete(kit, datas[3])
    compaction, taken = compaction_of(kit), []
    await compaction.round()
    for _ in range(6):
        await churn(kit, 250)
        await trio.sleep(86_400)
        await (compaction.pass_on_demand() if on_demand else compaction.round())
        taken.append(sealed_bytes(kit))
    assert max(taken) < sum(map(len, datas)) + 5 * SMALL.store.segment_bytes
    assert min(taken[3:]) < min(taken[:3]) + SMALL.store.segment_bytes


async def test_b42_a_dry_run_foresees_that_tombstones_make_a_pass_heavier(
    autojump_clock, kit: Kit
) -> None:
    """What an early dead record keeps goes in the same call, and so does that record."""
    datas = blobs(30)
    await upload(kit, *datas)
    await delete(kit, datas[3])
    compaction = compaction_of(kit)
    for _ in range(3):
        await churn(kit, 250)
    plan = await compaction.plan()
    judgements = [await kit.bucket.store.judge(one.number) for one in plan.segments]
    assert any(judgement.dead_bytes < 0.1 * judgement.allocated for judgement in judgements)
    assert sum(judgement.tombstone_bytes for judgement in judgements) > 4 * 43_000
    await compaction.pass_on_demand()
    assert compaction.figures.freed == pytest.approx(plan.frees, rel=0.01)
