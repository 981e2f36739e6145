"""Scrub: everything is read again in time, its place outlives restarts, damage is on record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio

from ostnode.errors import BusyError, DataCorruptError, UnknownCallError
from ostnode.roles.bucket.findings import list_findings, scrub_position
from ostnode.roles.bucket.maintenance import Maintenance
from ostnode.roles.bucket.options import UpkeepOptions
from ostnode.roles.bucket.scrubbing import Scrubbing
from ostnode.store.errors import StoreFailedError
from ostnode.store.record import Damage, Problem
from ostnode.store.segment import segment_name
from ostnode.store.simdisk import Faults
from ostnode.wire import messages as m
from ostnode.wire import upkeep as u
from tests.support.bucketkit import ALICE, GENERAL, Kit, blob_of
from tests.support.upkeepkit import SMALL, blobs, compaction_of, delete, readable, upload

DAY_S = 86_400
PERIOD_S = 10 * DAY_S
OPTIONS = replace(SMALL, upkeep=UpkeepOptions(scrub_period_s=PERIOD_S, scrub_rate_max=1 << 20))


@pytest.fixture
async def kit(autojump_clock) -> AsyncIterator[Kit]:
    async with Kit(OPTIONS).running() as running:
        yield running


def scrubbing_of(kit: Kit) -> Scrubbing:
    bucket = kit.bucket
    return Scrubbing(bucket.store, bucket.maintenance.ledger, kit.options.upkeep, kit.clock)


async def advance(kit: Kit, seconds: float) -> None:
    """Trio's time and the date."""
    for _ in range(100):
        kit.clock.time += seconds / 100
        await trio.sleep(seconds / 100)


def place_of(kit: Kit, data: bytes) -> tuple[str, int]:
    """Segment file and offset of the middle of a blob's only chunk."""
    row = kit.bucket.desk.durable.blob(blob_of(data))
    chunk = kit.bucket.desk.durable.own_chunk(row.number, 0)
    return segment_name(chunk.extent.segment), chunk.extent.offset + 5000


def flip_trailer(kit: Kit, segment: int) -> None:
    name = segment_name(segment)
    kit.disk.flip(name, len(kit.disk.files[name].seen) - 30)


async def test_b64_everything_is_read_within_the_period(autojump_clock, kit: Kit) -> None:
    await upload(kit, *blobs(60))
    scrubbing = scrubbing_of(kit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubbing.run)
        await advance(kit, 0.5 * PERIOD_S)
        assert scrubbing.running
        done = scrubbing.place.nbytes
        assert 0 < done < kit.bucket.store.space().stored
        await advance(kit, 0.5 * PERIOD_S)
        assert scrubbing.place.cycle == 1 or scrubbing.place.completed_at
        assert scrubbing.bytes_read >= sum(map(len, blobs(60)[:48]))
        nursery.cancel_scope.cancel()


async def test_b64_it_is_in_time_though_the_log_shrinks_behind_it(autojump_clock) -> None:
    """What compaction takes of what was read is not to be subtracted from what was not."""
    upkeep = UpkeepOptions(scrub_period_s=DAY_S, scrub_rate_max=1 << 20)
    async with Kit(replace(OPTIONS, upkeep=upkeep)).running() as kit:
        datas = blobs(90)
        await upload(kit, *datas)
        scrubbing = scrubbing_of(kit)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrubbing.run)
            await advance(kit, 0.5 * DAY_S)
            assert scrubbing.running
            await delete(kit, *datas[:45])
            await compaction_of(kit).pass_on_demand()
            await advance(kit, 0.45 * DAY_S)
            assert (scrubbing.place.cycle, scrubbing.running) == (1, False)
            nursery.cancel_scope.cancel()
        assert scrubbing.place.nbytes > sum(map(len, datas[:80]))


async def test_b64_its_place_outlives_a_restart(autojump_clock) -> None:
    kit = Kit(OPTIONS)
    async with kit.running():
        await upload(kit, *blobs(60))
        scrubbing = scrubbing_of(kit)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrubbing.run)
            await advance(kit, 0.6 * PERIOD_S)
            nursery.cancel_scope.cancel()
        here = scrub_position(kit.bucket.desk.durable)
        assert here.cycle == 1
        assert here.seq > 0
    async with kit.running():
        scrubbing = scrubbing_of(kit)
        assert scrubbing.place == here
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrubbing.run)
            await advance(kit, 0.4 * PERIOD_S)
            nursery.cancel_scope.cancel()
        assert scrubbing.bytes_read < kit.bucket.store.space().stored
        assert scrubbing.place.nbytes >= here.nbytes + scrubbing.bytes_read


async def test_b64_damage_is_on_record_with_blob_and_accessors(autojump_clock, kit: Kit) -> None:
    datas = blobs(60)
    await upload(kit, *datas)
    assert await readable(kit, *datas)  # what was verified once is read from the disk again
    kit.disk.flip(*place_of(kit, datas[3]))
    scrubbing = scrubbing_of(kit)
    scrubbing.ask()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubbing.run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    (finding,) = list_findings(kit.bucket.desk.durable, 10)
    assert (finding.blob, finding.accessors) == (blob_of(datas[3]), (GENERAL.principal,))
    assert scrubbing.problems == scrubbing.place.findings == 1
    with pytest.raises(DataCorruptError):
        await kit.read(ALICE, GENERAL, datas[3])
    status = kit.bucket.maintenance.status()
    assert status.scrub.findings == 1
    assert status.findings[0].blob_id == finding.blob
    assert await readable(kit, *datas[:3], *datas[4:])


@pytest.mark.parametrize("asked", [True, False])
async def test_b64_the_segment_that_is_written_to_is_read_as_well(
    autojump_clock, kit: Kit, *, asked: bool
) -> None:
    """At once when somebody asks, else within two periods."""
    (data,) = blobs(1)
    await upload(kit, data)
    scrubbing = scrubbing_of(kit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubbing.run)
        await trio.sleep(60)
        kit.disk.flip(*place_of(kit, data))
        if asked:
            scrubbing.ask()
            await trio.sleep(60)
        else:
            await advance(kit, 2 * PERIOD_S)
        nursery.cancel_scope.cancel()
    (finding,) = list_findings(kit.bucket.desk.durable, 10)
    assert finding.blob == blob_of(data)


async def test_b64_what_reads_well_again_is_healed(autojump_clock, kit: Kit) -> None:
    """A disk may give errors for a while only."""
    datas = blobs(60)
    await upload(kit, *datas)
    assert await readable(kit, *datas)
    place = place_of(kit, datas[3])
    kit.disk.flip(*place)
    scrubbing = scrubbing_of(kit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubbing.run)
        scrubbing.ask()
        await trio.sleep(60)
        kit.clock.time += 60
        scrubbing.ask()
        await trio.sleep(60)
        assert list_findings(kit.bucket.desk.durable, 10)
        kit.disk.flip(*place)
        kit.clock.time += 60
        scrubbing.ask()
        await trio.sleep(60)
        assert not list_findings(kit.bucket.desk.durable, 10)
        nursery.cancel_scope.cancel()
    assert await readable(kit, *datas)


async def test_b64_an_operator_has_findings_struck_out_and_looked_for_again(
    autojump_clock, kit: Kit
) -> None:
    datas = blobs(60)
    await upload(kit, *datas)
    assert await readable(kit, *datas)
    maintenance, rows = kit.bucket.maintenance, kit.bucket.desk.durable
    kit.disk.flip(*place_of(kit, datas[3]))
    flip_trailer(kit, 1)
    flip_trailer(kit, 2)
    many = [Problem(Damage.RANGE, 0, at, 1) for at in range(150)]
    for problem in many:  # of segments that are no more: no scrub can find these
        await maintenance.ledger.record(problem)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(maintenance.run)
        await maintenance.handle(u.StartScrub())
        await trio.sleep(60)
        assert len(list_findings(rows, 1000)) == 150 + 3
        await maintenance.handle(u.StartScrub())
        await trio.sleep(60)
        assert len(list_findings(rows, 1000)) == 150 + 3
        flip_trailer(kit, 2)
        await maintenance.handle(u.ForgetFindings())
        (blob,) = list_findings(rows, 1000)
        assert (blob.blob, blob.quarantined) == (blob_of(datas[3]), True)
        await trio.sleep(60)
        footer, blob = list_findings(rows, 1000)
        assert (footer.what, footer.segment, blob.quarantined) == (Damage.FOOTER, 1, True)
        nursery.cancel_scope.cancel()
    assert await readable(kit, *datas[:3], *datas[4:])


async def test_asked_for_it_begins_at_once_and_hurries(autojump_clock, kit: Kit) -> None:
    await upload(kit, *blobs(60))
    scrubbing = scrubbing_of(kit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubbing.run)
        await trio.sleep(1)
        assert (scrubbing.place.cycle, scrubbing.running) == (1, True)
        scrubbing.ask()
        await trio.sleep(60)
        assert (scrubbing.place.cycle, scrubbing.running) == (2, False)
        assert scrubbing.place.completed_at
        await advance(kit, 0.9 * PERIOD_S)
        assert scrubbing.place.cycle == 2
        await advance(kit, 0.2 * PERIOD_S)
        assert scrubbing.place.cycle == 3
        nursery.cancel_scope.cancel()


async def test_paused_it_reads_nothing_and_goes_on_later(autojump_clock, kit: Kit) -> None:
    await upload(kit, *blobs(60))
    scrubbing = scrubbing_of(kit)
    scrubbing.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubbing.run)
        scrubbing.ask()
        await trio.sleep(3600)
        scrubbing.ask()
        await trio.sleep(3600)
        assert scrubbing.bytes_read == 0
        scrubbing.resume()
        await trio.sleep(3600)
        assert scrubbing.bytes_read > 0
        nursery.cancel_scope.cancel()


async def test_b64_paused_it_does_not_read_the_key_index_either(
    autojump_clock, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def audit():
        nonlocal steps
        for _ in range(64):
            steps += 1
            if steps == 12:
                scrubbing.pause()
            yield

    monkeypatch.setattr(kit.disk.index, "audit", audit)
    scrubbing = scrubbing_of(kit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubbing.run)
        await trio.sleep(3600)
        assert 12 <= steps < 20
        assert not scrubbing.place.completed_at
        scrubbing.resume()
        await trio.sleep(60)
        assert steps >= 12 + 64
        assert scrubbing.place.completed_at
        nursery.cancel_scope.cancel()


async def test_operators_calls(autojump_clock, kit: Kit) -> None:
    await upload(kit, *blobs(60))
    maintenance = kit.bucket.maintenance
    assert await maintenance.handle(u.PauseMaintenance(paused=True)) == m.Ok()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(maintenance.run)
        plan = await maintenance.handle(u.CompactBucket())
        assert await maintenance.handle(u.StartScrub()) == m.Ok()
        await trio.sleep(60)
        status = await maintenance.handle(u.MaintenanceStatus())
        assert (status.paused, status.compaction.passes, status.scrub.bytes_done) == (True, 0, 0)
        assert status.key_index == kit.disk.index.nbytes() > 60 * 100
        await maintenance.handle(u.PauseMaintenance(paused=False))
        await trio.sleep(60)
        status = await maintenance.handle(u.MaintenanceStatus())
        assert status.compaction.passes == plan.pass_number == 1
        assert status.scrub.bytes_done > 0
        nursery.cancel_scope.cancel()
    with pytest.raises(UnknownCallError):
        await maintenance.handle(m.GetUser())


async def test_b44_a_failed_store_ends_it_quietly(autojump_clock) -> None:
    kit = Kit(OPTIONS)
    with pytest.RaisesGroup(StoreFailedError, flatten_subgroups=True, allow_unwrapped=True):
        async with kit.running():
            await upload(kit, *blobs(30))
            done = kit.disk.operations
            kit.disk.faults = Faults(sync_errors=frozenset(range(done, done + 1000)))
            maintenance: Maintenance = kit.bucket.maintenance
            maintenance.scrubbing.ask()
            await maintenance.run()


async def test_b43_a_full_or_failing_disk_only_postpones_it(
    autojump_clock, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(kit, *blobs(30))
    scrub, refusals = kit.bucket.store.scrub, [OSError(5, "no"), BusyError("full")]

    async def failing(after_seq, pace):
        if refusals:
            raise refusals.pop()
        return await scrub(after_seq, pace)

    monkeypatch.setattr(kit.bucket.store, "scrub", failing)
    scrubbing = scrubbing_of(kit)
    scrubbing.ask()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrubbing.run)
        await trio.sleep(300)
        assert scrubbing.place.completed_at
        nursery.cancel_scope.cancel()
