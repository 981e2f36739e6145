"""The client against a real index and bucket on loopback: every call, in the order of a story."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from ostnode.client import (
    Client,
    ClientOptions,
    PeerClient,
    Phase,
    Progress,
    UploadedBlob,
    connect,
    connect_peer,
    mint_accessor_delete,
    mint_read,
    mint_ref_delete,
)
from ostnode.errors import (
    AllowanceExceededError,
    NotAuthorizedError,
    NotFoundError,
    TokenInvalidError,
    UserExistsError,
    UserUnknownError,
)
from ostnode.identity.keys import KeyPair
from ostnode.ids import NULL_ACCESSOR, BlobId
from ostnode.node.running import run_node
from ostnode.node.seams import Seams
from ostnode.wire import messages as m
from tests.support.client_fakes import key_pair
from tests.support.nodes import Made, one_process

pytestmark = pytest.mark.slow

MIB = 1 << 20
LIMIT = 8 * MIB
DATA = bytes(range(256)) * (10 << 10)  # 2.5 MiB: three chunks
ALICE, BOB, CAROL = (key_pair(name) for name in ("alice", "bob", "carol"))
GENERAL, RANDOM = key_pair("general"), key_pair("random")


@dataclass
class Place:
    """A running node, and everybody's way to it."""

    made: Made
    index_url: str
    peer: str

    @asynccontextmanager
    async def client(self, key: KeyPair, parallel: int = 4) -> AsyncIterator[Client]:
        index = self.made.cluster.index.key.principal
        options = ClientOptions(parallel=parallel)
        async with connect(self.index_url, key, index=index, options=options) as client:
            yield client

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[PeerClient]:
        index = self.made.cluster.index.key.principal
        async with connect_peer(self.peer, self.made.app, index=index) as client:
            yield client

    def read_token(self, chat: KeyPair, reader: KeyPair) -> bytes:
        return mint_read(chat, reader.principal, cluster_id=self.made.cluster.cluster_id)


@asynccontextmanager
async def _place(root: Path) -> AsyncIterator[Place]:
    """Alice and bob are registered."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        peer = f"127.0.0.1:{sock.getsockname()[1]}"
    made = one_process(root, index_peer=peer)
    stop = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            bounds = await nursery.start(partial(run_node, made.config, Seams(), stop=stop))
            place = Place(made, f"http://{bounds[0].http}", peer)
            async with place.admin() as admin:
                await admin.register_user(ALICE.principal, LIMIT)
                await admin.register_user(BOB.principal, LIMIT)
            yield place
            stop.set()


def _key(blob: UploadedBlob, accessor: KeyPair, token: bytes = b"") -> m.ReferenceKey:
    reference = blob.reference
    return m.ReferenceKey(
        reference.blob_id, reference.owner, accessor.principal, reference.ref_id, token
    )


async def _account(client: Client, used: int, reserved: int = 0) -> None:
    """Wait until the account shows this: buckets report in the background."""
    expected = m.Allowance(LIMIT, used, reserved)
    with trio.fail_after(10):
        while True:
            if await client.allowance() == expected:
                break
            await trio.sleep(0.02)


async def test_a_blob_is_posted_read_forwarded_and_deleted(tmp_path: Path) -> None:
    async with _place(tmp_path) as place, place.client(ALICE) as alice, place.client(BOB) as bob:
        blob = await alice.upload(
            DATA,
            accessors=[GENERAL.principal],
            ref_id=b"m1",
            content_type="image/png",
            filename="käse.png",
        )
        blob_id = blob.reference.blob_id
        assert (blob.chunks_sent, blob.chunks_total) == (3, 3)

        token = place.read_token(GENERAL, BOB)
        read = await bob.download(GENERAL.principal, blob_id, to=tmp_path / "x", token=token)
        assert (tmp_path / "x").read_bytes() == DATA
        assert (read.content_type, read.filename) == ("image/png", "käse.png")
        info = await bob.blob_info(GENERAL.principal, blob_id, token=token, bucket=blob.bucket)
        assert (info.size, info.own_references) == (len(DATA), 0)

        async with place.client(CAROL) as carol:
            for stranger in (carol.read, carol.blob_info):
                with pytest.raises(NotFoundError):
                    await stranger(GENERAL.principal, blob_id, token=token, bucket=blob.bucket)

        assert (await bob.can_forward(blob_id, len(DATA))).limit == LIMIT
        forwarded = await bob.forward(
            blob_id, len(DATA), [RANDOM.principal], source=GENERAL.principal, token=token
        )
        carols = place.read_token(RANDOM, CAROL)
        async with place.client(CAROL) as carol:
            assert await carol.read(RANDOM.principal, blob_id, token=carols) == DATA

        again = await alice.upload(DATA, accessors=[GENERAL.principal], ref_id=b"m2")
        assert again.chunks_sent == 0
        await _account(alice, len(DATA))
        await _account(bob, len(DATA))

        delete = mint_ref_delete(
            GENERAL,
            BOB.principal,
            cluster_id=place.made.cluster.cluster_id,
            blob_id=blob_id,
            owner=blob.reference.owner,
            ref_id=b"m1",
        )
        await bob.delete_reference(blob.bucket, _key(blob, GENERAL, delete))
        with pytest.raises(NotFoundError):
            await alice.delete_reference(blob.bucket, _key(blob, GENERAL))
        results = await alice.delete_references(
            blob.bucket, [_key(blob, GENERAL), _key(again, GENERAL)]
        )
        assert [result.code for result in results.results] == ["not_found", ""]
        await _account(alice, 0)
        await bob.delete_reference(forwarded.bucket, _key(forwarded, RANDOM))
        await _account(bob, 0)


async def test_a_chat_is_deleted_by_a_token_or_by_the_app(tmp_path: Path) -> None:
    async with _place(tmp_path) as place, place.client(ALICE) as alice:
        blob = await alice.upload(b"one", accessors=[GENERAL.principal])
        other = await alice.upload(b"two", accessors=[RANDOM.principal])
        await _account(alice, 6)
        cluster_id = place.made.cluster.cluster_id
        wrong = mint_accessor_delete(RANDOM, ALICE.principal, cluster_id=cluster_id)
        with pytest.raises(TokenInvalidError):
            await alice.delete_accessor(GENERAL.principal, token=wrong)
        token = mint_accessor_delete(GENERAL, ALICE.principal, cluster_id=cluster_id)
        await alice.delete_accessor(GENERAL.principal, token=token)
        await _account(alice, 3)
        async with place.admin() as admin:
            await admin.delete_accessor(RANDOM.principal)
        await _account(alice, 0)
        for gone, chat in ((blob, GENERAL), (other, RANDOM)):
            with pytest.raises(NotFoundError):
                await alice.read(
                    chat.principal,
                    gone.reference.blob_id,
                    token=place.read_token(chat, ALICE),
                    bucket=gone.bucket,
                )


async def test_an_upload_is_cut_looked_at_and_cancelled(tmp_path: Path) -> None:
    async with _place(tmp_path) as place, place.client(ALICE, parallel=1) as alice:
        scope = trio.CancelScope()

        def cut(progress: Progress) -> None:
            if progress.phase is Phase.PUSH and progress.done >= MIB:
                scope.cancel()

        with scope:
            await alice.upload(DATA, progress=cut)
        assert scope.cancelled_caught
        blob_id = BlobId(blake3(DATA).digest())
        allocation = await alice.allocated_bucket(blob_id, len(DATA))
        info = await alice.upload_status(allocation.bucket, blob_id)
        assert info.grant_id == allocation.grant_id
        assert info.received == b"\x01"
        await _account(alice, 0, reserved=len(DATA))
        await alice.cancel_upload(allocation.bucket, blob_id)
        await _account(alice, 0)
        with pytest.raises(NotFoundError):
            await alice.upload_status(allocation.bucket, blob_id)


async def test_b10_an_upload_that_was_cut_sends_only_what_is_missing(tmp_path: Path) -> None:
    async with _place(tmp_path) as place:
        scope = trio.CancelScope()

        def cut(progress: Progress) -> None:
            if progress.phase is Phase.PUSH and progress.done >= 2 * MIB:
                scope.cancel()

        async with place.client(ALICE, parallel=1) as alice:
            with scope:
                await alice.upload(DATA * 2, progress=cut)
        async with place.client(ALICE) as alice:
            blob = await alice.upload(DATA * 2)
            assert (blob.chunks_sent, blob.chunks_total) == (3, 5)
            assert await alice.read(ALICE.principal, blob.reference.blob_id) == DATA * 2


async def test_b56_one_file_is_posted_twice_at_once(tmp_path: Path) -> None:
    """The second post meets a grant that the first one has just used, or its open upload."""
    async with _place(tmp_path) as place, place.client(ALICE) as alice:
        first = await alice.upload(DATA, accessors=[GENERAL.principal], ref_id=b"1")
        second = await alice.upload(DATA, accessors=[GENERAL.principal], ref_id=b"2")
        await _account(alice, len(DATA))
        await alice.delete_reference(first.bucket, _key(first, GENERAL))
        token = place.read_token(GENERAL, ALICE)
        blob_id = second.reference.blob_id
        assert await alice.read(GENERAL.principal, blob_id, token=token) == DATA


async def test_a_grant_is_given_back(tmp_path: Path) -> None:
    async with _place(tmp_path) as place, place.client(ALICE) as alice:
        allocation = await alice.allocated_bucket(BlobId(bytes(32)), 5)
        await _account(alice, 0, reserved=5)
        await alice.release_grant(allocation.grant_id)
        await _account(alice, 0)


async def test_a_blob_without_accessors_is_its_owners_alone(tmp_path: Path) -> None:
    async with _place(tmp_path) as place, place.client(ALICE) as alice, place.client(BOB) as bob:
        blob = await alice.upload(b"mine alone")
        blob_id = blob.reference.blob_id
        assert blob.reference.accessors == (NULL_ACCESSOR,)
        assert await alice.read(ALICE.principal, blob_id) == b"mine alone"
        with pytest.raises(NotFoundError):
            await bob.read(ALICE.principal, blob_id, bucket=blob.bucket)


async def test_refusals_say_what_programs_need(tmp_path: Path) -> None:
    async with _place(tmp_path) as place, place.client(ALICE) as alice:
        with pytest.raises(AllowanceExceededError) as caught:
            await alice.upload(bytes(LIMIT + 1))
        assert caught.value.details == {
            "limit": LIMIT,
            "used": 0,
            "reserved": 0,
            "needed": LIMIT + 1,
        }
        with pytest.raises(NotAuthorizedError):
            await alice.cluster_status()
        async with place.client(CAROL) as carol:
            with pytest.raises(UserUnknownError):
                await carol.upload(b"x")


async def test_the_app_administers_over_http_and_over_the_link(tmp_path: Path) -> None:
    async with (
        _place(tmp_path) as place,
        place.client(place.made.app) as over_http,
        place.admin() as over_link,
    ):
        for app in (over_http, over_link):
            await app.register_user(CAROL.principal, 5)
            assert (await app.user(CAROL.principal)).allowance == m.Allowance(5, 0, 0)
            with pytest.raises(UserExistsError):
                await app.change_user_principal(CAROL.principal, BOB.principal)
            await app.block_principal(BOB.principal)
            assert (await app.user(BOB.principal)).blocked
            await app.block_principal(BOB.principal, blocked=False)
            await app.delete_user(CAROL.principal)
            with pytest.raises(UserUnknownError):
                await app.user(CAROL.principal)
            info = await app.cluster_status()
            assert info.cluster_id == place.made.cluster.cluster_id
            assert info.users == 2
            results = await app.change_users([
                m.UserChange("delete", CAROL.principal),
                m.UserChange("eat", CAROL.principal),
            ])
            assert [result.code for result in results.results] == ["", "invalid_argument"]
