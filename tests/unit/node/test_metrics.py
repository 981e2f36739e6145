"""Figures equal the truth, computed again from the disk and the key space."""

from __future__ import annotations

from dataclasses import replace

import trio
from prometheus_client.parser import text_string_to_metric_families

from ostnode.node.metrics import bucket_figures, render
from ostnode.node.role import RoleReadiness
from ostnode.roles.bucket.options import UpkeepOptions
from ostnode.store.record import SpaceInfo
from tests.support.bucketkit import Kit, blob_of
from tests.support.upkeepkit import SMALL, blobs, delete, upload

OPTIONS = replace(SMALL, upkeep=UpkeepOptions(scrub_rate_max=1 << 20))


def told(kit: Kit) -> dict[str, float]:
    content_type, text = render(bucket_figures(kit.bucket.store, kit.bucket.maintenance))
    assert content_type.startswith("text/plain")
    return {
        sample.name.removeprefix("ostnode_bucket_"): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def on_disk(kit: Kit) -> dict[str, int]:
    """Segment files that hold something, with what they take."""
    sealed = {i.number for i in kit.bucket.store.segments()}
    sizes = {}
    for name in kit.disk.files:
        if name.endswith(".seg") and int(name.split(".")[0]) in sealed:
            file = kit.disk.open(name)
            sizes[name] = file.allocated()
            file.close()
    return sizes


async def test_b39_figures_equal_the_truth(autojump_clock) -> None:
    kit, datas = Kit(OPTIONS), blobs(60)
    async with kit.running(), trio.open_nursery() as nursery:
        nursery.start_soon(kit.bucket.maintenance.run)
        await upload(kit, *datas)
        dead, kept = datas[:40], datas[40:]
        await delete(kit, *dead)
        await trio.sleep(1)
        before = told(kit)
        open_ = [i for i in kit.bucket.store.segments() if not i.sealed]
        assert before["segments"] == len(on_disk(kit)) > 2
        took = sum(on_disk(kit).values())
        spare = sum(on_disk(kit)[f"{i.number:08}.seg"] - i.allocated for i in open_)
        assert before["segments_allocated_bytes"] == took - spare
        gone = sum(map(len, dead))
        assert gone <= before["dead_bytes"] <= gone + 40 * 2000
        assert before["live_bytes"] >= sum(map(len, kept))
        assert before["full"] == before["queue_bytes"] == before["corrupt_reads_total"] == 0
        assert before["key_index_bytes"] == kit.disk.index.nbytes() > 60 * 100
        assert before["batches_total"] > 60
        assert before["written_bytes_total"] == before["stored_bytes"]

        kit.bucket.maintenance.compaction.ask()
        kit.bucket.maintenance.scrubbing.ask()
        await trio.sleep(60)
        after = told(kit)
        assert after["compaction_passes_total"] == 1
        freed = before["segments_allocated_bytes"] - after["segments_allocated_bytes"]
        assert abs(after["compaction_freed_bytes_total"] - freed) < 40_000  # what came since
        assert after["compaction_copied_bytes_total"] < 0.5 * freed
        assert after["scrub_running"] == after["findings"] == 0
        scrub = kit.bucket.desk.durable.scrub()
        assert (after["scrub_position"], after["scrub_cycle_bytes"]) == (scrub.seq, scrub.nbytes)
        assert after["scrub_read_bytes_total"] >= scrub.nbytes > 0
        nursery.cancel_scope.cancel()


async def test_b39_damage_is_counted(autojump_clock) -> None:
    kit, datas = Kit(OPTIONS), blobs(30)
    async with kit.running(), trio.open_nursery() as nursery:
        nursery.start_soon(kit.bucket.maintenance.run)
        await upload(kit, *datas)
        row = kit.bucket.desk.durable.own_chunk(
            kit.bucket.desk.durable.blob(blob_of(datas[0])).number, 0
        )
        kit.disk.flip(f"{row.extent.segment:08}.seg", row.extent.offset + 1000)
        kit.bucket.maintenance.scrubbing.ask()
        await trio.sleep(60)
        figures = told(kit)
        assert figures["findings"] == len(kit.bucket.desk.durable.findings(10)) == 1
        assert figures["scrub_problems_total"] == 1
        nursery.cancel_scope.cancel()


async def test_b43_a_full_bucket_says_so(autojump_clock, monkeypatch) -> None:
    kit = Kit(OPTIONS)
    async with kit.running():
        monkeypatch.setattr(kit.bucket.store, "space", lambda: SpaceInfo(1 << 30, 7, 5))
        figures = told(kit)
        assert (figures["full"], figures["disk_free_bytes"], figures["stored_bytes"]) == (1, 7, 5)


def test_a_role_that_is_not_open_tells_nothing() -> None:
    assert RoleReadiness().metrics()[1] == b""
