"""A node's HTTP data plane against bare ASGI applications, interleaved, medians of rounds.

Over 16 keep-alive connections: GET of 64 KiB and of 1 MiB with session and token, and durable
pushes of 1 MiB chunks, from and to a real node (`ostnode run`, an index and a bucket, bytes on
disk). The reference serves the same bytes from memory, and reads and discards bodies, as a bare
ASGI application on stock hypercorn: its goal is a ratio of 0.6. The same application on the
server that the node uses shows what sessions, tokens, grants and the store cost.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from itertools import count, islice
from pathlib import Path

import httpx2
import hypercorn.trio
import trio
from hypercorn.config import Config

from ostnode.client import Client, connect, mint_read
from ostnode.config import HttpLimits
from ostnode.env import SystemClock, SystemRng
from ostnode.identity.keys import KeyPair
from ostnode.identity.sessions import Login, mint_login
from ostnode.identity.statements import encode_text
from ostnode.ids import BlobId, ClusterId, Principal, PrincipalKind
from ostnode.node.layout import Listeners, NewCluster, NewRole
from ostnode.web.serve import serve_http
from ostnode.wire import messages as m

CONNECTIONS = 16
ROUNDS = 5
KIB, MIB = 1 << 10, 1 << 20
REQUESTS = {"get_64k": 1500, "get_1m": 600, "push_1m": 320}
GOAL = 0.6
BODIES = {"/64k": bytes(64 * KIB), "/1m": bytes(MIB)}
RNG = SystemRng()


# --- the references -----------------------------------------------------------------------------


async def bare(scope, receive, send) -> None:
    """Serves bytes from memory; reads and discards bodies."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    body = BODIES.get(scope["path"], b"ok")
    while scope["method"] == "POST" and (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def serve_bare(server: str) -> None:
    """Run a reference until killed; its address is the first line printed."""
    if server == "hypercorn":
        config = Config()
        config.bind, config.errorlog = ["127.0.0.1:0"], None
        config.keep_alive_max_requests = 1 << 30
        serve = partial(hypercorn.trio.serve, bare, config)
    else:
        serve = partial(serve_http, bare, "127.0.0.1:0", HttpLimits())
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(serve)
        print(bound[0] if isinstance(bound, list) else bound, flush=True)


@contextmanager
def reference(server: str) -> Iterator[int]:
    """The port of a reference in a process of its own."""
    command = [sys.executable, __file__, "--serve", server]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.kill()


# --- the node -----------------------------------------------------------------------------------


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [sock.getsockname()[1] for sock in sockets]


class Cluster:
    """A node process with an index and a bucket, and the requests that load it."""

    def __init__(self, root: Path) -> None:
        self.app, self.user, self.chat = (KeyPair.generate(RNG) for _ in range(3))
        self.cluster_id = ClusterId(RNG.token(16))
        ports = [f"127.0.0.1:{port}" for port in free_ports(6)]
        self.index = NewRole.at(root, "index", Listeners(*ports[:3]), RNG)
        self.bucket = NewRole.at(root, "bucket", Listeners(*ports[3:]), RNG)
        layout = NewCluster(self.cluster_id, self.app, self.index, [self.bucket])
        self._config = root / "node.toml"
        text = layout.top() + layout.index_table() + layout.bucket_table(self.bucket)
        # The log's lines would be measured too: they cost the same whoever answers.
        self._config.write_text(text.replace('level = "info"', 'level = "warning"'))

    @contextmanager
    def running(self) -> Iterator[None]:
        """The node's process."""
        command = [sys.executable, "-m", "ostnode", "run", str(self._config)]
        with subprocess.Popen(command) as process:
            try:
                yield
            finally:
                process.terminate()

    @asynccontextmanager
    async def client(self, key: KeyPair) -> AsyncIterator[Client]:
        """A client of the index."""
        url = f"http://{self.index.listeners.http}"
        async with connect(url, key, index=self.index.key.principal) as client:
            yield client

    async def load(self) -> dict[str, Iterator[bytes]]:
        """The requests of each case, once the cluster holds what they ask for."""
        async with self.client(self.app) as app:
            await app.register_user(self.user.principal, 64 << 30)
        chunks = REQUESTS["push_1m"] * ROUNDS + 1  # the last is never sent
        async with self.client(self.user) as user:
            small, large = [
                (await upload_patiently(user, RNG.token(size), self.chat.principal)).blob_id
                for size in (64 * KIB, MIB)
            ]
            grant = await user.allocated_bucket(BlobId(RNG.token(32)), chunks * MIB)
        session = await self._session()
        return {
            "get_64k": self._gets(small, session),
            "get_1m": self._gets(large, session),
            "push_1m": self._pushes(grant.grant, session),
        }

    async def _session(self) -> str:
        bucket = self.bucket.key.principal
        login = Login(self.user.principal, bucket, "", int(SystemClock().now()), RNG.token(16))
        async with httpx2.AsyncClient(trust_env=False) as http:
            answer = await http.post(
                f"http://{self.bucket.listeners.http}/v1/session",
                json={"login": encode_text(mint_login(self.user, login))},
            )
        return str(answer.json()["session"])

    def _gets(self, blob_id: BlobId, session: str) -> Iterator[bytes]:
        token = mint_read(self.chat, self.user.principal, cluster_id=self.cluster_id)
        accessor = self.chat.principal.text(PrincipalKind.ACCESSOR)
        target = f"/{accessor}/{blob_id}?token={encode_text(token)}"
        while True:
            yield request("GET", target, [f"Authorization: OST {session}"])

    def _pushes(self, grant: bytes, session: str) -> Iterator[bytes]:
        body = RNG.token(MIB)
        for index in count():
            lines = [
                f"Authorization: OST {session}",
                f"Ost-Grant: {encode_text(grant)}",
                f"Ost-Chunk-Index: {index}",
                f"Ost-Accessors: {self.chat.principal.text(PrincipalKind.ACCESSOR)}",
                "Content-Type: image/png",
            ]
            yield request("POST", "/v1/chunks", lines, body)


async def upload_patiently(user: Client, data: bytes, chat: Principal) -> m.BlobReference:
    """Upload; the client's retries wait until the bucket has reached the index."""
    return (await user.upload(data, accessors=[chat], content_type="image/png")).reference


def request(method: str, target: str, lines: Sequence[str], body: bytes = b"") -> bytes:
    """One request's bytes."""
    head = [f"{method} {target} HTTP/1.1", "Host: bench", *lines, f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


# --- the load -----------------------------------------------------------------------------------


class Lane:
    """One connection: sends a request, reads its answer, asks for the next."""

    def __init__(self, port: int, buffer: bytearray) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self._buffer = buffer
        self._unsent = memoryview(b"")
        self._left = 0

    def ask(self, asked: bytes) -> None:
        """Begin with a request."""
        self._unsent, self._left = memoryview(asked), -1

    def write(self) -> bool:
        """Send what the socket takes; True when all of it has left."""
        self._unsent = self._unsent[self.sock.send(self._unsent) :]
        return not self._unsent

    def read(self) -> bool:
        """Receive what is there; True when the answer is whole."""
        received = self.sock.recv_into(self._buffer)
        if self._left < 0:
            head, _, body = bytes(self._buffer[:received]).partition(b"\r\n\r\n")
            if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
                raise RuntimeError(head.decode(errors="replace") or "the server closed")
            (length,) = (
                int(line[15:])
                for line in head.lower().split(b"\r\n")
                if line[:15] == b"content-length:"
            )
            self._left = length - len(body)
        else:
            self._left -= received
        return self._left == 0


def rate(port: int, requests: Iterator[bytes]) -> float:
    """Answers per second over all lanes, until the requests are used up."""
    buffer = bytearray(MIB)
    done = 0
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        for asked in islice(requests, CONNECTIONS):
            lane = Lane(port, buffer)
            stack.callback(lane.sock.close)
            lane.ask(asked)
            selector.register(lane.sock, selectors.EVENT_WRITE, lane)
        started = time.perf_counter()
        while selector.get_map():
            for key, _ in selector.select(10):
                lane = key.data
                if key.events == selectors.EVENT_WRITE:
                    if lane.write():
                        selector.modify(lane.sock, selectors.EVENT_READ, lane)
                elif lane.read():
                    done += 1
                    asked = next(requests, None)
                    if asked is None:
                        selector.unregister(lane.sock)
                    else:
                        lane.ask(asked)
                        selector.modify(lane.sock, selectors.EVENT_WRITE, lane)
        return done / (time.perf_counter() - started)


def measure(directory: Path) -> dict[str, float]:
    """Medians over the rounds, and the ratios of them."""
    cluster = Cluster(directory)
    figures: dict[str, list[float]] = {}
    with cluster.running(), reference("hypercorn") as stock, reference("ours") as ours:
        asked = trio.run(cluster.load)
        body = os.urandom(MIB)
        bare_requests = {
            "get_64k": request("GET", "/64k", []),
            "get_1m": request("GET", "/1m", []),
            "push_1m": request("POST", "/", [], body),
        }
        node = int(cluster.bucket.listeners.http.rpartition(":")[2])
        for _ in range(ROUNDS):
            for case, number in REQUESTS.items():
                plain = [bare_requests[case]] * number
                for name, port, requests in (
                    ("hypercorn", stock, iter(plain)),
                    ("bare", ours, iter(plain)),
                    ("node", node, islice(asked[case], number)),
                ):
                    figures.setdefault(f"{case}_{name}_per_s", []).append(rate(port, requests))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    for case in REQUESTS:
        found = medians[f"{case}_node_per_s"]
        medians[f"{case}_ratio"] = found / medians[f"{case}_hypercorn_per_s"]
        medians[f"{case}_bare_ratio"] = found / medians[f"{case}_bare_per_s"]
    return medians


def main() -> int:
    """Measure, print, and say whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--dir", type=Path, help="where to write (default: the temporary directory)"
    )
    parser.add_argument("--serve", choices=["hypercorn", "ours"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        trio.run(serve_bare, arguments.serve)
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
        figures = measure(Path(directory))
    if arguments.json:
        print(json.dumps(figures))
        return 0
    for case in REQUESTS:
        print(
            f"{case:8} node {figures[f'{case}_node_per_s']:6.0f} /s"
            f"  stock hypercorn {figures[f'{case}_hypercorn_per_s']:6.0f} /s"
            f"  ratio {figures[f'{case}_ratio']:.2f} (goal >= {GOAL:.2f})"
            f"  bare on our server {figures[f'{case}_bare_per_s']:6.0f} /s"
            f"  ratio {figures[f'{case}_bare_ratio']:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
