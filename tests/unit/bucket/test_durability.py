"""Nobody is told what a crash could undo, and what was told is found again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
import trio.testing

from ostnode.env import Worker
from ostnode.errors import (
    DataCorruptError,
    GrantClosedError,
    HashMismatchError,
    InternalError,
    NotFoundError,
    OstError,
    ShuttingDownError,
)
from ostnode.roles.bucket import tables as t
from ostnode.store.errors import StoreFailedError, StoreOwnerError
from ostnode.store.store import StoreOptions
from ostnode.wire import events as e
from ostnode.wire import messages as m
from tests.support.bucketkit import (
    ALICE,
    BOB,
    CAROL,
    GENERAL,
    HTTP,
    OPTIONS,
    Kit,
    blob_of,
    pieces,
    uid_of,
)

DATA = bytes(range(40))
SMALL = b"one chunk"


class Gate(Worker):
    """Lets work through while it is open."""

    def __init__(self) -> None:
        self._open = trio.Event()
        self.open()

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open = trio.Event()

    async def run(self, function: Callable, *args):
        await self._open.wait()
        await trio.lowlevel.checkpoint()
        return function(*args)


class Asked:
    """A request in the background: told or not yet, and what."""

    def __init__(self, nursery: trio.Nursery, kit: Kit, user, request, body: bytes = b"") -> None:
        self.answer: m.Message | OstError | None = None
        nursery.start_soon(self._ask, kit, user, request, body)

    async def _ask(self, kit: Kit, user, request, body: bytes) -> None:
        try:
            self.answer = await kit.ask(user, request, body)
        except OstError as error:
            self.answer = error


async def quiet() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_b67_an_answer_waits_for_its_batch_and_for_those_before() -> None:
    gate, kit = Gate(), Kit()
    async with kit.running(worker=gate), trio.open_nursery() as nursery:
        grant = kit.grant(ALICE, DATA)
        gate.close()
        pushed = Asked(nursery, kit, ALICE, m.PushChunk(grant, 0), pieces(DATA)[0])
        await quiet()
        again = Asked(nursery, kit, ALICE, m.PushChunk(grant, 0), pieces(DATA)[0])
        wrong = Asked(nursery, kit, ALICE, m.PushChunk(grant, 1, ref_id=b"x"), pieces(DATA)[1])
        await quiet()
        # Both were decided on the chunk that is still being synced, and nobody is told.
        assert (pushed.answer, again.answer, wrong.answer) == (None, None, None)
        with pytest.raises(NotFoundError):
            await kit.ask(ALICE, m.UploadStatus(blob_of(DATA)))
        gate.open()
        await quiet()
        assert pushed.answer == again.answer == m.PushResult(2)
        assert wrong.answer.code == "upload_conflict"
        assert (await kit.ask(ALICE, m.UploadStatus(blob_of(DATA)))).received == b"\x01"


async def test_b67_a_decision_sees_the_batch_that_is_syncing() -> None:
    gate, kit = Gate(), Kit()
    async with kit.running(worker=gate), trio.open_nursery() as nursery:
        await kit.upload(ALICE, SMALL, GENERAL)
        reference = kit.key_of(SMALL, ALICE, GENERAL)
        gate.close()
        first = Asked(nursery, kit, ALICE, m.RemoveReferences((reference,)))
        await quiet()
        second = Asked(nursery, kit, ALICE, m.RemoveReferences((reference,)))
        forward = Asked(
            nursery,
            kit,
            BOB,
            m.AddReference(kit.grant(BOB, SMALL), GENERAL.principal, kit.token(GENERAL, BOB), ()),
        )
        await quiet()
        assert (first.answer, second.answer, forward.answer) == (None, None, None)
        # A read may still be served: the removal has not happened for anybody yet.
        assert await kit.readable(BOB, GENERAL, SMALL)
        gate.open()
        await quiet()
        assert first.answer.results == (m.ItemResult(),)
        assert second.answer.results[0].code == "not_found"
        assert forward.answer.code == "not_found"
        assert not await kit.readable(BOB, GENERAL, SMALL)


async def test_b67_the_outbox_tells_only_what_is_synced() -> None:
    gate, kit = Gate(), Kit()
    async with kit.running(worker=gate), trio.open_nursery() as nursery:
        gate.close()
        Asked(nursery, kit, ALICE, m.PushChunk(kit.grant(ALICE, SMALL), 0), SMALL)
        await quiet()
        assert len(kit.bucket.desk.state.outbox(9)) == 1
        nursery.start_soon(kit.bucket.sync.send_batch, kit.index, HTTP)
        await quiet()
        assert kit.index.batches == []
        gate.open()
        await quiet()
        assert [type(event) for event in kit.index.events] == [e.Completed]


@pytest.mark.parametrize("data", [DATA, SMALL])
async def test_a_caller_that_goes_away_changes_nothing(data: bytes) -> None:
    gate, kit = Gate(), Kit()
    async with kit.running(worker=gate):
        grant = kit.grant(ALICE, data)
        *others, (index, body) = enumerate(pieces(data))
        for other, chunk in others:
            await kit.push(ALICE, grant, other, chunk)
        async with trio.open_nursery() as nursery:
            gate.close()
            Asked(nursery, kit, ALICE, m.PushChunk(grant, index), body)
            await quiet()
            nursery.cancel_scope.cancel()
        gate.open()
        assert (await kit.push(ALICE, grant, index, body)).reference is not None
        await kit.talk()
        assert kit.index.used(ALICE) == len(data)


async def test_b08_a_caller_that_goes_away_during_the_hash_does_not_stop_it() -> None:
    kit = Kit()
    async with kit.running():
        grant = kit.grant(ALICE, DATA)
        for index in (0, 1):
            await kit.push(ALICE, grant, index, pieces(DATA)[index])
        read, hashing = kit.bucket.store.read, trio.Event()

        async def slow_read(extent):
            hashing.set()
            await quiet()
            return await read(extent)

        kit.bucket.store.read = slow_read
        async with trio.open_nursery() as nursery:
            Asked(nursery, kit, ALICE, m.PushChunk(grant, 2), pieces(DATA)[2])
            await hashing.wait()
            nursery.cancel_scope.cancel()
        while not kit.stored:
            await quiet()
        kit.bucket.store.read = read
        assert await kit.readable(ALICE, ALICE, DATA)


@pytest.mark.parametrize("how", ["closed", "killed", "power_lost"])
async def test_b10_an_upload_resumes_after_a_restart(how: str) -> None:
    kit = Kit()
    async with kit.running():
        grant = kit.grant(ALICE, DATA)
        for index in (2, 0):
            await kit.push(ALICE, grant, index, pieces(DATA)[index])
        survivor = kit.disk if how == "closed" else getattr(kit.disk, how)(7)
    kit.disk = survivor
    async with kit.running():
        status = await kit.ask(ALICE, m.UploadStatus(blob_of(DATA)))
        assert status.received == b"\x05"
        assert (await kit.push(ALICE, grant, 1, pieces(DATA)[1])).missing == 0
        assert await kit.readable(ALICE, ALICE, DATA)


async def test_b10_a_restart_finishes_what_only_lacked_its_completion() -> None:
    kit = Kit()
    async with kit.running():
        grant, spoilt = kit.grant(ALICE, DATA), kit.grant(BOB, DATA)
        for index, body in enumerate(pieces(DATA)[:2]):
            await kit.push(ALICE, grant, index, body)
            await kit.push(BOB, spoilt, index, bytes(16))

        async def no_read(extent):
            await trio.sleep_forever()

        kit.bucket.store.read = no_read
        async with trio.open_nursery() as nursery:
            asked = [
                Asked(nursery, kit, user, m.PushChunk(word, 2), pieces(DATA)[2])
                for user, word in ((ALICE, grant), (BOB, spoilt))
            ]
            await quiet()
            assert [request.answer for request in asked] == [None, None]
            survivor = kit.disk.killed(3)
            nursery.cancel_scope.cancel()
    kit.disk = survivor
    async with kit.running():
        await quiet()
        assert await kit.readable(ALICE, ALICE, DATA)
        assert (await kit.push(ALICE, grant, 2, pieces(DATA)[2])).reference is not None
        with pytest.raises(GrantClosedError) as refused:
            await kit.push(BOB, spoilt, 2, pieces(DATA)[2])
        assert refused.value.details == {"reason": "hash_mismatch"}
        await kit.talk()
        assert (kit.index.used(ALICE), kit.index.reserved(BOB)) == (40, 0)


async def test_stopping_during_a_completion_answers_that_the_node_stops() -> None:
    kit = Kit()
    async with trio.open_nursery() as nursery:
        async with kit.running():
            grant = kit.grant(ALICE, DATA)
            for index in (0, 1):
                await kit.push(ALICE, grant, index, pieces(DATA)[index])

            async def no_read(extent):
                await trio.sleep_forever()

            kit.bucket.store.read = no_read
            asked = Asked(nursery, kit, ALICE, m.PushChunk(grant, 2), pieces(DATA)[2])
            await quiet()
        await quiet()
        assert isinstance(asked.answer, ShuttingDownError)


@pytest.mark.parametrize("again", [1, 3])
async def test_a_refused_completion_is_told_to_everyone_who_waits(again: int) -> None:
    async with Kit().running() as kit, trio.open_nursery() as nursery:
        grant = kit.grant(ALICE, DATA)
        await kit.push(ALICE, grant, 0, bytes(16))
        await kit.push(ALICE, grant, 1, bytes(16))
        asked = [Asked(nursery, kit, ALICE, m.PushChunk(grant, 2), bytes(8)) for _ in range(again)]
        await quiet()
        answers = [request.answer for request in asked]
        assert all(isinstance(answer, HashMismatchError) for answer in answers)
        assert len(set(map(id, answers))) == again


async def test_b44_a_failed_sync_is_told_to_nobody_as_success() -> None:
    kit, answers = Kit(), []

    async def fail() -> None:
        async with kit.running(), trio.open_nursery() as nursery:
            await kit.upload(BOB, SMALL, GENERAL)
            soon = range(kit.disk.operations, kit.disk.operations + 10)
            kit.disk.faults.sync_errors = frozenset(soon)
            request = m.PushChunk(kit.grant(ALICE, SMALL), 0)
            answers.append(Asked(nursery, kit, ALICE, request, SMALL))
            await trio.sleep_forever()

    with pytest.RaisesGroup(StoreFailedError, flatten_subgroups=True):
        await fail()
    assert isinstance(answers[0].answer, ShuttingDownError)


async def test_a_directory_of_another_index_is_refused() -> None:
    kit = Kit()
    async with kit.running():
        await kit.upload(ALICE, SMALL, GENERAL)
    kit.options = replace(OPTIONS, index=BOB.principal)
    with pytest.raises(StoreOwnerError):
        async with kit.running():
            pass
    kit.options = OPTIONS
    async with kit.running():
        assert await kit.readable(BOB, GENERAL, SMALL)


async def test_b45_the_key_index_is_rebuilt_identical() -> None:
    kit = Kit()
    async with kit.running():
        await kit.upload(ALICE, DATA, GENERAL, ref_id=b"1", expires_at=2_000_000_000)
        await kit.upload(BOB, DATA, GENERAL)
        await kit.push(ALICE, kit.grant(ALICE, SMALL, size=20, reserved=20), 0, DATA[:16])
        await kit.push(BOB, kit.grant(BOB, DATA), 1, pieces(DATA)[1])
        await kit.remove(ALICE, kit.key_of(DATA, ALICE, GENERAL, ref_id=b"1"))
        kit.index.tell(e.UserChanged(uid_of(BOB), BOB.principal, 3, 7))
        await kit.talk()
        before = dict(kit.bucket.store.state.scan(b""))
    kit.disk.index.reset()
    async with kit.running():
        assert dict(kit.bucket.store.state.scan(b"")) == before


async def test_an_unreadable_disk_fails_one_completion_and_not_the_bucket() -> None:
    async with Kit().running() as kit:
        grant, (first, second, last) = kit.grant(ALICE, DATA), pieces(DATA)
        await kit.push(ALICE, grant, 0, first)
        await kit.push(ALICE, grant, 1, second)
        read = kit.bucket.store.read

        async def unreadable(extent):
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        kit.bucket.store.read = unreadable
        with pytest.raises(InternalError):
            await kit.push(ALICE, grant, 2, last)
        kit.bucket.store.read = read
        assert await kit.push(ALICE, grant, 2, last)
        assert kit.stored == {blob_of(DATA)}


async def test_a_bug_in_a_completion_is_told_and_ends_the_bucket() -> None:
    kit, answers = Kit(), []

    async def broken_read(extent):
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async def fail() -> None:
        async with trio.open_nursery() as outer, kit.running():
            grant = kit.grant(ALICE, DATA)
            for index in (0, 1):
                await kit.push(ALICE, grant, index, pieces(DATA)[index])
            kit.bucket.store.read = broken_read
            answers.append(Asked(outer, kit, ALICE, m.PushChunk(grant, 2), pieces(DATA)[2]))
            await trio.sleep_forever()

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        await fail()
    # Whether the caller was still there to hear it depends on who was cancelled first.
    assert answers[0].answer is None or isinstance(answers[0].answer, InternalError)


async def test_b57_a_damaged_chunk_is_an_error_and_never_other_bytes() -> None:
    kit = Kit()
    async with kit.running():
        await kit.upload(ALICE, DATA, GENERAL)
        await kit.upload(BOB, SMALL, GENERAL)
        extents = [t.ChunkRow.unpack(row).extent for _, row in kit.bucket.store.state.scan(b"C")]
        survivors = [kit.disk.killed(1), kit.disk.killed(1)]
    for disk, header in zip(survivors, (False, True), strict=True):
        (name,) = [name for name in disk.names() if name.startswith("00000001")]
        disk.flip(name, extents[1].offset + (8 if header else 96))
        disk.index.reset()
        damaged = Kit(disk=disk)
        async with damaged.running():
            assert damaged.bucket.store.problems
            if header:
                reader = await damaged.reader(CAROL, GENERAL, DATA)
                assert bytes(await reader.read(0, 16)) == DATA[:16]
                with pytest.raises(DataCorruptError):
                    await reader.read(0, 40)
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(DataCorruptError):
                await damaged.reader(CAROL, GENERAL, DATA)
            assert await damaged.readable(CAROL, GENERAL, SMALL)


@pytest.mark.slow
async def test_uploads_across_segments_that_fill() -> None:
    store = StoreOptions(segment_bytes=16 << 10, batch_bytes_max=4 << 10, queue_bytes_max=8 << 10)
    kit = Kit(replace(OPTIONS, store=store))
    blobs = [bytes([number]) * size for number in range(30) for size in (9, 40)]
    for _ in range(2):
        async with kit.running():
            async with trio.open_nursery() as nursery:
                for data in blobs:
                    nursery.start_soon(kit.upload, ALICE, data, GENERAL)
            await kit.talk()
            assert all([await kit.readable(BOB, GENERAL, data) for data in blobs])
    assert len(kit.disk.names()) > 5
    async with kit.running():
        keys = [kit.key_of(data, ALICE, GENERAL) for data in blobs]
        for at in range(0, len(keys), 10):
            await kit.remove(ALICE, *keys[at : at + 10])
        await kit.talk()
        assert kit.stored == set()
        assert kit.index.used(ALICE) == 0
        assert not list(kit.bucket.store.durable.scan(b"C"))
