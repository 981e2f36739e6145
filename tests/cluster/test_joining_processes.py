"""Two hosts become a cluster by the command line alone: invite, approve, use, revoke."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ostnode.env import SystemRng
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, PrincipalKind
from ostnode.keyfiles import create_key_file
from ostnode.node.layout import Listeners, NewCluster, NewRole, key_at
from ostnode.node.memory import MembershipFile
from tests.support.hosts import Host, loopback_hosts, namespaces

pytestmark = pytest.mark.system
DEADLINE_S = 40
INDEX_PORTS, BUCKET_PORTS, OTHER_PORTS = (
    range(19_100, 19_103),
    range(19_110, 19_113),
    range(19_120, 19_123),
)


def listeners(host: Host, ports: range) -> Listeners:
    return Listeners(*(f"{host.address}:{port}" for port in ports))


class World:
    """An index on the first host, an operator beside it, and what they print."""

    def __init__(self, root: Path, hosts: tuple[Host, Host]) -> None:
        self.root = root
        self.here, self.there = hosts
        self.began: dict[str, int] = {}
        rng = SystemRng()
        self.cluster_id = ClusterId(rng.token(16))
        index = NewRole.at(root, "index", listeners(self.here, INDEX_PORTS), rng)
        new = NewCluster(self.cluster_id, key_at(root / "app.key", rng), index, [])
        (root / "index.toml").write_text(new.top() + new.index_table())
        self.operator = new.app
        self.index, self.http = index.key.principal, index.listeners.http
        self.target = (
            f"{index.key.principal.text(PrincipalKind.INDEX)}@http://{index.listeners.http}"
        )

    def bucket(self, name: str, ports: range, *, join: str = "") -> str:
        """Write a bucket's config; its principal."""
        at = listeners(self.there, ports)
        key_file = self.root / f"{name}.key"
        if not key_file.exists():
            create_key_file(key_file)
        (self.root / f"{name}.toml").write_text(
            f"""\
cluster_id = "{self.cluster_id}"
[[bucket]]
key_file = "{name}.key"
data_dir = "{name}"
http = "{at.http}"
peer = "{at.peer}"
admin = "{at.admin}"
join = "{join}"
segment_bytes = "64MiB"
"""
        )
        return key_at(key_file, SystemRng()).principal.text(PrincipalKind.BUCKET)

    @contextmanager
    def running(self, name: str, host: Host) -> Iterator[subprocess.Popen[bytes]]:
        """`ostnode run` on a host, ended in order."""
        command = [*host.prefix, sys.executable, "-m", "ostnode", "run", f"{name}.toml"]
        with (self.root / f"{name}.log").open("ab") as log:
            self.began[name] = log.tell()
            process = subprocess.Popen(command, cwd=self.root, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            try:
                code = process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
        assert code == 0, self.log(name)

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text()[-4000:]

    def tell(self, *arguments: object, code: int = 0, key: str = "app.key") -> dict:
        """A command of the operator's on the index's host, which must end with `code`."""
        options = ["--index", self.target, "--key", key, "--json"]
        return self.command(self.here, *arguments, *options, code=code)

    def command(self, host: Host, *arguments: object, code: int = 0) -> dict:
        """Any command on a host."""
        done = subprocess.run(
            [*host.prefix, sys.executable, "-m", "ostnode", *map(str, arguments)],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (done.args, done.stdout, done.stderr, self.log("index"))
        return json.loads(done.stderr if code else done.stdout)

    def states(self) -> dict[str, tuple[str, str | None]]:
        """As members, and as places for blobs."""
        placed = {
            each["principal"]: each["state"] for each in self.tell("cluster", "status")["buckets"]
        }
        return {
            each["principal"]: (each["state"], placed.get(each["principal"]))
            for each in self.tell("bucket", "ls")["members"]
        }

    def await_state(self, bucket: str, *wanted: str | None) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while (found := self.states().get(bucket)) != wanted:
            assert time.monotonic() < deadline, (found, self.log("index"))
            time.sleep(0.2)

    def await_log(self, name: str, text: str) -> None:
        """Wait for what it says since it was started last."""
        deadline = time.monotonic() + DEADLINE_S
        while text.encode() not in (self.root / f"{name}.log").read_bytes()[self.began[name] :]:
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.1)


@pytest.fixture(params=[namespaces, loopback_hosts], ids=["namespaces", "loopback"])
def world(request, tmp_path: Path) -> Iterator[World]:
    with request.param() as hosts:
        made = World(tmp_path, hosts)
        with made.running("index", made.here):
            made.await_log("index", "role_listening")
            yield made


def put(world: World, data: bytes) -> dict:
    file = world.root / "blob"
    file.write_bytes(data)
    return world.tell("blob", "put", file)


def test_a_bucket_on_another_host_joins_works_and_is_shut_out(world: World) -> None:
    user = world.operator.principal.text(PrincipalKind.USER)
    world.tell("user", "add", user, "--limit", "1GiB")
    token = world.tell("bucket", "invite", "--label", "there")["join"]
    bucket = world.bucket("bucket", BUCKET_PORTS, join=token)
    with world.running("bucket", world.there):
        world.await_state(bucket, "pending", None)
        world.tell("bucket", "approve", bucket)
        world.await_state(bucket, "approved", "active")
        made = put(world, os.urandom(3 << 20))
        assert made["bucket"] == f"{bucket}@http://{world.there.address}:{BUCKET_PORTS[0]}"

    # The token is used up, for the next bucket and for whoever finds it in a file.
    other = world.bucket("other", OTHER_PORTS, join=token)
    with world.running("other", world.there):
        world.await_log("other", "join_refused")
    assert other not in world.states()

    # The bucket remembers its index.
    membership = world.root / "bucket" / "membership"
    assert membership.stat().st_mode & 0o777 == 0o600
    world.bucket("bucket", BUCKET_PORTS)
    with world.running("bucket", world.there):
        world.await_log("index", "membership_changed")
        out = world.root / "out"
        world.tell("blob", "get", made["blob_id"], "--out", out)
        assert out.stat().st_size == 3 << 20
        # A new key while it runs; it is taken up at the next start.
        changed = world.command(world.there, "bucket", "rotate-key", "bucket.toml", "--json")
        assert changed["bucket"] == bucket != changed["key"]
        world.await_log("bucket", "restart_for_new_key")
        world.tell("blob", "get", made["blob_id"], "--out", out)
    with world.running("bucket", world.there):
        world.await_state(bucket, "approved", "active")
        world.tell("blob", "get", made["blob_id"], "--out", out)
        world.tell("bucket", "revoke", bucket)
        assert world.states()[bucket] == ("revoked", "revoked")
        world.await_log("bucket", "link ended")
        world.tell("bucket", "approve", bucket)
        world.await_state(bucket, "approved", "active")
        put(world, b"back again")


def test_only_an_operator_may_invite_and_only_in_time(world: World) -> None:
    create_key_file(world.root / "stranger.key")
    refused = world.tell("bucket", "invite", code=4, key="stranger.key")
    assert refused["error"]["code"] == "not_authorized"
    short = world.tell("bucket", "invite", "--ttl", "1s")["join"]
    withdrawn = world.tell("bucket", "invite")
    world.tell("bucket", "revoke", withdrawn["invite"])
    time.sleep(1.1)
    for name, token in (("late", short), ("gone", withdrawn["join"])):
        world.bucket(name, BUCKET_PORTS, join=token)
        with world.running(name, world.there):
            world.await_log(name, "join_refused")
    assert world.states() == {}


def test_the_index_takes_a_new_key_over_tls(tmp_path: Path) -> None:
    """In two starts; the bucket's config says nothing of it, and stays as it is."""
    with loopback_hosts() as hosts:
        world = World(tmp_path, hosts)
        config = tmp_path / "index.toml"
        new = KeyPair.from_seed(create_key_file(tmp_path / "index-2.key"))
        with world.running("index", world.here):
            world.await_log("index", "role_listening")
            user = world.operator.principal.text(PrincipalKind.USER)
            world.tell("user", "add", user, "--limit", "1GiB")
            token = world.tell("bucket", "invite", "--auto-approve")["join"]
        bucket = world.bucket("bucket", BUCKET_PORTS, join=token)
        with world.running("bucket", world.there):
            text = config.read_text()
            config.write_text(text.replace("[index]", '[index]\nnext_key_file = "index-2.key"'))
            with world.running("index", world.here):
                world.await_log("index", "role_listening")
                world.await_state(bucket, "approved", "active")
                made = put(world, b"granted by the old key")
                deadline = time.monotonic() + DEADLINE_S
                while new.principal not in MembershipFile(tmp_path / "bucket").load().index_names():
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            config.write_text(text.replace("index.key", "index-2.key"))
            with world.running("index", world.here):
                world.await_log("index", "role_listening")
                # Clients may still name the old key, or already the new one.
                for key in (world.index, new.principal):
                    world.target = f"{key.text(PrincipalKind.INDEX)}@http://{world.http}"
                    put(world, b"granted by the new key " + key)
                world.tell("blob", "get", made["blob_id"], "--out", tmp_path / "out")
                assert world.states()[bucket] == ("approved", "active")
                seen = world.tell("cluster", "status")["buckets"][0]["last_seen"]
                deadline = time.monotonic() + DEADLINE_S
                while world.tell("cluster", "status")["buckets"][0]["last_seen"] <= seen:
                    assert time.monotonic() < deadline, world.log("bucket")
                    time.sleep(0.2)
