"""Buckets made when there are too few: real processes on this host, and an operator's command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from ostnode.cli.demo.processes import Cluster, NodeProcess, lay_out, stop_all
from ostnode.cli.demo.stage import eventually
from ostnode.client import Client
from ostnode.identity.keys import KeyPair
from ostnode.node.ports import free_addresses
from ostnode.wire.fleet import FleetInfo
from tests.support.processes import client_of, processes_about

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]
DATA = b"where there was no bucket" * 1000


def with_keys(cluster: Cluster, text: str) -> None:
    """Add keys to the index's table."""
    with cluster.index.config_file.open("a") as file:
        file.write(text)


@asynccontextmanager
async def ended(nodes: list[NodeProcess]) -> AsyncIterator[None]:
    """No node is left however the block ends."""
    try:
        yield
    finally:
        with trio.move_on_after(40, shield=True):
            await stop_all(nodes)


async def wait_for_one(app: Client) -> FleetInfo:
    """The fleet once its only bucket is active."""

    async def states() -> list[str]:
        return [bucket.state for bucket in (await app.fleet_status()).buckets]

    await eventually("states of the buckets", ["active"], states)
    return await app.fleet_status()


async def store_and_read(cluster: Cluster, app: Client) -> None:
    """One blob up and down again, as a user."""
    user = KeyPair.from_seed(b"u" * 32)
    await app.register_user(user.principal, 1 << 20)
    async with client_of(cluster, user) as client:
        made = await client.upload(DATA)
        path = cluster.root / "back"
        await client.download(user.principal, made.reference.blob_id, to=path)
        assert path.read_bytes() == DATA


async def test_b35_local_starts_a_bucket_process_that_ends_and_starts_with_the_index(
    tmp_path: Path,
) -> None:
    cluster, home = lay_out(tmp_path, buckets=0), tmp_path / "provided"
    with_keys(cluster, f'target_active = 1\nprovisioner = "local"\nprovision_dir = "{home}"\n')
    async with ended([cluster.index]), client_of(cluster, cluster.app) as app:
        await cluster.index.start()
        info = await wait_for_one(app)
        await store_and_read(cluster, app)
        cluster.index.send_signal(signal.SIGKILL)
        await cluster.index.wait()
        # Nobody told it: it saw its standard input end.
        await gone(about=home)
        await cluster.index.start()
        again = await wait_for_one(app)
        assert [each.principal for each in again.buckets] == [
            each.principal for each in info.buckets
        ]
        await store_and_read(cluster, app)
        assert len(processes_about(str(home))) == 1
        assert [each.name for each in home.iterdir()] == ["bucket-1"]
        assert await cluster.index.stop() == 0
        assert processes_about(str(home)) == []


async def gone(*, about: Path | None = None, pid_file: Path | None = None) -> None:
    """Return when no process mentions the path, or the one in the file has ended."""
    with trio.fail_after(20):
        # Processes that are not ours tell nobody.
        while processes_about(str(about)) if about else is_there(pid_file):  # noqa: ASYNC110
            await trio.sleep(0.05)


def is_there(pid_file: Path | None) -> bool:
    assert pid_file is not None
    return Path(f"/proc/{pid_file.read_text().strip()}").exists()


async def test_b35_command_is_given_a_join_token(tmp_path: Path) -> None:
    """The script of the documentation, as it stands there but for its ports."""
    text = (ROOT / "docs" / "clustering.md").read_text()
    script, home = tmp_path / "new-bucket", tmp_path / "made"
    _, start, rest = text.partition("#!/bin/sh\n")
    first_port = int(free_addresses(1)[0].rpartition(":")[2])
    script.write_text(start + rest.partition("```")[0].replace("7200", str(first_port - 10)))
    home.mkdir()
    cluster = lay_out(tmp_path, buckets=0)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    command = ["/usr/bin/env", f"HOME={home}", f"PATH={path}", "sh", str(script)]
    with_keys(
        cluster,
        f'target_active = 1\nprovisioner = "command"\nprovision_command = {command}\n',
    )
    try:
        async with ended([cluster.index]), client_of(cluster, cluster.app) as app:
            await cluster.index.start()
            await wait_for_one(app)
            await store_and_read(cluster, app)
            assert [each.name for each in home.iterdir()] == ["bucket-1"]
    finally:
        with trio.move_on_after(30, shield=True):
            for file in home.rglob("bucket.pid"):
                os.kill(int(file.read_text()), signal.SIGTERM)
                await gone(pid_file=file)
