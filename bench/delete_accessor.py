"""A chat of 100 thousand references is deleted while a bucket serves: what others notice of it.

The bucket runs in this process, the index in another, over one peer link on loopback, both on real
files. All the while 8 tasks read 64 KiB of other chats' blobs with tokens and 4 push new blobs of
4 KiB, each taking a rest after every request; their latencies before are compared with those from
the call until the bucket has removed every reference, told the index, and the index has given all
the bytes back.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

import trio
from blake3 import blake3
from support.indexes import CLUSTER, INDEX_KEY, LIMIT, loading, opened_index, principal
from support.rounds import (
    Figures,
    Ratio,
    add_directory,
    arguments_parser,
    print_json,
    print_ratios,
    served,
    with_ratios,
)

from ostnode.env import SystemClock, SystemRng, ThreadWorker
from ostnode.identity.grants import Grant, mint_grant
from ostnode.identity.keys import KeyPair, verify
from ostnode.identity.tokens import AccessToken, Scope, mint_access
from ostnode.ids import BlobId, GrantId, Uid
from ostnode.net.link import Link, open_link
from ostnode.net.serve import serve_link
from ostnode.net.transport import TcpNetwork
from ostnode.roles.bucket.opening import Bucket, open_bucket
from ostnode.roles.bucket.options import BucketOptions
from ostnode.roles.bucket.payloads import encode_payload
from ostnode.roles.bucket.records import Commit, Kind, ReferenceAdded
from ostnode.roles.bucket.schema import BucketSchema
from ostnode.roles.bucket.tables import INCARNATION, OUTBOX_ACKED, OUTBOX_NEXT
from ostnode.roles.index.core.rows import Charge, Placement, User
from ostnode.store.disk import RealDisk
from ostnode.store.record import NewRecord
from ostnode.store.store import open_store
from ostnode.wire import calls
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller

REFERENCES, USERS, GROUP = 100_000, 100, 300
PAYLOAD_BYTES, READ_BYTES, PUSH_BYTES, CHUNK_BYTES = 64, 64 << 10, 4 << 10, 1 << 20
READERS, READ_REST_S, PUSHERS, PUSH_REST_S = 8, 0.01, 4, 0.02
BEFORE_S, POLL_S = 10.0, 0.2
BUCKET_KEY, APP_KEY, READER = KeyPair(b"b" * 32), KeyPair(b"a" * 32), KeyPair(b"r" * 32)
DELETED, OTHER = KeyPair(b"d" * 32), KeyPair(b"o" * 32)
HTTP = "http://127.0.0.1:1"
RATIOS = (
    Ratio("read_p99_ratio", "reads, p99 ms; before", "read_p99_ms", "read_p99_before_ms", "<= 3"),
    Ratio("push_p99_ratio", "pushes, p99 ms; before", "push_p99_ms", "push_p99_before_ms", "<= 3"),
    Ratio("read_ratio", "reads, median ms; before", "read_ms", "read_before_ms"),
    Ratio("push_ratio", "pushes, median ms; before", "push_ms", "push_before_ms"),
)


def blob(number: int) -> tuple[BlobId, bytes]:
    """A small blob of the chat that is to go."""
    payload = number.to_bytes(PAYLOAD_BYTES, "big")
    return BlobId(blake3(payload).digest()), payload


def uid(number: int) -> Uid:
    """Whose the blob with this number is."""
    return Uid((1 + number % USERS).to_bytes(8, "big"))


# --- the index, in a process of its own ---


def load(directory: Path) -> None:
    """Users and their charges for the blobs of the chat."""
    used = REFERENCES // USERS * PAYLOAD_BYTES
    blobs = [(number, blob(number)[0]) for number in range(REFERENCES)]
    bucket = BUCKET_KEY.principal
    with loading(directory) as insert:
        insert(User, "users", [
            (uid(n), principal(n), LIMIT, "refuse", used, 0, REFERENCES // USERS, 0, 1, 0)
            for n in range(USERS)
        ])  # fmt: skip
        insert(Charge, "charges", [(uid(n), b, bucket, PAYLOAD_BYTES, 1, 0) for n, b in blobs])
        insert(Placement, "placements", [(b, bucket, 0, 1, 0) for _, b in blobs])


async def serve(directory: Path) -> None:
    """Serve the index; print where."""
    async with opened_index(directory, [BUCKET_KEY.principal]):
        pass
    load(directory)
    kinds = {APP_KEY.principal: calls.Kind.APP, BUCKET_KEY.principal: calls.Kind.BUCKET}
    async with opened_index(directory, [BUCKET_KEY.principal]) as service:

        async def link(stream: trio.SocketStream) -> None:
            await serve_link(
                stream,
                signer=INDEX_KEY,
                verify=verify,
                services={calls.Kind.INDEX: service},
                kinds_of=lambda who: frozenset({kinds[who]}),
                rng=SystemRng(),
            )

        async with trio.open_nursery() as nursery:
            print(await nursery.start(TcpNetwork().serve, "127.0.0.1:0", link), flush=True)


def dial(address: str, key: KeyPair):
    """A link to the index."""
    return open_link(
        TcpNetwork(),
        address,
        signer=key,
        verify=verify,
        expect=INDEX_KEY.principal,
        rng=SystemRng(),
    )


# --- the bucket ---


def options() -> BucketOptions:
    """A bucket of that index."""
    return BucketOptions(
        principal=BUCKET_KEY.principal, index=INDEX_KEY.principal, cluster_id=CLUSTER
    )


async def build(directory: Path) -> None:
    """Fill the bucket's log with the chat's blobs, and one of another chat's to be read."""
    async with open_store(
        RealDisk(directory),
        options().store,
        BucketSchema(),
        owner=BUCKET_KEY.principal,
        worker=ThreadWorker(1),
        clock=SystemClock(),
        rng=SystemRng(),
    ) as store:
        uploads = upload_records()
        while group := list(islice(uploads, GROUP)):
            await store.commit([record for records in group for record in records])


def upload_records():
    """The records of each upload, as they are left once its grant is forgotten."""
    large = bytes(READ_BYTES)
    yield records_of(REFERENCES + 1, BlobId(blake3(large).digest()), large, OTHER)
    for number in range(REFERENCES):
        yield records_of(number + 1, *blob(number), DELETED)


def records_of(number: int, blob_id: BlobId, payload: bytes, chat: KeyPair) -> list[NewRecord]:
    commit = Commit(len(payload), CHUNK_BYTES, 1)
    reference = ReferenceAdded(uid(number - 1), chat.principal, b"", "image/png", None, 0, 1)
    return [
        NewRecord(Kind.CHUNK, payload, blob_id, number),
        NewRecord(Kind.COMMIT, encode_payload(commit), blob_id, number),
        NewRecord(Kind.REFERENCE_ADDED, encode_payload(reference), blob_id),
    ]


class Clients:
    """Others' requests to the bucket, and how long each took, by phase."""

    def __init__(self, bucket: Bucket, incarnation: int) -> None:
        self._bucket, self._incarnation = bucket, incarnation
        self._numbers = count(1)
        self._caller = Caller(READER.principal)
        self.took: dict[str, list[float]] = {"read": [], "push": []}

    async def run(self) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(self._read_on)
            for _ in range(PUSHERS):
                nursery.start_soon(self._push_on)

    def phase(self) -> dict[str, list[float]]:
        """What was taken since the last phase."""
        took, self.took = self.took, {"read": [], "push": []}
        return took

    async def _read_on(self) -> None:
        blob_id, now = BlobId(blake3(bytes(READ_BYTES)).digest()), int(time.time())
        claims = (OTHER.principal, CLUSTER, READER.principal, Scope.READ, now, now + 600)
        token = mint_access(OTHER, AccessToken(*claims, cti=SystemRng().token(16)))
        while True:
            start = time.perf_counter()
            reader = await self._bucket.service.open_blob(
                self._caller, OTHER.principal, blob_id, token
            )
            await reader.read(0, READ_BYTES)
            self.took["read"].append(time.perf_counter() - start)
            await trio.sleep(READ_REST_S)

    async def _push_on(self) -> None:
        while True:
            body = next(self._numbers).to_bytes(8, "big") * (PUSH_BYTES // 8)
            grant = mint_grant(INDEX_KEY, self._grant(body))
            request = m.PushChunk(grant, 0, accessors=(OTHER.principal,))
            start = time.perf_counter()
            reply = await self._bucket.service.handle(self._caller, request, body)
            assert reply.message.missing == 0
            self.took["push"].append(time.perf_counter() - start)
            await trio.sleep(PUSH_REST_S)

    def _grant(self, body: bytes) -> Grant:
        now = int(time.time())
        return Grant(
            grant_id=GrantId(self._incarnation.to_bytes(8, "big") + SystemRng().token(8)),
            index=INDEX_KEY.principal,
            bucket=BUCKET_KEY.principal,
            bucket_incarnation=self._bucket.desk.durable.number(INCARNATION),
            user=READER.principal,
            uid=Uid(b"r" * 8),
            blob_id=BlobId(blake3(body).digest()),
            size=len(body),
            chunk_bytes=CHUNK_BYTES,
            reserved=len(body),
            issued_at=now,
            expires_at=now + 600,
        )


async def until(done: Callable[[], bool]) -> None:
    """Look again and again."""
    while not done():  # noqa: ASYNC110  what is looked at has no events for benchmarks
        await trio.sleep(POLL_S)


async def deleted_everywhere(bucket: Bucket, app: Link) -> tuple[float, float]:
    """Seconds until no reference is left, and until the index has heard of all."""
    state, chat = bucket.desk.state, DELETED.principal
    start = time.perf_counter()
    await app.call(m.DeleteAccessor(chat))
    await until(lambda: next(iter(state.references_for(chat)), None) is None)
    removed_s = time.perf_counter() - start
    # What is pushed meanwhile queues behind these.
    last = state.number(OUTBOX_NEXT) - 1
    await until(lambda: state.number(OUTBOX_ACKED) >= last)
    for number in range(USERS):
        info = (await app.call(m.GetUser(principal(number)))).message
        assert info.allowance.used == 0, info
    return removed_s, time.perf_counter() - start


async def measure(directory: Path, address: str) -> Figures:
    """Both phases' figures."""
    await build(directory)
    figures = Figures()
    async with (
        open_bucket(
            options(),
            disk=RealDisk(directory),
            clock=SystemClock(),
            rng=SystemRng(),
            worker=ThreadWorker(1),
            read_worker=ThreadWorker(4),
        ) as bucket,
        dial(address, BUCKET_KEY) as link,
        dial(address, APP_KEY) as app,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(bucket.sync.run, link, HTTP)
        await until(lambda: bucket.desk.durable.feed_cursor()[0] != 0)
        clients = Clients(bucket, bucket.desk.durable.feed_cursor()[0])
        nursery.start_soon(clients.run)
        await trio.sleep(1)
        clients.phase()
        await trio.sleep(BEFORE_S)
        note(figures, clients.phase(), "_before")
        removed, refunded = await deleted_everywhere(bucket, app)
        note(figures, clients.phase(), "")
        figures.note("removed_s", removed)
        figures.note("refunded_s", refunded)
        nursery.cancel_scope.cancel()
    return figures


def note(figures: Figures, took: dict[str, list[float]], suffix: str) -> None:
    """Median and 99th percentile of each kind of request."""
    for kind, values in took.items():
        values.sort()
        figures.note(f"{kind}{suffix}_ms", values[len(values) // 2] * 1000)
        figures.note(f"{kind}_p99{suffix}_ms", values[len(values) * 99 // 100] * 1000)


def main() -> int:
    """Measure, and print beside the goals."""
    parser = arguments_parser(__doc__)
    add_directory(parser)
    parser.add_argument("--serve", type=Path, help="for its own use")
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve, arguments.serve)
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.dir) as name:
        directory = Path(name)
        with served(__file__, "--serve", str(directory / "index")) as (address,):
            figures = trio.run(measure, directory / "bucket", address)
    if arguments.json:
        print_json(with_ratios(figures, RATIOS))
        return 0
    print_ratios(figures, RATIOS, 2)
    medians = figures.medians()
    print(
        f"{REFERENCES} references removed after {medians['removed_s']:.1f} s,"
        f" their bytes given back after {medians['refunded_s']:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
