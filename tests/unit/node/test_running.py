"""Whole nodes on real loopback sockets: start, readiness, stop."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
import trio

from ostnode.cli.demo.visitor import Visitor
from ostnode.client import Client, connect
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import encode_text
from ostnode.keyfiles import KeyFileError
from ostnode.node.errors import StartError
from ostnode.node.listeners import Bound
from ostnode.node.role import RoleReadiness
from ostnode.node.running import run_node, run_until_signalled
from ostnode.node.seams import Seams
from ostnode.wire.messages import BucketAddress
from tests.support.nodes import Made, one_process
from tests.support.people import blob_of

pytestmark = pytest.mark.slow


def a_free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return one_process(tmp_path, index_peer=f"127.0.0.1:{a_free_port()}")


@asynccontextmanager
async def running(made: Made) -> AsyncIterator[tuple[Sequence[Bound], trio.Event]]:
    """The node, and the event that stops it; the block ends when the node has stopped."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        bounds = await nursery.start(partial(run_node, made.config, Seams(), stop=stop))
        yield bounds, stop
        stop.set()


@asynccontextmanager
async def client_of(made: Made, bounds: Sequence[Bound], key: KeyPair) -> AsyncIterator[Client]:
    index = made.cluster.index.key.principal
    async with connect(f"http://{bounds[0].http}", key, index=index) as client:
        yield client


async def test_a_node_serves_what_its_config_names(made: Made) -> None:
    key = made.app
    with trio.fail_after(20):
        async with running(made) as (bounds, _), client_of(made, bounds, key) as client:
            await client.register_user(key.principal, 1 << 20)
            uploaded = await client.upload(b"some bytes")
            assert uploaded.bucket.http == f"http://{bounds[1].http}"
            assert await client.read(key.principal, uploaded.reference.blob_id) == b"some bytes"


async def test_b51_stopping_finishes_what_is_in_flight(made: Made) -> None:
    """A chunk whose body is half sent when the node is told to stop is stored and answered."""
    key, data = made.app, b"first half, second half"
    with trio.fail_after(20):
        async with running(made) as (bounds, stop), client_of(made, bounds, key) as client:
            await client.register_user(key.principal, 1 << 20)
            answer = await push_slowly(client, key, data, stop)
            assert answer.status_code == 200
            assert answer.headers["connection"] == "close"
        async with running(made) as (bounds, _), client_of(made, bounds, key) as client:
            moved = BucketAddress(made.cluster.buckets[0].key.principal, f"http://{bounds[1].http}")
            read = await client.read(key.principal, blob_of(data), bucket=moved)
            assert read == data


async def test_b51_the_deadline_cuts_who_never_finishes(made: Made) -> None:
    key = made.app
    with trio.fail_after(20):
        async with running(made) as (bounds, stop), client_of(made, bounds, key) as client:
            await client.register_user(key.principal, 1 << 20)
            started = trio.current_time()
            with pytest.raises(httpx2.TransportError):
                await push_slowly(client, key, b"never all", stop, pause_s=4)
        assert 1.5 < trio.current_time() - started < 6


async def push_slowly(
    client: Client, key: KeyPair, data: bytes, stop: trio.Event, pause_s: float = 0.7
) -> httpx2.Response:
    """Push a one-chunk blob and set `stop` in the middle of its body."""
    allocation = await client.allocated_bucket(blob_of(data), len(data))

    async def halves() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        await trio.sleep(0.1)
        stop.set()
        await trio.sleep(pause_s)
        yield data[len(data) // 2 :]

    async with httpx2.AsyncClient(timeout=30) as http:
        visitor = Visitor(http, allocation.bucket)
        await visitor.log_in(key)
        headers = visitor.headers | {
            "Ost-Grant": encode_text(allocation.grant),
            "Ost-Chunk-Index": "0",
            "Content-Length": str(len(data)),
        }
        url = f"{allocation.bucket.http}/v1/chunks"
        return await http.post(url, content=halves(), headers=headers)


async def test_b46_a_second_node_on_the_same_data_is_refused(made: Made) -> None:
    """As the operator meets it: the message names the file and what to look at."""
    elsewhere = made.file.with_name("again.toml")
    elsewhere.write_text(made.text_with_index_peer(f"127.0.0.1:{a_free_port()}"))
    expected = pytest.RaisesExc(StartError, match="in use", check=_hints_at("index.data_dir"))
    with trio.fail_after(20):
        async with running(made):
            with pytest.RaisesGroup(expected, flatten_subgroups=True):
                async with running(Made(elsewhere, made.cluster)):
                    raise AssertionError("it runs")


async def test_a_taken_port_is_named_with_its_key(made: Made) -> None:
    host, port = made.cluster.index.listeners.peer.split(":")
    expected = pytest.RaisesExc(
        StartError, match="^index.peer cannot listen: Address already in use$"
    )
    with closing(socket.socket()) as taken, trio.fail_after(20):
        taken.bind((host, int(port)))
        taken.listen()
        with pytest.RaisesGroup(expected, flatten_subgroups=True):
            async with running(made):
                raise AssertionError("it runs")


async def test_a_missing_key_is_told_before_anything_is_made(made: Made) -> None:
    (made.file.parent / "index.key").unlink()
    with pytest.RaisesGroup(KeyFileError, flatten_subgroups=True), trio.fail_after(20):
        async with running(made):
            raise AssertionError("it runs")
    assert not (made.file.parent / "index").exists()


def _hints_at(key: str) -> Callable[[StartError], bool]:
    return lambda error: key in error.hint


def test_readiness_goes_from_starting_to_serving_to_stopping() -> None:
    readiness = RoleReadiness()
    assert readiness.checks() == {"serving": "starting"}
    readiness.serving(lambda: {"index": "the index is not reachable"})
    assert readiness.checks() == {"serving": "", "index": "the index is not reachable"}
    readiness.stopping()
    assert readiness.checks()["serving"] == "stopping"


async def test_a_node_ends_with_whoever_holds_its_standard_input(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    with trio.fail_after(20):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(fileno=lambda: reader))
        async with trio.open_nursery() as nursery:

            async def run(task_status: trio.TaskStatus[Sequence[Bound]]) -> None:
                await run_until_signalled(made.config, until_eof=True, task_status=task_status)
                nursery.cancel_scope.cancel()

            await nursery.start(run)
            os.write(writer, b"what is said does not matter")
            with trio.move_on_after(0.3) as going_on:
                await trio.sleep_forever()
            assert going_on.cancelled_caught
            os.close(writer)
            await trio.sleep_forever()
    os.close(reader)
