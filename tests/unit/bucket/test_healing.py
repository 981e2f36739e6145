"""Damage: what is quarantined, what is told to whom, and how it is healed."""

from __future__ import annotations

from functools import partial

import pytest
import trio
from structlog.testing import capture_logs

from ostnode.errors import DataCorruptError, HashMismatchError, NotFoundError
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.completions import Completions
from ostnode.roles.bucket.core.uploads import finish
from ostnode.roles.bucket.findings import clear_finding, fill_gaps, list_findings, record_problem
from ostnode.roles.bucket.records import Kind
from ostnode.store.format import RECORD_HEADER_BYTES
from ostnode.store.record import Damage, Problem
from ostnode.store.segment import segment_name
from ostnode.wire import events as e
from ostnode.wire import messages as m
from tests.support.bucketkit import (
    ALICE,
    BOB,
    CAROL,
    GENERAL,
    NOW,
    RANDOM,
    Kit,
    blob_of,
    key,
    pieces,
)

DATA = bytes(range(40))
FIRST, SECOND, THIRD = pieces(DATA)


def flip(kit: Kit, place: int) -> None:
    """A bit of the place-th chunk on the disk, in the order of the log."""
    rows = [row for _, row in kit.bucket.store.durable.scan(t.CHUNKS) if row != t.MATCHED]
    extents = sorted(t.ChunkRow.unpack(row).extent for row in rows)
    extent = extents[place]
    kit.disk.flip(segment_name(extent.segment), extent.offset + RECORD_HEADER_BYTES)


async def recorded() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def quarantine(kit: Kit) -> None:
    """What alice shows in general is damaged, and a read has met that."""
    reader = await kit.reader(ALICE, GENERAL, DATA)
    with pytest.raises(DataCorruptError):
        await reader.read(0, 40)
    await recorded()


@pytest.fixture
async def damaged(autojump_clock) -> Kit:
    """alice's and bob's references to one copy, whose second chunk is damaged."""
    kit = Kit()
    async with kit.running():
        await kit.upload(ALICE, DATA, GENERAL)
        await kit.forward(BOB, DATA, GENERAL, RANDOM)
        await kit.talk()
        flip(kit, 1)
    return kit


async def test_b41_a_read_that_meets_damage_quarantines_the_blob_once(damaged: Kit) -> None:
    async with damaged.running() as kit:
        with capture_logs() as logs:
            await quarantine(kit)
            for chat in (GENERAL, RANDOM):
                with pytest.raises(DataCorruptError):
                    await kit.reader(BOB, chat, DATA)
        reported = [entry for entry in logs if entry["event"] == "damage found in the log"]
        (finding,) = list_findings(kit.bucket.desk.durable, 10)
        assert finding.blob == blob_of(DATA)
        assert set(finding.accessors) == {GENERAL.principal, RANDOM.principal}
        assert finding.quarantined
        (report,) = reported
        assert report["blob"] == blob_of(DATA).hex()
        assert len(report["accessors"]) == 2
    async with kit.running():
        assert len(list_findings(kit.bucket.desk.durable, 10)) == 1
        with pytest.raises(DataCorruptError):
            await kit.reader(ALICE, GENERAL, DATA)


async def test_b18_quarantine_tells_strangers_nothing(damaged: Kit) -> None:
    async with damaged.running() as kit:
        await quarantine(kit)
        for chat in (CAROL, key("nobody")):
            with pytest.raises(NotFoundError):
                await kit.reader(CAROL, chat, DATA)
        with pytest.raises(NotFoundError):
            await kit.forward(CAROL, DATA, CAROL, GENERAL)


async def test_b64_uploading_it_again_heals_every_reference(damaged: Kit) -> None:
    async with damaged.running() as kit:
        await quarantine(kit)
        charges = dict(kit.index.charges)
        with pytest.raises(NotFoundError):
            await kit.forward(CAROL, DATA, GENERAL, RANDOM)
        await kit.upload(CAROL, DATA, RANDOM)
        for user, chat in ((ALICE, GENERAL), (BOB, RANDOM), (CAROL, RANDOM)):
            assert await kit.readable(user, chat, DATA)
        assert list_findings(kit.bucket.desk.durable, 10) == []
        await kit.talk()
        assert charges.items() <= kit.index.charges.items()
        assert len(list(kit.bucket.store.durable.scan(t.CHUNKS))) == 3


async def test_b64_its_owner_heals_it_with_a_grant_that_reserves_nothing(damaged: Kit) -> None:
    async with damaged.running() as kit:
        await quarantine(kit)
        await kit.upload(ALICE, DATA, GENERAL, ref_id=b"again")
        await kit.talk()
        assert await kit.readable(BOB, RANDOM, DATA)
        assert (kit.index.used(ALICE), kit.index.used(BOB)) == (40, 40)


async def test_b64_a_blob_of_one_chunk_heals_too(autojump_clock) -> None:
    kit = Kit()
    async with kit.running():
        await kit.upload(ALICE, FIRST, GENERAL)
        flip(kit, 0)
    async with kit.running():
        reader = await kit.reader(ALICE, GENERAL, FIRST)
        with pytest.raises(DataCorruptError):
            await reader.read(0, 16)
        await recorded()
        await kit.upload(BOB, FIRST, RANDOM)
        assert await kit.readable(ALICE, GENERAL, FIRST)


async def test_b64_damage_is_moot_once_the_last_reference_goes(damaged: Kit) -> None:
    async with damaged.running() as kit:
        await quarantine(kit)
        await kit.remove(ALICE, kit.key_of(DATA, ALICE, GENERAL))
        assert list_findings(kit.bucket.desk.durable, 10)
        await kit.remove(BOB, kit.key_of(DATA, BOB, RANDOM))
        assert list_findings(kit.bucket.desk.durable, 10) == []
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.used(BOB)) == (0, 0)


async def test_an_operator_clears_a_finding(damaged: Kit) -> None:
    async with damaged.running() as kit:
        await quarantine(kit)
        (finding,) = list_findings(kit.bucket.desk.durable, 10)
        await kit.bucket.desk.decide(lambda draft: clear_finding(draft, finding))
        reader = await kit.reader(ALICE, GENERAL, DATA)
        assert bytes(await reader.read(0, 16)) == FIRST


async def test_b41_a_damaged_chunk_of_an_unfinished_upload_is_pushed_again(autojump_clock) -> None:
    kit = Kit()
    async with kit.running():
        grant = kit.grant(ALICE, DATA)
        await kit.push(ALICE, grant, 0, FIRST)
        await kit.push(ALICE, grant, 1, SECOND)
        flip(kit, 0)
    async with kit.running():
        promised = kit.bucket.desk.durable.number(t.PROMISED)
        answer = await kit.push(ALICE, grant, 2, THIRD)
        assert (answer.missing, answer.reference) == (1, None)
        assert kit.bucket.desk.durable.number(t.PROMISED) == promised - len(THIRD) + len(FIRST)
        info = await kit.ask(ALICE, m.UploadStatus(blob_of(DATA)))
        assert info.received == b"\x06"
    async with kit.running():
        answer = await kit.push(ALICE, grant, 0, FIRST)
        assert answer.reference is not None
        assert kit.bucket.desk.durable.number(t.PROMISED) == 0


async def first_chunk_is_damaged(kit: Kit, number: int) -> None:
    """As the scrub finds it, in an open upload of DATA."""
    place = kit.bucket.desk.state.own_chunk(number, 0).extent
    found = Problem(Damage.PAYLOAD, *place, Kind.CHUNK, blob_of(DATA), number, 0)
    await kit.bucket.desk.decide(partial(record_problem, problem=found, now=NOW))


async def test_b40_a_chunk_lost_while_the_upload_is_hashed_is_pushed_again(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scrub reads past the page cache, which the hash was made from."""
    async with Kit().running() as kit:
        grant, shown = kit.grant(ALICE, DATA), {"accessors": (GENERAL.principal,)}
        await kit.push(ALICE, grant, 0, FIRST, **shown)
        await kit.push(ALICE, grant, 1, SECOND, **shown)
        verify = Completions._verify

        async def verify_and_scrub(completions, number, upload):
            monkeypatch.undo()
            verified = await verify(completions, number, upload)
            await first_chunk_is_damaged(kit, number)
            return verified

        monkeypatch.setattr(Completions, "_verify", verify_and_scrub)
        assert await kit.push(ALICE, grant, 2, THIRD, **shown) == m.PushResult(1)
        assert not kit.stored
        answer = await kit.push(ALICE, grant, 0, FIRST, **shown)
        assert answer.reference is not None
        assert await kit.read(ALICE, GENERAL, DATA) == DATA


async def test_b09_other_bytes_for_a_chunk_lost_while_it_was_hashed_are_hashed_as_well(
    autojump_clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Kit().running() as kit:
        grant, shown = kit.grant(ALICE, DATA), {"accessors": (GENERAL.principal,)}
        await kit.push(ALICE, grant, 0, FIRST, **shown)
        await kit.push(ALICE, grant, 1, SECOND, **shown)
        verify = Completions._verify

        async def verify_lose_and_push(completions, number, upload):
            monkeypatch.undo()
            verified = await verify(completions, number, upload)
            await first_chunk_is_damaged(kit, number)
            with trio.move_on_after(1):  # it is answered by the completion that waits for this
                await kit.push(ALICE, grant, 0, bytes(len(FIRST)), **shown)
            return verified

        monkeypatch.setattr(Completions, "_verify", verify_lose_and_push)
        with pytest.raises(HashMismatchError):
            await kit.push(ALICE, grant, 2, THIRD, **shown)
        assert not kit.stored


async def test_b64_an_upload_that_leans_on_a_damaged_copy_is_not_lost(damaged: Kit) -> None:
    async with damaged.running() as kit:
        grant = kit.grant(CAROL, DATA)
        for index in (0, 1):
            await kit.push(CAROL, grant, index, pieces(DATA)[index])
        answer = await kit.push(CAROL, grant, 2, THIRD)
        await recorded()
        while answer.missing:
            info = await kit.ask(CAROL, m.UploadStatus(blob_of(DATA)))
            lost = [i for i in range(3) if not info.received[0] >> i & 1]
            assert len(lost) == answer.missing
            for index in lost:
                answer = await kit.push(CAROL, grant, index, pieces(DATA)[index])
        assert answer.reference is not None
        assert await kit.readable(ALICE, GENERAL, DATA)
        await kit.sweep()
        assert not [row for _, row in kit.bucket.store.durable.scan(t.CHUNKS) if row == t.MATCHED]


async def test_b64_an_upload_that_leans_on_a_copy_leans_on_its_healed_one(damaged: Kit) -> None:
    async with damaged.running() as kit:
        grant = kit.grant(CAROL, DATA)
        for index in (0, 1):
            await kit.push(CAROL, grant, index, pieces(DATA)[index])
        await quarantine(kit)
        await kit.upload(ALICE, DATA, GENERAL, ref_id=b"again")
        await kit.sweep()
        answer = await kit.push(CAROL, grant, 2, THIRD)
        assert answer.reference is not None
        assert await kit.readable(ALICE, GENERAL, DATA)


async def test_b31_a_lost_outbox_event_leaves_a_finding_and_no_gap(autojump_clock) -> None:
    kit = Kit()
    async with kit.running():
        await kit.upload(ALICE, FIRST, GENERAL)
        await kit.upload(BOB, SECOND, GENERAL)
        await kit.upload(ALICE, THIRD, GENERAL)
        events = [row for _, row in kit.bucket.store.durable.scan(t.OUTBOX)]
    name = segment_name(1)
    file = kit.disk.open(name)
    content = bytearray(file.size())
    file.read_into(0, memoryview(content))
    file.close()
    for event in events[:2]:
        kit.disk.flip(name, content.index(event))
    kit.disk.index.reset()
    async with kit.running():
        findings = list_findings(kit.bucket.desk.durable, 10)
        kinds = [finding.kind for finding in findings if finding.kind]
        assert kinds == [Kind.OUTBOX, Kind.OUTBOX]
        await kit.upload(BOB, FIRST, GENERAL)
        await kit.talk()
        assert kit.index.acked == kit.bucket.desk.durable.number(t.OUTBOX_NEXT) - 1
        assert kit.index.events.count(e.FloorRaised(0)) == 2
        assert kit.index.used(ALICE) == len(THIRD)
    kit.disk.index.reset()
    kit.clock.time += 5
    async with kit.running():
        assert list_findings(kit.bucket.desk.durable, 10) == findings


async def test_acknowledged_events_are_not_taken_for_lost(autojump_clock) -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, FIRST, GENERAL)
        await kit.talk()
        assert await kit.bucket.desk.decide(lambda draft: fill_gaps(draft, 0, NOW)) is None
        assert list_findings(kit.bucket.desk.durable, 10) == []


async def test_b64_a_copy_found_damaged_at_the_last_moment_is_not_leant_on(damaged: Kit) -> None:
    async with damaged.running() as kit:
        grant = kit.grant(CAROL, DATA)
        await kit.push(CAROL, grant, 0, FIRST)
        await quarantine(kit)
        ((number, upload),) = kit.bucket.desk.state.uploads(0, 9)
        last = partial(
            finish, rules=kit.options.rules, upload=upload, number=number, now=NOW, verified=True
        )
        assert await kit.bucket.desk.decide(last) is None
        assert kit.bucket.desk.state.upload(number) is not None


async def test_b31_events_of_which_nothing_is_left_leave_findings_too(autojump_clock) -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, FIRST, GENERAL)
        await kit.bucket.desk.decide(lambda draft: draft.tell_as(4, e.FloorRaised(NOW)))
        assert [number for number, _ in kit.bucket.desk.durable.outbox(9)] == [1]
        assert await kit.bucket.desk.decide(lambda draft: fill_gaps(draft, 0, NOW)) == 4
        assert [number for number, _ in kit.bucket.desk.durable.outbox(9)] == [1, 2, 3, 4]
        assert len(list_findings(kit.bucket.desk.durable, 10)) == 2


async def test_b41_damage_that_is_found_again_is_no_news(autojump_clock) -> None:
    named = Problem(Damage.PAYLOAD, 1, 4096, 50, Kind.FLOOR, seq=7)
    async with Kit().running() as kit:
        for problem in (named, Problem(Damage.RANGE, 1, 8192, 96)):
            for seconds, news in ((0, True), (5, False)):
                told = partial(record_problem, problem=problem, now=NOW + seconds)
                assert await kit.bucket.desk.decide(told) is news
        findings = list_findings(kit.bucket.desk.durable, 10)
        assert [(found.what, found.found_at) for found in findings] == [
            ("range", NOW),
            ("payload", NOW),
        ]
